from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets import cifar10
from robustdml_ext.data.sets._pickles import read_pickle
from robustdml_ext.data.sets.cifar10 import CIFAR10

STEMS = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def batches() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Twenty random images [n, 3072] a file, with labels 0 .. 9 in turn."""
    random = np.random.default_rng(0)
    return {
        stem: (random.integers(0, 256, (20, 3072), dtype=np.uint8), (np.arange(20) % 10).astype(np.uint8))
        for stem in STEMS
    }


def write_binary(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, (images, labels) in batches().items():
        (folder / f"{stem}.bin").write_bytes(np.concatenate([labels[:, None], images], 1).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(cifar10.CLASSES) + "\n")


def python2_pickle(images: np.ndarray, labels: list[int]) -> bytes:
    """The opcodes that Python 2 wrote the official files with: text of bytes, and no protocol of today's arrays."""

    def text(raw: bytes) -> bytes:
        return (b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + len(raw).to_bytes(4, "little")) + raw

    def number(value: int) -> bytes:
        return b"M" + value.to_bytes(2, "little")

    array = b"cnumpy.core.multiarray\n_reconstruct\n" + b"(cnumpy\nndarray\n" + b"K\0\x85" + text(b"b") + b"tR"
    kind = (
        b"cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\0K\1tR"
        + b"(K\3"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    rows, columns = images.shape
    state = b"(K\1" + number(rows) + number(columns) + b"\x86" + kind + b"\x89" + text(images.tobytes()) + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    names = b"](" + b"".join(text(b"dog_s_%06d.png" % i) for i in range(rows)) + b"e"
    pairs = text(b"batch_label") + text(b"testing batch 1 of 1") + text(b"labels") + listed
    return b"\x80\2}(" + pairs + text(b"data") + array + state + text(b"filenames") + names + b"u."


def python3_pickle(images: np.ndarray, labels: list[int]) -> bytes:
    return pickle.dumps({b"data": images, b"labels": labels, b"batch_label": b"one"}, protocol=2)


def write_python(folder: Path, dump: Callable[[np.ndarray, list[int]], bytes] = python2_pickle) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, (images, labels) in batches().items():
        (folder / stem).write_bytes(dump(images, labels.tolist()))


LAYOUTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "binary": ("cifar-10-batches-bin", write_binary),
    "python 2": ("cifar-10-batches-py", write_python),
    "python 3": ("cifar-10-batches-py", lambda folder: write_python(folder, python3_pickle)),
}


@pytest.mark.parametrize("parent", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images(tmp_path: Path, layout: str, parent: bool) -> None:
    folder, write = LAYOUTS[layout]
    write(tmp_path / folder)
    splits = cifar10.load(ReadOptions(tmp_path if parent else tmp_path / folder))
    assert (splits.name, splits.channels, splits.image_size) == ("cifar10", 3, 32)
    assert (splits.protocol, splits.zero_shot, len(splits.train), len(splits.test)) == ("official", False, 100, 20)
    expected = np.concatenate([batches()[stem][0] for stem in STEMS[:5]]).reshape(-1, 3, 32, 32)
    images, labels = splits.train.batch(range(100))
    assert torch.equal(images, torch.from_numpy(expected).float() / 255)
    assert labels.tolist() == list(range(10)) * 10
    assert splits.test.class_names[6] == "frog" and folder in cifar10.probe(tmp_path)


def test_the_python_2_pickle_of_these_tests_is_one() -> None:
    images, labels = batches()["test_batch"]
    held = pickle.loads(python2_pickle(images, labels.tolist()), encoding="latin1")
    assert np.array_equal(held["data"], images) and held["labels"] == labels.tolist()
    assert held["filenames"][3] == "dog_s_000003.png"


def test_the_zero_shot_protocol(tmp_path: Path) -> None:
    write_binary(tmp_path)
    splits = cifar10.load(ReadOptions(tmp_path, protocol="zero-shot"))
    assert splits.zero_shot and splits.protocol == "zero-shot"
    assert splits.train.class_names == ["airplane", "automobile", "bird", "cat", "deer"]
    assert splits.test.class_names == ["dog", "frog", "horse", "ship", "truck"]
    images, labels = batches()["test_batch"]
    chosen = torch.from_numpy(images[labels >= 5]).reshape(-1, 3, 32, 32)
    assert torch.equal(splits.test.batch(range(10))[0], chosen.float() / 255)
    assert splits.test.labels.tolist() == list(range(5)) * 2


def test_one_channel_is_pillows_luminance(tmp_path: Path) -> None:
    write_binary(tmp_path)
    splits = cifar10.load(ReadOptions(tmp_path, channels=1))
    for i in range(20):
        gray = np.array(CIFAR10(tmp_path, "test")[i][0].convert("L"))
        assert torch.equal(splits.test[i][0], torch.from_numpy(gray).float() / 255)


def test_resized_as_files_are(tmp_path: Path) -> None:
    from torchvision.transforms.v2 import functional as F

    write_binary(tmp_path)
    found = cifar10.load(ReadOptions(tmp_path, image_size=24)).test[5]
    image = torch.from_numpy(batches()["test_batch"][0][5]).reshape(3, 32, 32)
    assert torch.equal(found, F.resize(image, [24, 24], antialias=True).float() / 255)


def test_the_data_set_class_gives_pillow_images(tmp_path: Path) -> None:
    write_binary(tmp_path / "cifar-10-batches-bin")
    test = CIFAR10(tmp_path, "test")
    image, label = test[7]
    assert isinstance(image, Image.Image) and image.mode == "RGB" and label == 7
    assert np.array_equal(np.array(image).transpose(2, 0, 1).reshape(-1), batches()["test_batch"][0][7])
    assert len(CIFAR10(tmp_path)) == 100 and test.classes[label] == "horse"


def test_counts_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_binary(tmp_path)
    assert "not the published counts" in cifar10.probe(tmp_path)
    with pytest.raises(DataError, match="train has 100 images, -49,900 against the published 50,000; test has 20 "):
        cifar10.load(ReadOptions(tmp_path, check_counts=True))
    monkeypatch.setitem(cifar10.PUBLISHED, "test", 19)
    with pytest.raises(DataError, match=r"test has 20 images, \+1 against the published 19"):
        cifar10.load(ReadOptions(tmp_path))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"CIFAR-10 not found: .* has no batches.*cs\.toronto\.edu"):
        cifar10.probe(tmp_path)
    write_binary(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"lacks data_batch_3\.bin"):
        cifar10.load(ReadOptions(tmp_path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda data: data[:-1], "is truncated: 61,459 bytes are no multiple of the 3,073"),
        (lambda data: b"\x0a" + data[1:], "expected labels 0 .. 9, found 10 at image 0"),
        (lambda data: b"", "has no images"),
    ],
)
def test_damaged_binary_files_are_named(tmp_path: Path, content: Callable[[bytes], bytes], said: str) -> None:
    write_binary(tmp_path)
    file = tmp_path / "data_batch_2.bin"
    file.write_bytes(content(file.read_bytes()))
    with pytest.raises(DataError, match=re.escape(str(file)) + ".*" + said):
        cifar10.load(ReadOptions(tmp_path))


