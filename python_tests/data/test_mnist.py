from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets import fashion_mnist, mnist
from robustdml_ext.data.sets.fashion_mnist import FashionMNIST
from robustdml_ext.data.sets.mnist import MNIST

NAMES = {"train": "train", "test": "t10k"}


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_files(folder: Path, seed: int = 0, *, zipped: bool = False) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random images with labels 0 .. 9 in turn, 30 to train and 20 to test."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    written = {}
    for split, count in (("train", 30), ("test", 20)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for what, array in (("images-idx3", images), ("labels-idx1", labels)):
            name = f"{NAMES[split]}-{what}-ubyte"
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / name).write_bytes(idx(array))
        written[split] = images, labels
    return written


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("inside", ["MNIST/raw", "MNIST", "raw", "."])
def test_is_found_in_every_layout(tmp_path: Path, inside: str, zipped: bool) -> None:
    written = write_files(tmp_path / inside, zipped=zipped)
    splits = mnist.load(ReadOptions(tmp_path))
    assert (splits.name, splits.channels, splits.image_size) == ("mnist", 1, 28)
    images, labels = splits.test.batch(range(20))
    assert torch.equal(images, torch.from_numpy(written["test"][0])[:, None].float() / 255)
    assert labels.tolist() == list(range(10)) * 2
    assert "train 30 images, test 20 images of 10 classes, not the published counts" in mnist.probe(tmp_path)
    assert str(tmp_path / inside) in mnist.probe(tmp_path)


def test_the_official_protocol_has_the_same_classes(tmp_path: Path) -> None:
    write_files(tmp_path)
    splits = mnist.load(ReadOptions(tmp_path))
    assert (splits.protocol, splits.zero_shot) == ("official", False)
    assert splits.train.class_names == splits.test.class_names == [str(digit) for digit in range(10)]
    assert (len(splits.train), len(splits.test)) == (30, 20)


def test_the_zero_shot_protocol_has_none_in_common(tmp_path: Path) -> None:
    written = write_files(tmp_path)
    splits = mnist.load(ReadOptions(tmp_path, protocol="zero-shot"))
    assert (splits.protocol, splits.zero_shot) == ("zero-shot", True)
    assert splits.train.class_names == ["0", "1", "2", "3", "4"]
    assert splits.test.class_names == ["5", "6", "7", "8", "9"]
    assert splits.train.labels.tolist() == list(range(5)) * 3 and splits.test.labels.tolist() == list(range(5)) * 2
    chosen = written["test"][0][written["test"][1] >= 5]
    assert torch.equal(splits.test.batch(range(10))[0], torch.from_numpy(chosen)[:, None].float() / 255)


def test_an_unknown_protocol_is_named(tmp_path: Path) -> None:
    write_files(tmp_path)
    with pytest.raises(ValueError, match=r"official, zero-shot .*'mnist', got 'published'"):
        mnist.load(ReadOptions(tmp_path, protocol="published"))


def test_size_channels_and_augmentation_on_request(tmp_path: Path) -> None:
    write_files(tmp_path)
    plain = mnist.load(ReadOptions(tmp_path, image_size=32, channels=3))
    image = plain.train[0]
    assert image.shape == (3, 32, 32) and torch.equal(image[0], image[2]) and plain.channels == 3
    assert not plain.train.transform.random
    augmented = mnist.load(ReadOptions(tmp_path, augment="crop-flip"))
    assert augmented.train.transform.random and not augmented.test.transform.random
    first, second = (augmented.train.batch([0], keys=[key])[0] for key in (1, 2))
    assert first.shape == (1, 1, 28, 28) and not torch.equal(first, second)


def test_images_too_large_to_keep_are_resized_when_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robustdml_ext.data.sets import _arrays

    write_files(tmp_path)
    kept = mnist.load(ReadOptions(tmp_path, image_size=40)).test
    monkeypatch.setattr(_arrays, "_MEMORY_LIMIT", 1000)
    read = mnist.load(ReadOptions(tmp_path, image_size=40)).test
    assert torch.equal(read.batch(range(20))[0], kept.batch(range(20))[0])
    assert read.select_classes([3])[1].equal(kept[13]) and len(read.source) == 20
    read.prepare()
    assert read._memory is None


