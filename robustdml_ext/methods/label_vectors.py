"""L_metric between embeddings and label vectors: what "F(x) in place of y" means for any metric loss."""

from __future__ import annotations

import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LABEL_VECTORS = ("embeddings", "classes")


def metric_to_vectors(loss: nn.Module, embeddings: Tensor, vectors: Tensor, labels: Tensor) -> Tensor:
    """L_metric(F(x̃), ỹ) with vectors ỹ in place of labels: equations 4, 6 and 7 of EAT as the paper adapts them.

    The paper replaces y by F(x), and L by the metric loss; in eq. 2, its general form, that is the anchor F(x̃), the
    label vector of its own class as the positive, and those of other classes as negatives. So
        - a loss over pairs compares each embedding with the vectors alone (its `reference`);
        - a loss over class proxies, which are label vectors that are learned, has the classes' vectors in their place.
          A class of several vectors has their centroid: "the label vector of a data sample is usually the centroid of
          the class it belongs to in the embedding space".
    The vectors are what is aimed at, as labels are: no gradient flows to them, nor to the proxies they replace.

    Args:
        loss: over pairs with a reference, or with one parameter, its proxies `[C, D]`.
        embeddings: `[B, D]`.
        vectors: `[B, D]`, row by row those of the embeddings.
        labels: classes, int64 `[B]`; vectors of one class attract all of its embeddings.

    Raises:
        TypeError: the loss has neither a reference nor proxies to replace.
    """
    vectors = vectors.detach().to(embeddings.dtype)
    if "reference" in inspect.signature(loss.forward).parameters:
        return loss(embeddings, labels, reference=vectors, reference_labels=labels)  # type: ignore[no-any-return]
    proxies = [name for name, value in loss.named_parameters() if value.dim() == 2]
    if len(proxies) != 1:
        raise TypeError(
            f"loss: {type(loss).__name__} takes no reference and has no table of proxies that label vectors could "
            "stand in for; use label_vectors 'classes'"
        )
    classes, index = labels.unique(return_inverse=True)
    units = F.normalize(vectors, dim=1)
    centroids = F.normalize(units.new_zeros(len(classes), units.shape[1]).index_add_(0, index, units), dim=1)
    found: Tensor = torch.func.functional_call(loss, {proxies[0]: centroids}, (embeddings, index))
    return found


def check_label_vectors(label_vectors: str) -> str:
    """Raises ValueError for an unknown name."""
    if label_vectors not in LABEL_VECTORS:
        raise ValueError(f"label_vectors: expected one of {', '.join(LABEL_VECTORS)}, got {label_vectors!r}")
    return label_vectors
