"""Labeled images as the rest of the package sees them: index in, float pixels and labels out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import Dataset

from robustdml_ext.data.errors import BrokenImageError, DataError
from robustdml_ext.data.sources import Source, TensorSource
from robustdml_ext.data.transforms import ItemTransform, to_float

ON_BROKEN = ("error", "skip")


class LabeledImages(Dataset[Tensor]):
    """N images with integer class labels; `len(images)`, `images[i]`, and `images.batch(indices)`.

    Attributes: `labels` int64 [N], numbered 0 .. C-1 within the split; `class_names`, C of them; `paths`, one
    an image, or None where the images are not files.

    An image that is missing or cannot be decoded raises a DataError naming it (`on_broken="error"`). With
    `on_broken="skip"` a batch takes the next readable image of the same class instead, so that shapes and the
    "P classes x K images" of a batch stay as planned. Which one is a function of the index alone: every
    process agrees. Where a class has no readable image left, an image of the next class comes in *under its
    own label*: a batch then holds a class fewer, but never an image under a wrong label. `iterate`
    (evaluation) leaves broken images out instead, as an image that comes twice would be its own nearest
    neighbor. Each broken path is warned of once.

    With `cache` the decoded images stay in memory from the first use (or `prepare()`) on.

    Recordings go the same way: an image is then their features [1, bins, frames], whose values are not in [0, 1].
    """

    def __init__(
        self,
        source: Source,
        labels: Tensor,
        class_names: Sequence[str],
        transform: ItemTransform,
        *,
        on_broken: str = "error",
        cache: bool = False,
    ) -> None:
        if on_broken not in ON_BROKEN:
            raise ValueError(f"on_broken must be 'error' or 'skip', got {on_broken!r}")
        if len(labels) != len(source):
            raise ValueError(f"labels: expected one for each of the {len(source)} images, got {len(labels)}")
        self.source = source
        self.labels = labels.to(torch.int64)
        self.class_names = list(class_names)
        self.transform = transform
        self.on_broken = on_broken
        self.cache = cache
        self.paths = source.paths
        self._memory: Tensor | list[Tensor] | None = None
        self._broken: dict[int, str] = {}  # index -> what is wrong with it, as far as it has been read
        self._warned: set[int] = set()
        self._plain: LabeledImages | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Tensor:
        """Image `index` after the transform, float32 [C, H, W] in [0, 1]."""
        return self.batch([range(len(self))[index]])[0][0]

    def batch(self, indices: Sequence[int], *, keys: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Images float32 [B, C, H, W] in [0, 1] and labels int64 [B].

        `keys[i]` seeds the augmentation of the i-th image, so that a batch is a pure function of (indices,
        keys) and the global random state is not touched. Without keys an augmenting split draws them from
        torch's global generator. Raises: DataError where an image is broken (see the class).
        """
        images, labels, broken = self.fetch(indices, keys)
        self.warn_of_broken(broken)
        return images, labels

    def fetch(
        self, indices: Sequence[int], keys: Sequence[int] | None = None, *, drop_broken: bool = False
    ) -> tuple[Tensor, Tensor, dict[int, str]]:
        """As `batch`, without warning; also gives what was found broken, for a worker to report home."""
        if keys is not None and len(keys) != len(indices):
            raise ValueError(f"keys: expected one for each of the {len(indices)} indices, got {len(keys)}")
        self.prepare()
        if isinstance(self._memory, Tensor) and not self.transform.random and not self._broken:
            chosen = torch.as_tensor(indices, dtype=torch.int64)
            return self.transform.finish(self._memory.index_select(0, chosen), 0), self.labels[chosen], {}
        if keys is None:
            keys = torch.randint(2**62, (len(indices),)).tolist() if self.transform.random else [0] * len(indices)
        rows: list[Tensor] = []
        used: list[int] = []
        for index, key in zip(indices, keys, strict=True):
            for candidate in [index] if drop_broken else self._candidates(index):
                image = self._read(candidate)
                if image is not None:
                    rows.append(self.transform.cropped(image, key))
                    used.append(candidate)
                    break
            else:
                if not drop_broken:
                    raise DataError(f"none of the {len(self)} images can be read: {self._broken[index]}")
        if not rows:  # a batch of broken images only, all dropped
            return torch.empty(0), torch.empty(0, dtype=torch.int64), dict(self._broken)
        return to_float(torch.stack(rows)), self.labels[used], dict(self._broken)

    def iterate(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in order, without augmentation; broken ones are left out (or raise)."""
        plain = self.without_augmentation()
        for start in range(0, len(plain), batch_size):
            images, labels, broken = plain.fetch(range(start, min(start + batch_size, len(plain))), drop_broken=True)
            self.warn_of_broken(broken)
            if len(labels):
                yield images, labels

    def prepare(self) -> None:
        """Reads every image into memory where this split is cached; does nothing the second time."""
        if self._memory is not None:
            return
        if isinstance(self.source, TensorSource):
            self._memory = self.transform.fixed(self.source.images)
        elif self.cache:
            read = [self._read(i) for i in range(len(self))]
            blank = next((torch.zeros_like(image) for image in read if image is not None), torch.zeros(1, 1, 1))
            images = [blank if image is None else image for image in read]
            alike = all(image.shape == blank.shape for image in images)
            self._memory = torch.stack(images) if alike else images

    def without_augmentation(self) -> LabeledImages:
        """The same images under the transform used for testing; itself where it does not augment."""
        if not self.transform.random:
            return self
        if self._plain is None:  # kept, so that a cached split is not read again for every evaluation
            # Images that are decoded in memory are not decoded again for it either.
            source = _Decoded(self) if self.cache else self.source
            self._plain = self._with(source=source, transform=self.transform.for_testing())
        return self._plain

    def select_classes(self, classes: Sequence[int]) -> LabeledImages:
        """The images of these classes only, relabeled 0, 1, ... in the order given; to hold out a few.

        Raises: ValueError for a class twice or out of range.
        """
        if len(set(classes)) != len(classes) or not all(0 <= c < len(self.class_names) for c in classes):
            raise ValueError(f"classes must be distinct numbers below {len(self.class_names)}, got {list(classes)}")
        relabeled = torch.full((len(self.class_names),), -1)
        relabeled[torch.as_tensor(classes, dtype=torch.int64)] = torch.arange(len(classes))
        labels = relabeled[self.labels]
        kept = torch.nonzero(labels >= 0).flatten()
        names = [self.class_names[c] for c in classes]
        return self._with(source=self.source.select(kept.tolist()), labels=labels[kept], class_names=names)

    def select(self, indices: Sequence[int]) -> LabeledImages:
        """The images at these indices, in the order given; classes and their numbers stay.

        Raises: IndexError for an index out of range.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(self):
            raise IndexError(f"indices must be in 0 .. {len(self) - 1}, got {int(chosen.min())} to {int(chosen.max())}")
        return self._with(source=self.source.select(chosen.tolist()), labels=self.labels[chosen])

    def warn_of_broken(self, broken: dict[int, str]) -> None:
        """Takes note of what a worker process found broken, and warns once for each path."""
        self._broken.update(broken)
        for index in sorted(broken.keys() - self._warned):
            self._warned.add(index)
            warnings.warn(f"{broken[index]}; skipped as on_broken='skip' says", stacklevel=3)

    def _read(self, index: int) -> Tensor | None:
        """Image `index` after the fixed part of the transform, or None where broken and to be skipped."""
        if index in self._broken:
            return None
        if self._memory is not None:
            return self._memory[index]
        try:
            return self.transform.fixed(self.source.read(index))
        except BrokenImageError as error:
            if self.on_broken == "error":
                raise
            self._broken[index] = str(error)
            return None

    def decoded(self, index: int) -> Tensor:
        """Image `index` as memory keeps it, read where it is not there yet. Raises: BrokenImageError."""
        image = self._read(index)
        if image is None:
            raise BrokenImageError(self._broken[index])
        return image

    def _candidates(self, index: int) -> Iterator[int]:
        """`index`, then what may stand in for it: its class from the next image on, then the next classes."""
        yield index
        own, classes = int(self.labels[index]), len(self.class_names)
        rank = int((self.labels[:index] == own).sum())
        for step in range(classes):
            members = torch.nonzero(self.labels == (own + step) % classes).flatten().tolist()
            first = rank + 1 if step == 0 else rank
            yield from (members[(first + i) % len(members)] for i in range(len(members)))

    def _with(self, **changes: object) -> LabeledImages:
        settings: dict[str, object] = {
            "source": self.source,
            "labels": self.labels,
            "class_names": self.class_names,
            "transform": self.transform,
            "on_broken": self.on_broken,
            "cache": self.cache,
        }
        return LabeledImages(**(settings | changes))  # type: ignore[arg-type]


class _Decoded:
    """A split's images for another transform, out of its memory once they are there; takes its source's place."""

    def __init__(self, images: LabeledImages, rows: Sequence[int] | None = None) -> None:
        self._images = images
        self._rows = range(len(images)) if rows is None else list(rows)
        self.paths = None if images.paths is None else [images.paths[row] for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> Tensor:
        return self._images.decoded(self._rows[index])

    def select(self, indices: Sequence[int]) -> _Decoded:
        return _Decoded(self._images, [self._rows[index] for index in indices])


@dataclass(frozen=True)
class TrialPairs:
    """P trials of verification, as an official list has them.

    Attributes:
        same: bool [P], whether both are of one class.
        pairs: int64 [P, 2], in the list's order: rows of the test split, counted before any broken ones are left out.
    """

    same: Tensor
    pairs: Tensor

    def __len__(self) -> int:
        return len(self.same)


@dataclass(frozen=True)
class DataSplits:
    """What a data set's protocol trains on, tests on, and searches in.

    Under a zero-shot protocol, as retrieval's, the classes of `train` and of `test` have nothing in common; where
    `zero_shot` is False they are the same. `validation` is an official validation split, of classes that neither of the
    others has, or, where not `zero_shot`, of the same ones. `gallery` is searched for the items of `test`, which are
    the queries; its labels are numbered as theirs.
    Without it the test images are searched, each without itself.

    `channels` and `image_size` are what a model is given: images are [B, channels, image_size, image_size]. Where
    `frames` is not None the set is sound: items are [B, 1, image_size, frames], features of `image_size` bins, and
    testing may look at more frames than training (`SoundOptions`). `trials` are the official lists of trials of `test`
    that were found, by name.
    """

    name: str
    train: LabeledImages
    test: LabeledImages
    channels: int
    image_size: int
    validation: LabeledImages | None = None
    gallery: LabeledImages | None = None
    protocol: str = "zero-shot"
    zero_shot: bool = True
    frames: int | None = None
    trials: Mapping[str, TrialPairs] = field(default_factory=dict)