@pytest.mark.parametrize(("module", "kind"), [(mnist, MNIST), (fashion_mnist, FashionMNIST)])
def test_full_sets_must_have_the_published_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, kind: type[MNIST]
) -> None:
    write_files(tmp_path)
    options = ReadOptions(tmp_path)
    module.load(options)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"train has 30 images, -59,970 against the published 60,000; test has 20"):
        module.load(ReadOptions(tmp_path, check_counts=True))  # type: ignore[attr-defined]
    monkeypatch.setitem(mnist.PUBLISHED, "train", 31)
    with pytest.raises(DataError, match="train has 30 images, -1 against the published 31"):
        module.load(options)  # type: ignore[attr-defined]
    module.load(ReadOptions(tmp_path, check_counts=False))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="-1 against the published 31"):
        kind(tmp_path)
    assert len(kind(tmp_path, "test")) == 20


def test_fashion_mnist_is_not_taken_for_mnist(tmp_path: Path) -> None:
    digits = write_files(tmp_path / "MNIST" / "raw", 1)
    clothes = write_files(tmp_path / "FashionMNIST" / "raw", 2)
    assert np.array_equal(MNIST(tmp_path).images[:, 0], digits["train"][0])
    assert np.array_equal(FashionMNIST(tmp_path).images[:, 0], clothes["train"][0])
    assert "FashionMNIST" in fashion_mnist.probe(tmp_path)
    assert fashion_mnist.load(ReadOptions(tmp_path)).train.class_names[9] == "Ankle boot"


def test_the_data_set_class_gives_pillow_images(tmp_path: Path) -> None:
    written = write_files(tmp_path)
    test = MNIST(tmp_path, "test", target_transform=lambda label: label + 100)
    image, label = test[13]
    assert isinstance(image, Image.Image) and image.mode == "L" and label == 103
    assert np.array_equal(np.array(image), written["test"][0][13])
    assert len(test) == 20 and test.targets[13] == 3 and test.classes[3] == "3" and test.class_to_idx["3"] == 3
    assert torch.equal(
        MNIST(tmp_path, transform=lambda image: torch.tensor(np.array(image)))[-1][0], MNIST(tmp_path).images[29, 0]
    )
    with pytest.raises(IndexError):
        test[20]
    with pytest.raises(ValueError, match="split must be one of train, test, got 'validation'"):
        MNIST(tmp_path, "validation")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"MNIST not found: .*train-images-idx3-ubyte.*--root"):
        mnist.load(ReadOptions(tmp_path))
    with pytest.raises(DataError, match="is not a folder"):
        mnist.probe(tmp_path / "nowhere")
    write_files(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="lacks t10k-labels-idx1-ubyte"):
        mnist.load(ReadOptions(tmp_path))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("train-images-idx3-ubyte", lambda data: data[:-1], "is truncated: expected 23,520 bytes .* found 23,519"),
        ("train-images-idx3-ubyte", lambda data: data + b"x", "has bytes behind its end"),
        ("train-images-idx3-ubyte", lambda data: data[:10], "is truncated: it ends within its header"),
        ("train-images-idx3-ubyte", lambda data: b"", "begins with nothing"),
        (
            "t10k-images-idx3-ubyte",
            lambda data: b"\0\0\x0d\3" + data[4:],
            "begins with 00 00 0d 03, expected 00 00 08 03",
        ),
        ("t10k-labels-idx1-ubyte", lambda data: data[:-1] + b"\x0a", "expected labels 0 .. 9, found 10 at 19"),
        ("t10k-labels-idx1-ubyte", lambda data: idx(np.zeros(19, np.uint8)), "20 images, but .* 19 labels"),
        ("t10k-images-idx3-ubyte", lambda data: idx(np.zeros((20, 28, 27), np.uint8)), "found 28 x 27"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: object, said: str, zipped: bool) -> None:
    write_files(tmp_path, zipped=zipped)
    file = tmp_path / (f"{name}.gz" if zipped else name)
    content = gzip.decompress(file.read_bytes()) if zipped else file.read_bytes()
    damaged = damage(content)  # type: ignore[operator]
    file.write_bytes(gzip.compress(damaged) if zipped else damaged)
    with pytest.raises(DataError, match=said) as caught:
        mnist.load(ReadOptions(tmp_path))
    assert re.search(re.escape(name), str(caught.value))


@pytest.mark.parametrize("keep", [0.5, 3])
def test_damaged_gzip_files_are_named(tmp_path: Path, keep: float) -> None:
    write_files(tmp_path, zipped=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match=re.escape(str(file)) + " cannot be read"):
        mnist.load(ReadOptions(tmp_path))


def test_download_fills_the_layout() -> None:
    for module, folder in ((mnist, "MNIST/raw"), (fashion_mnist, "FashionMNIST/raw")):
        assert {archive.unpack_into for archive in module.ARCHIVES} == {folder}
        names = {archive.file_name.removesuffix(".gz") for archive in module.ARCHIVES}
        assert names == {f"{name}-{what}-ubyte" for name in NAMES.values() for what in ("images-idx3", "labels-idx1")}
