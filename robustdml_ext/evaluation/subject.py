"""What is judged: a model with its images, whose clean embeddings are computed once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from robustdml_ext.evaluation.record import Record
from robustdml_ext.evaluation.suite import SequentialImages, _batches, embed
from robustdml_ext.evaluation.threats import BOTH_SIDES, GALLERY, QUERIES
from robustdml_ext.evaluation.voting import check_voters

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
    """Embeddings, float32 on the CPU, of the queries `[N, D]` and the gallery `[M, D]` (the queries, without one).

    As the model gave them: a row may hold NaN or infinity.
    """

    queries: Tensor
    gallery: Tensor

    def whole(self) -> Embedded:
        """The same with zeros in every row that is not finite, for what can compute with numbers alone."""
        queries = without_broken(self.queries)
        return Embedded(queries, queries if self.gallery is self.queries else without_broken(self.gallery))

    def all(self) -> Tensor:
        """The queries' and then the gallery's, `[N + M, D]`; the queries' alone where they are the gallery."""
        return self.queries if self.gallery is self.queries else torch.cat([self.queries, self.gallery])


def broken(embeddings: Tensor) -> Tensor:
    """Which rows hold a NaN or an infinity, bool `[N]`."""
    return ~embeddings.isfinite().all(1)


def without_broken(embeddings: Tensor) -> Tensor:
    """The embeddings with zeros in rows that hold a NaN or an infinity; themselves where there is none."""
    rows = broken(embeddings)
    return embeddings.masked_fill(rows[:, None], 0.0) if rows.any() else embeddings


def spread(count: int, most: int) -> Tensor:
    """At most so many of `count` rows, evenly spaced from the first to the last, int64: sets are sorted by class."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()


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
        self._records: list[Record] = []
        self._remembered: dict[Hashable, Tensor] = {}

    @property
    def voters(self) -> tuple[int, ...] | None:
        """The widths of the members' embeddings where the model's inference is a vote (`evaluate`); None elsewhere.

        The model's own `voters`, looked at once the clean pass is done, before which it may not know them.

        Raises:
            TypeError, ValueError: they are no widths that add up to the embeddings' (`voting.check_voters`).
        """
        width = self.clean().queries.shape[1]
        voters = getattr(self.model, "voters", None)
        return None if voters is None else check_voters(voters, width)

    @property
    def measured_on(self) -> torch.device:
        """Where figures are computed, in float64: the subject's device, but for mps, which has no float64."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    @property
    def images_read(self) -> dict[str, list[Any]]:
        """What the clean pass read, of the queries and of a separate gallery.

        "batch_lengths" (runs of [how many batches, images in each]), "image_shape" (of the first image), and "pixels",
        a digest, the same wherever and however the same pixels are read.
        """
        self._known_labels()
        return {
            "batch_lengths": [record.runs() for record in self._records],
            "image_shape": [list(record.shape) for record in self._records],
            "pixels": [record.digest.hexdigest()[:16] for record in self._records],
        }

    def remembered(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What does not change from attack to attack, made when first asked for."""
        if key not in self._remembered:
            self._remembered[key] = make()
        return self._remembered[key]

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
        """Clean embeddings by `model`, the judged one by default; computed when first asked for.

        Raises:
            ValueError: there are no images, none in the gallery, or no embedding of the judged model is finite.
        """
        model = self.model if model is None else model
        key = (id(model), precision, distribution)
        if key not in self._kept:
            looking = seen_by(model, distribution)
            records = [Record(name) for name in ("images", "gallery")[: len(self.sources)]]
            with self.autocast(precision):
                found = [
                    embed(looking, record.watch(_batches(source, self.batch_size)), self.device)
                    for record, source in zip(records, self.sources, strict=True)
                ]
            if model is self.model and all(broken(embeddings).all() for embeddings, _ in found):
                raise ValueError(
                    f"model: {type(model).__name__} embeds every image as NaN or infinity; expected finite embeddings"
                )
            if not self._records:
                self._records = records
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

    def sample(self, side: str, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pixels and rows of at most so many images of one side, evenly spaced over all of it; every one is read.

        In batches no longer than the images' own, so that whatever can embed these can embed those.
        """
        count = {BOTH_SIDES: len(self.all_labels), QUERIES: len(self.labels), GALLERY: len(self.gallery_labels)}[side]
        wanted = spread(count, most)
        longest = max(length for record in self._records for length in record.lengths)
        waiting: list[tuple[Tensor, Tensor]] = []

        def joined() -> tuple[Tensor, Tensor]:
            pixels, rows = (torch.cat(parts) for parts in zip(*waiting, strict=True))
            waiting.clear()
            return pixels, rows

        for pixels, _, rows in self.batches(side):
            chosen = torch.isin(rows, wanted)
            if not chosen.any():
                continue
            part = pixels[chosen.to(pixels.device)], rows[chosen]
            held = sum(len(taken) for _, taken in waiting)
            if waiting and (held + len(part[1]) > longest or waiting[0][0].shape[1:] != pixels.shape[1:]):
                yield joined()
            waiting.append(part)
        if waiting:
            yield joined()


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
