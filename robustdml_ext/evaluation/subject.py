"""What is judged: a model with its images, whose clean embeddings are computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from robustdml_ext.evaluation.suite import SequentialImages, _batches, embed
from robustdml_ext.evaluation.threats import BOTH_SIDES, GALLERY, QUERIES

Images = SequentialImages | Dataset[tuple[Tensor, int]] | Iterable[tuple[Tensor, Tensor]]


@dataclass
class Perturbation:
    """How far images really moved, in pixels, summed up over batches."""

    linf: list[Tensor] = field(default_factory=list)
    l2: list[Tensor] = field(default_factory=list)

    def add(self, clean: Tensor, adversarial: Tensor) -> None:
        """Takes in images `[B, …]` before and after."""
        offset = (adversarial.detach().float() - clean.detach().float()).flatten(1)
        self.linf.append(offset.abs().amax(1).cpu())
        self.l2.append(offset.norm(dim=1).cpu())

    def figures(self) -> dict[str, float]:
        """The largest and the mean over images, in both norms."""
        linf, l2 = (torch.cat(lengths).double() if lengths else torch.zeros(1) for lengths in (self.linf, self.l2))
        return {
            "linf_max": float(linf.max()),
            "linf_mean": float(linf.mean()),
            "l2_max": float(l2.max()),
            "l2_mean": float(l2.mean()),
        }


@dataclass(frozen=True)
class Embedded:
    """Embeddings, float32 on the CPU, of the queries `[N, D]` and the gallery `[M, D]` (the queries, without one)."""

    queries: Tensor
    gallery: Tensor

    def all(self) -> Tensor:
        """The queries' and then the gallery's, `[N + M, D]`; the queries' alone where they are the gallery."""
        return self.queries if self.gallery is self.queries else torch.cat([self.queries, self.gallery])


class Subject:
    """A model with the images it is judged on; what is clean is computed once and kept.

    Args:
        model: images `[B, C, H, W]` in [0, 1] → embeddings `[B, D]`; any module.
        images: the queries, as `evaluation.embed`; read once an attack, so not an iterator that is used up.
        gallery: what is searched, likewise; None: the queries themselves.
        batch_size: of what is no iterable of batches already.
        device: where the model is; default: where its first parameter is.

    Raises:
        TypeError: images can be read only once.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        gallery: Images | None = None,
        *,
        batch_size: int = 128,
        device: torch.device | str | None = None,
    ) -> None:
        for name, source in (("images", images), ("gallery", gallery)):
            if isinstance(source, Iterator):
                raise TypeError(f"{name}: are read twice, for the clean and the attacked pass; pass a list or a loader")
        if device is None:
            device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.model, self.device, self.batch_size = model, torch.device(device), batch_size
        self.separate = gallery is not None
        self.sources = (images,) if gallery is None else (images, gallery)
        self._kept: dict[tuple[int, str, int], tuple[nn.Module, Embedded]] = {}
        self._labels: list[Tensor] = []

    @property
    def labels(self) -> Tensor:
        """Classes of the queries, int64 `[N]`."""
        return self._known_labels()[0]

    @property
    def gallery_labels(self) -> Tensor:
        """Classes of the gallery, int64 `[M]`."""
        return self._known_labels()[-1]

    @property
    def all_labels(self) -> Tensor:
        """The queries' and then the gallery's; the queries' alone where they are the gallery."""
        return torch.cat(self._known_labels())

    @property
    def own(self) -> Tensor | None:
        """Each query's own row in the gallery, int64 `[N]`; None where the gallery is another set."""
        return None if self.separate else torch.arange(len(self.labels))

    def _known_labels(self) -> list[Tensor]:
        if not self._labels:
            self.clean()
        return self._labels

    def clean(self, model: nn.Module | None = None, precision: str = "float32", distribution: int = 0) -> Embedded:
        """Clean embeddings by `model`, the judged one by default; computed when first asked for."""
        model = self.model if model is None else model
        key = (id(model), precision, distribution)
        if key not in self._kept:
            looking = seen_by(model, distribution)
            with self.autocast(precision):
                found = [embed(looking, source, self.device, batch_size=self.batch_size) for source in self.sources]
            self._labels = [labels for _, labels in found]
            # With the model, whose id would otherwise be free for another one.
            self._kept[key] = model, Embedded(found[0][0], found[-1][0])
        return self._kept[key][1]

    def autocast(self, precision: str) -> torch.autocast:
        """The arithmetic asked for, whatever the caller's is."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def batches(self, side: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(pixels, labels, rows) of one side; rows count through the gallery, or else through `all_labels`.

        Raises:
            ValueError: images come in another order than before.
        """
        known = self._known_labels()
        sources = {BOTH_SIDES: self.sources, QUERIES: self.sources[:1], GALLERY: self.sources[-1:]}[side]
        expected = known[-1] if side == GALLERY else torch.cat(known)
        done = 0
        for source in sources:
            for pixels, classes in _batches(source, self.batch_size):
                rows = slice(done, done + len(pixels))
                if not torch.equal(classes.cpu().long(), expected[rows]):
                    raise ValueError("images: came in another order the second time; switch shuffling off")
                done = rows.stop
                yield pixels.to(self.device), classes, torch.arange(rows.start, rows.stop)


class Under(nn.Module):
    """An Embedder under one of its distributions, as a plain model."""

    def __init__(self, model: nn.Module, distribution: int) -> None:
        super().__init__()
        self.model, self.distribution = model, distribution

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` → embeddings `[B, D]`."""
        embeddings: Tensor = self.model(images, distribution=self.distribution)
        return embeddings


def seen_by(model: nn.Module, distribution: int) -> nn.Module:
    """The model, under one of its distributions where that is not the deployed one."""
    return model if distribution == 0 else Under(model, distribution)