class Harm:
    """Pickled, a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], Any]:
        return self.call


@pytest.mark.parametrize(
    "harm",
    [
        Harm(os.system, "touch HERE"),
        Harm(eval, "open('HERE', 'w')"),
        Harm(getattr, "text", "upper"),
        Harm(open, "HERE", "w"),
        np.array([1.5]),
        np.array([None]),
        Path("a"),
    ],
    ids=lambda harm: getattr(getattr(harm, "call", [type(harm)])[0], "__name__", ""),
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_anything_else_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: object, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    write_python(tmp_path)
    file = tmp_path / "data_batch_4"
    file.write_bytes(pickle.dumps({"data": harm, "labels": [1]}, protocol=protocol))
    with pytest.raises(DataError, match=re.escape(str(file)) + " is not the pickle it should be"):
        cifar10.load(ReadOptions(tmp_path))
    assert not (tmp_path / "HERE").exists()


def test_a_pickle_cannot_change_what_reads_it(tmp_path: Path) -> None:
    # The state of the reconstructing function itself, as a pickle can ask for with the opcode BUILD.
    (tmp_path / "state").write_bytes(b"\x80\2cnumpy.core.multiarray\n_reconstruct\n}U\x08__call__K\1sb.")
    with pytest.raises(DataError, match="is not the pickle it should be"):
        read_pickle(tmp_path / "state")
    (tmp_path / "fine").write_bytes(python3_pickle(*[np.zeros((1, 4), np.uint8), [1]]))
    assert read_pickle(tmp_path / "fine")["data"].tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"data": np.zeros((20, 3071), np.uint8), "labels": [0] * 20}, "expected 'data', an array"),
        ({"labels": [0] * 20}, "expected 'data'"),
        (["data"], "expected 'data'"),
        ({"data": np.zeros((20, 3072), np.uint8), "labels": [0] * 19}, "a list of 20 small whole numbers"),
        ({"data": np.zeros((20, 3072), np.uint8), "labels": ["a"] * 20}, "a list of 20 small whole numbers"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [3, 10]}, "found 10 at image 1"),
    ],
)
def test_pickles_that_hold_something_else_are_named(tmp_path: Path, held: object, said: str) -> None:
    write_python(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps(held, protocol=2))
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "test_batch")) + ".*" + said):
        cifar10.load(ReadOptions(tmp_path))


@pytest.mark.parametrize("keep", [0, 1, 100, 5000])
def test_truncated_pickles_are_named(tmp_path: Path, keep: int) -> None:
    write_python(tmp_path)
    file = tmp_path / "data_batch_1"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=re.escape(str(file))):
        cifar10.load(ReadOptions(tmp_path))
