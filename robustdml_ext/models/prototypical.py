"""Learning Semantic Similarities for Prototypical Classifiers: an encoder E, a similarity S, and prototypes C."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.models.similarity import SimilarityNetwork

SIMILARITY, DENSE, BOTH = "similarity", "dense", "both"
HEADS = (SIMILARITY, DENSE)


class PrototypicalHeads(nn.Module):
    """All that is behind the encoder: the similarity S, the prototypes C, and the dense output layer of L_aux.

    Prototypes are no parameters: they follow the encoder by a moving average (`update`) and are a buffer, so that state
    dicts have them. Their entries start i.i.d. from a standard Gaussian, by PyTorch's global generator.

    Args:
        classes: |Y|, of the training set.
        embedding_dim: d.
        hidden, negative_slope, dropout: of S, see `SimilarityNetwork`.
        momentum: λ of the moving average, 0 to 1.

    Raises:
        ValueError: a number out of its range.
    """

    prototypes: Tensor

    def __init__(
        self,
        classes: int,
        embedding_dim: int,
        hidden: int = 512,
        *,
        negative_slope: float = 0.1,
        dropout: float = 0.25,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes: expected at least 1, got {classes}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum: expected a number from 0 to 1, got {momentum}")
        self.similarity = SimilarityNetwork(embedding_dim, hidden, negative_slope=negative_slope, dropout=dropout)
        self.dense = nn.Linear(embedding_dim, classes)
        self.momentum = momentum
        self.register_buffer("prototypes", torch.randn(classes, embedding_dim))

    @property
    def classes(self) -> int:
        """How many classes have a prototype, those that were added after training included."""
        return len(self.prototypes)

    @torch.no_grad()
    def update(self, embeddings: Tensor, labels: Tensor) -> None:
        """C_t = λ·C_{t−1} + (1 − λ)·Ĉ_{t−1}: Ĉ is C with the batch's means in the rows of the classes that it has.

        The same embeddings give the same prototypes, so processes that share the gathered batch stay in step. In
        adversarial training they follow the embeddings of attacked images, as these are what is trained on.

        Args:
            embeddings: of the whole batch, `[B, d]`.
            labels: int64 `[B]`, 0 to |Y| − 1.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            # A product with indicators, as sums by index have no fixed order on a GPU.
            members = F.one_hot(labels, self.classes).to(self.prototypes.dtype)
            counts = members.sum(0)
            means = (members.T @ embeddings.to(self.prototypes.dtype)) / counts.clamp(min=1)[:, None]
            moved = torch.lerp(means, self.prototypes, self.momentum)
            self.prototypes.copy_(torch.where((counts > 0)[:, None], moved, self.prototypes))

    def logits(self, embeddings: Tensor, head: str = SIMILARITY, seed: Tensor | None = None) -> Tensor:
        """Logits `[B, |Y|]` of embeddings `[B, d]`, in float32 (or wider) even under autocast.

        Args:
            embeddings: `[B, d]`.
            head: `"similarity"`, S(E(x), C_i), the logits of equation 1 (SIM); or `"dense"`, the dense output layer
                (DOL), which knows the classes of training alone; or `"both"`, side by side, SIM first.
            seed: of the dropout in S in training mode, see `SimilarityNetwork`.

        Raises:
            ValueError: another head.
        """
        if head == BOTH:
            if self.classes != self.dense.out_features:
                raise ValueError(
                    f"head: both needs a dense output for each prototype, got {self.dense.out_features} and "
                    f"{self.classes}: attack one head after classes were added"
                )
            return torch.cat([self.logits(embeddings, name, seed) for name in HEADS], dim=1)
        if head == SIMILARITY:
            scores: Tensor = self.similarity(embeddings, self.prototypes, seed)
            return scores
        if head != DENSE:
            raise ValueError(f"head: expected one of {', '.join((*HEADS, BOTH))}, got {head!r}")
        with torch.autocast(embeddings.device.type, enabled=False):
            outputs: Tensor = self.dense(embeddings.to(self.dense.weight.dtype))
            return outputs

    @torch.no_grad()
    def add_prototypes(self, prototypes: Tensor) -> None:
        """Adds classes, numbered on from those there are; the dense output layer does not learn of them.

        Args:
            prototypes: one a class, `[N, d]`; as section 3.2 has it, the mean embedding of the class's examples.

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        dim = self.prototypes.shape[1]
        if prototypes.dim() != 2 or prototypes.shape[1] != dim:
            raise ValueError(f"prototypes: expected [N, {dim}], got {list(prototypes.shape)}")
        if not bool(prototypes.isfinite().all()):
            raise ValueError("prototypes: expected finite values, got NaN or infinity")
        self.prototypes = torch.cat([self.prototypes, prototypes.to(self.prototypes)])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # A saved model may have classes that were added after its training.
        saved = state_dict.get(prefix + "prototypes")
        if saved is not None and saved.shape[1:] == self.prototypes.shape[1:] and len(saved) >= self.dense.out_features:
            self.prototypes = self.prototypes.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class PrototypicalClassifier(nn.Module):
    """E, S and C together: classifies, compares and retrieves, and takes in new classes without training.

    As a module it maps images to the logits of its similarity head (SIM, equation 4).

    Args:
        encoder: E, images → embeddings `[B, d]`; any module, for example an `Embedder`.
        heads: S, C, and the dense output layer.
        class_names: one a prototype; by default their numbers.

    Raises:
        ValueError: not as many names as prototypes, or one name twice.
    """

    def __init__(
        self, encoder: nn.Module, heads: PrototypicalHeads, class_names: Sequence[str] | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        self.encoder = encoder
        self.heads = heads
        self.class_names = [str(number) for number in range(heads.classes)] if class_names is None else []
        if class_names is not None:
            self.class_names = _distinct(class_names, heads.classes)

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings E(x), `[B, d]`."""
        embeddings: Tensor = self.encoder(images)
        return embeddings

    def logits(self, images: Tensor, head: str = SIMILARITY) -> Tensor:
        """Logits `[B, |Y|]` of one head; see `PrototypicalHeads.logits`."""
        return self.heads.logits(self.embed(images), head)

    def forward(self, images: Tensor) -> Tensor:
        """Images → logits `[B, |Y|]` of the similarity head."""
        return self.logits(images)

    @torch.no_grad()
    def classify(self, images: Tensor, head: str = SIMILARITY) -> Tensor:
        """Classes int64 `[B]`: arg max_i S(E(x), C_i), equation 4, or that of the dense output layer."""
        return self.logits(images, head).argmax(1)

    def through(self, head: str) -> Head:
        """The classifier as one of its heads sees it, `"similarity"`, `"dense"` or `"both"`: what an attack is on."""
        return Head(self, head)

    @torch.no_grad()
    def add_classes(self, images: Tensor, labels: Tensor, names: Sequence[str]) -> None:
        """New classes from a few examples, without training: a prototype is its examples' mean embedding (section 3.2).

        In eval mode, whatever mode the model is in.

        Args:
            images: examples `[N, C, H, W]`.
            labels: int64 `[N]`, places in `names`; each has at least one example.
            names: of the new classes.

        Raises:
            ValueError: a class without examples, a name that there is already, or shapes that do not fit.
        """
        training = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            self.add_embedded_classes(self.embed(images), labels, names)
        finally:
            for module, mode in training:
                module.training = mode

    def add_embedded_classes(self, embeddings: Tensor, labels: Tensor, names: Sequence[str]) -> None:
        """As `add_classes`, from the examples' embeddings `[N, d]`."""
        together = _distinct([*self.class_names, *names], self.heads.classes + len(names))
        self.heads.add_prototypes(class_means(embeddings, labels, len(names)))
        self.class_names = together


