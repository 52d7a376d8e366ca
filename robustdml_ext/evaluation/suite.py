"""From a model and images to every figure of the clean protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from robustdml_ext.evaluation.chance import ami
from robustdml_ext.evaluation.clustering import f1, nmi
from robustdml_ext.evaluation.density import density
from robustdml_ext.evaluation.inputs import BACKENDS, Array, Labels, as_labels, as_matrix, check_distance, one_of, unit
from robustdml_ext.evaluation.kmeans import kmeans
from robustdml_ext.evaluation.pairs import all_pairs_eer
from robustdml_ext.evaluation.retrieval import ranking_scores, recall_at_k
from robustdml_ext.evaluation.spectrum import rho_spectrum
from robustdml_ext.evaluation.voting import check_voters
from robustdml_ext.evaluation.voting_clusters import voted_clusters
from robustdml_ext.evaluation.voting_retrieval import voted_recall_at_k


@runtime_checkable
class SequentialImages(Protocol):
    """What `robustdml_ext.data.LabeledImages` offers: all its images in order, without augmentation."""

    def iterate(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]: ...


GROUPS = ("recall", "ranking", "clustering", "ami", "density", "spectrum", "verification")
DEFAULT_GROUPS = ("recall", "clustering", "density")


def evaluate(
    embeddings: Array,
    labels: Labels,
    *,
    gallery: Array | None = None,
    gallery_labels: Labels | None = None,
    recall_at: Sequence[int] = (1, 2, 4, 8),
    clustering: bool = True,
    seed: int = 0,
    distance: str = "cosine",
    device: torch.device | str | None = None,
    metrics: str | Sequence[str] = "default",
    backend: str = "own",
    voters: Sequence[int] | None = None,
) -> dict[str, float]:
    """Every figure of `embeddings` [N, D] with `labels` [N]: fractions, not percent.

    `metrics` names groups of figures, in whose order they come; "default" is recall, clustering and density, "all" is
    all of them:

    - "recall": "recall@k" for each of `recall_at`
    - "ranking": "map@r" and "r_precision"
    - "clustering": "nmi" and "f1" of k-means (20 iterations, as many clusters as there are classes in `labels`,
      seeded by `seed`)
    - "ami": "ami" of the same clusters
    - "density": "pi_intra", "pi_inter" and "pi_ratio"
    - "spectrum": "rho_spectrum"
    - "verification": "eer" over all pairs

    `clustering=False` leaves "clustering" and "ami" out. Figures that the data leave undefined are NaN, as each
    figure's own function says.

    With `gallery` [M, D] and `gallery_labels` [M] (In-Shop), recall and ranking search the gallery for each query and
    verification judges each query with each item; the other figures judge queries and gallery together, as one set.

    With `distance="cosine"` retrieval, k-means and verification work on the embeddings scaled to unit length, with
    "euclidean" on the embeddings as they are; density and spectrum are of unit vectors by definition. Retrieval,
    k-means and verification run on `device` (default: where the embeddings are), the rest on the CPU.
    `backend="faiss"` does recall, ranking and k-means by faiss, in float32.

    With `voters`, D_1, …, D_V, the columns are the embeddings of V members of an ensemble side by side, and the
    ensemble's inference is by voting: "recall" is that of `voted_recall_at_k`, where an answer at one of `recall_at`
    counts at the larger ones; "clustering" and "ami" are of `voted_clusters`. "ranking", "density", "spectrum" and
    "verification", for which a vote has no form, are those of the members side by side, whose cosine is the mean of the
    members' where each has the same length.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, values that are not finite, or groups
    that there are not; voters with a distance or a backend other than the defaults; ImportError for a backend that is
    not installed.
    """
    check_distance(distance)
    one_of("backend", backend, BACKENDS)
    wanted = _groups(metrics, clustering)
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels must be given together")
    if voters is not None and (distance, backend) != ("cosine", "own"):
        raise ValueError(f"voters: need distance 'cosine' and backend 'own', got {distance!r} and {backend!r}")
    # Members are scaled each by itself.
    scaled = distance == "cosine" and voters is None
    matrix, classes = _prepared(embeddings, labels, scaled, device)
    if voters is not None:
        check_voters(voters, matrix.shape[1])
    searched: dict[str, Any] = {"gallery": None, "gallery_labels": None}
    together, all_classes = matrix, classes
    if gallery is not None and gallery_labels is not None:
        items, item_classes = _prepared(gallery, gallery_labels, scaled, device, "gallery")
        if items.shape[1] != matrix.shape[1]:
            raise ValueError(f"gallery must have the queries' {matrix.shape[1]} dimensions, got {items.shape[1]}")
        searched |= {"gallery": items, "gallery_labels": item_classes}
        together = torch.cat([matrix, items.to(matrix.device)])
        all_classes = np.concatenate([classes, item_classes])
    figures: dict[str, float] = {}
    if "recall" in wanted:
        if voters is None:
            recalls = recall_at_k(matrix, classes, recall_at, **searched, distance=distance, backend=backend)
        else:
            recalls = voted_recall_at_k(matrix, classes, voters, recall_at, **searched)
        figures |= {f"recall@{k}": value for k, value in recalls.items()}
    searched["distance"] = distance
    if "ranking" in wanted:
        figures |= ranking_scores(matrix, classes, **searched, backend=backend)
    if "clustering" in wanted or "ami" in wanted:
        count = len(np.unique(all_classes))
        if voters is None:
            clusters = kmeans(together, count, seed, backend=backend)
        else:
            clusters = voted_clusters(together, voters, count, seed=seed)
        if "clustering" in wanted:
            figures |= {"nmi": nmi(clusters, all_classes), "f1": f1(clusters, all_classes)}
        if "ami" in wanted:
            figures["ami"] = ami(clusters, all_classes)
    if "density" in wanted:
        figures |= density(together, all_classes)
    if "spectrum" in wanted:
        figures["rho_spectrum"] = rho_spectrum(together)
    if "verification" in wanted:
        figures["eer"] = all_pairs_eer(matrix, classes, **searched)
    return figures


def _groups(metrics: str | Sequence[str], clustering: bool) -> set[str]:
    if isinstance(metrics, str) and metrics in ("default", "all"):
        names: Sequence[str] = DEFAULT_GROUPS if metrics == "default" else GROUPS
    else:
        names = [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = [name for name in names if name not in GROUPS]
    if unknown or not names:
        got = ", ".join(map(repr, unknown)) or "none"
        raise ValueError(f"metrics must be 'default', 'all' or groups out of {', '.join(GROUPS)}; got {got}")
    return set(names) if clustering else set(names) - {"clustering", "ami"}


def _prepared(
    embeddings: Array, labels: Labels, scaled: bool, device: torch.device | str | None, name: str = "embeddings"
) -> tuple[Tensor, npt.NDArray[np.int64]]:
    matrix = as_matrix(embeddings, name)
    classes = as_labels(labels, len(matrix), "labels" if name == "embeddings" else f"{name}_labels")
    if device is not None:
        matrix = matrix.to(device)
    return unit(matrix) if scaled else matrix, classes


def embed(
    model: nn.Module,
    images: SequentialImages | Dataset[tuple[Tensor, int]] | Iterable[tuple[Tensor, Tensor]],
    device: torch.device | str | None = None,
    *,
    batch_size: int = 128,
) -> tuple[Tensor, Tensor]:
    """Embeddings float32 [N, D] and labels int64 [N], on the CPU, of every image in order.

    `images`: a split of `robustdml_ext.data` (read without augmentation), any torch data set of (image,
    label), a pair of arrays (images [N, C, H, W], labels [N]), or an iterable of batches (images [B, C, H, W],
    labels [B]), for which `batch_size` does not count. The model runs in eval mode without gradients, and every
    module's mode is put back afterwards. `device` says where the model is; default: where its first parameter is.

    Raises: TypeError where the model does not give one vector an image; ValueError where there are no images.
    """
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    embeddings: list[Tensor] = []
    labels: list[Tensor] = []
    try:
        with torch.no_grad():
            for pixels, classes in _batches(images, batch_size):
                if not len(pixels) and not len(classes):
                    continue
                vectors = model(pixels.to(device, non_blocking=True))
                if not isinstance(vectors, Tensor) or vectors.ndim != 2 or len(vectors) != len(pixels):
                    got = list(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
                    raise TypeError(f"model must map {len(pixels)} images to [{len(pixels)}, D], got {got}")
                embeddings.append(vectors.to("cpu", torch.float32))
                labels.append(classes.to("cpu", torch.int64))
    finally:
        for module, training in modes:
            module.training = training
    if not embeddings:
        raise ValueError("images: expected at least one, got none")
    return torch.cat(embeddings), torch.cat(labels)


def _batches(
    images: SequentialImages | Dataset[tuple[Tensor, int]] | Iterable[tuple[Tensor, Tensor]], batch_size: int
) -> Iterable[tuple[Tensor, Tensor]]:
    if isinstance(images, SequentialImages):
        return images.iterate(batch_size)
    if isinstance(images, Dataset):
        return DataLoader(images, batch_size, generator=torch.Generator())
    if isinstance(images, tuple) and len(images) == 2 and all(hasattr(part, "shape") for part in images):
        pixels, labels = (torch.as_tensor(part) for part in images)
        if len(pixels) != len(labels):
            raise ValueError(f"images: expected as many labels as images, got {len(pixels)} and {len(labels)}")
        return list(zip(pixels.split(batch_size), labels.split(batch_size), strict=True))
    return images
