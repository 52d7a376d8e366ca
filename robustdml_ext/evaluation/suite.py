"""From a model and images to every figure of the clean protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from robustdml_ext.evaluation.clustering import f1, nmi
from robustdml_ext.evaluation.density import density
from robustdml_ext.evaluation.inputs import Array, as_labels, as_matrix, check_distance, unit
from robustdml_ext.evaluation.kmeans import kmeans
from robustdml_ext.evaluation.retrieval import recall_at_k


@runtime_checkable
class SequentialImages(Protocol):
    """What `robustdml_ext.data.LabeledImages` offers: all its images in order, without augmentation."""

    def iterate(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]: ...


def evaluate(
    embeddings: Array,
    labels: Array,
    *,
    recall_at: Sequence[int] = (1, 2, 4, 8),
    clustering: bool = True,
    seed: int = 0,
    distance: str = "cosine",
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """Every figure of `embeddings` [N, D] with `labels` [N]: fractions, not percent.

    Keys: "recall@k" for each of `recall_at`; "nmi" and "f1" of k-means (faiss, 20 iterations, as many
    clusters as there are classes in `labels`, seeded by `seed`) unless `clustering` is off; "pi_intra",
    "pi_inter", "pi_ratio".

    With `distance="cosine"` retrieval and k-means work on the embeddings scaled to unit length, with
    "euclidean" on the embeddings as they are; the densities are in cosine distance by definition. Retrieval
    runs on `device` (default: where the embeddings are), the rest on the CPU.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, or values that are not finite.
    """
    check_distance(distance)
    matrix = as_matrix(embeddings)
    classes = as_labels(labels, len(matrix))
    if device is not None:
        matrix = matrix.to(device)
    if distance == "cosine":
        matrix = unit(matrix)
    recalls = recall_at_k(matrix, classes, recall_at, distance=distance)
    figures = {f"recall@{k}": value for k, value in recalls.items()}
    if clustering:
        clusters = kmeans(matrix, len(set(classes.tolist())), seed)
        figures |= {"nmi": nmi(clusters, classes), "f1": f1(clusters, classes)}
    return figures | density(matrix, classes)


def embed(
    model: nn.Module,
    images: SequentialImages | Dataset[tuple[Tensor, int]] | Iterable[tuple[Tensor, Tensor]],
    device: torch.device | str | None = None,
    *,
    batch_size: int = 128,
) -> tuple[Tensor, Tensor]:
    """Embeddings float32 [N, D] and labels int64 [N], on the CPU, of every image in order.

    `images`: a split of `robustdml_ext.data` (read without augmentation), any torch data set of (image,
    label), or an iterable of batches (images [B, C, H, W], labels [B]); `batch_size` counts for the first
    two. The model runs in eval mode without gradients, and every module's mode is put back afterwards.
    `device` says where the model is; default: where its first parameter is.

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
        raise ValueError("images must not be empty: there is nothing to embed")
    return torch.cat(embeddings), torch.cat(labels)


def _batches(
    images: SequentialImages | Dataset[tuple[Tensor, int]] | Iterable[tuple[Tensor, Tensor]], batch_size: int
) -> Iterable[tuple[Tensor, Tensor]]:
    if isinstance(images, SequentialImages):
        return images.iterate(batch_size)
    if isinstance(images, Dataset):
        return DataLoader(images, batch_size, generator=torch.Generator())
    return images