class Head(nn.Module):
    """Images → logits of one head of a classifier, or of both side by side."""

    def __init__(self, classifier: PrototypicalClassifier, head: str) -> None:
        super().__init__()
        if head not in (*HEADS, BOTH):
            raise ValueError(f"head: expected one of {', '.join((*HEADS, BOTH))}, got {head!r}")
        self.classifier, self.head = classifier, head

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` → logits `[B, |Y|]`, of both heads `[B, 2·|Y|]`."""
        return self.classifier.logits(images, self.head)


def class_means(embeddings: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The mean embedding of each class, `[classes, d]`: what section 3.2 makes new prototypes of.

    Raises:
        ValueError: shapes do not fit, a label is out of range, or a class has no example.
    """
    if embeddings.dim() != 2 or labels.shape != (len(embeddings),):
        raise ValueError(
            f"labels: expected one an embedding, [N] for [N, d]; got {list(labels.shape)} for {list(embeddings.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool or classes < 1:
        raise ValueError(f"labels: expected integers of at least one class, got {labels.dtype} of {classes}")
    labels = labels.to(embeddings.device, torch.int64)
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels: expected 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}")
    members = F.one_hot(labels, classes).to(embeddings.dtype)
    counts = members.sum(0)
    if bool((counts == 0).any()):
        missing = torch.nonzero(counts == 0).flatten().tolist()
        raise ValueError(f"labels: expected at least one example of each class, got none of {missing}")
    return (members.T @ embeddings) / counts[:, None]


def _distinct(names: Sequence[str], count: int) -> list[str]:
    if len(names) != count:
        raise ValueError(f"names: expected one a prototype, {count}; got {len(names)}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names: expected each class once, got {', '.join(twice[:5])} more than once")
    return list(names)
