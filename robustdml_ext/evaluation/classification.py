"""Accuracy of closed-set classification: by logits, by predictions, or by the nearest prototype."""

from __future__ import annotations

import numpy as np
import torch

from robustdml_ext.evaluation.inputs import Array, Labels, as_labels, as_matrix, check_distance
from robustdml_ext.ops.neighbors import neighbors


def accuracy(predictions: Array | Labels, labels: Labels, k: int = 1) -> float:
    """The fraction of N examples that are classified rightly.

    `predictions`: logits or probabilities [N, C], with `labels` [N] in 0 .. C - 1 as the columns are numbered; or the
    predicted classes, integers [N], of any numbering. With logits, an example counts where fewer than `k` classes
    come before its own: those of a larger logit, and those of an equal one and a lower number (which is what
    argmax picks; a topk may pick among equals as it likes).

    Raises: TypeError, ValueError for arguments of the wrong type or shape, logits that are not finite, labels without
    a column, k < 1, or k > 1 for predicted classes.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be a positive whole number, got {k!r}")
    if not isinstance(predictions, torch.Tensor | np.ndarray) or predictions.ndim == 1:
        if k > 1:
            raise ValueError(f"k must be 1 for predicted classes, got {k}")
        if len(predictions) == 0:
            raise ValueError("predictions must not be empty")
        classes = as_labels(predictions, len(predictions), "predictions")
        return int((classes == as_labels(labels, len(classes))).sum()) / len(classes)
    logits = as_matrix(predictions, "predictions").cpu()
    own = torch.from_numpy(as_labels(labels, len(logits)))[:, None]
    if int(own.min()) < 0 or int(own.max()) >= logits.shape[1]:
        raise ValueError(
            f"labels must be in 0 .. {logits.shape[1] - 1}, the columns of the predictions; "
            f"got {int(own.min())} .. {int(own.max())}"
        )
    logit = logits.gather(1, own)
    earlier = torch.arange(logits.shape[1]) < own
    before = (logits > logit).sum(1) + ((logits == logit) & earlier).sum(1)
    return int((before < k).sum()) / len(logits)


def nearest_prototype_accuracy(
    embeddings: Array,
    labels: Labels,
    prototypes: Array,
    prototype_labels: Labels | None = None,
    distance: str = "cosine",
) -> float:
    """The fraction of `embeddings` [N, D] whose nearest of `prototypes` [C, D] is of their class.

    Prototypes are class means, for example, of the training images or of a few-shot support set. `prototype_labels`
    [C] are their classes; the default is 0 .. C - 1. A class may have several. Equal distances go to the lower
    index. In float64.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, or values that are not finite.
    """
    check_distance(distance)
    queries = as_matrix(embeddings)
    items = as_matrix(prototypes, "prototypes").to(queries.device)
    if items.shape[1] != queries.shape[1]:
        raise ValueError(f"prototypes must have the embeddings' {queries.shape[1]} dimensions, got {items.shape[1]}")
    classes = np.arange(len(items))
    if prototype_labels is not None:
        classes = as_labels(prototype_labels, len(items), "prototype_labels")
    nearest = neighbors(queries, items, 1, distance)[1][:, 0].cpu().numpy()
    return int((classes[nearest] == as_labels(labels, len(queries))).sum()) / len(queries)
