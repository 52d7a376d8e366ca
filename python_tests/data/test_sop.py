from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from robustdml_ext import data
from robustdml_ext.data.sets.sop import StanfordOnlineProducts


@pytest.mark.parametrize("parent", [False, True])
def test_loads_from_the_folder_and_from_its_parent(sop_folder: Path, parent: bool) -> None:
    splits = data.load("sop", str(sop_folder.parent if parent else sop_folder))
    assert (splits.name, splits.channels, splits.image_size) == ("sop", 3, 224)
    assert splits.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert splits.test.labels.tolist() == [0] * 4 + [1] * 4
    assert splits.train.class_names == ["bicycle 1", "cabinet 2", "bicycle 3"]
    assert splits.test.paths is not None and splits.test.paths[0] == sop_folder / "cabinet_final" / "1004_0.JPG"
    images, labels = splits.test.batch([0, 5])
    assert images.shape == (2, 3, 224, 224) and images.dtype == torch.float32 and labels.tolist() == [0, 1]
    assert images.min() >= 0 and images.max() <= 1 and images.std() > 0.05


def test_grey_jpeg_among_rgb_is_repeated(sop_folder: Path) -> None:
    train = data.load("sop", str(sop_folder), image_size=32).train
    grey, color = train.batch([2, 3])[0]
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])
    assert not torch.equal(color[0], color[1])


def test_one_channel_is_luminance(sop_folder: Path) -> None:
    splits = data.load("sop", str(sop_folder), image_size=32, channels=1, augment="none")
    expected = Image.open(sop_folder / "bicycle_final" / "1001_0.JPG").convert("L")
    raw = splits.train.source.read(0)
    assert torch.equal(raw, torch.from_numpy(np.array(expected))[None])
    assert splits.train[0].shape == (1, 32, 32)


def test_central_crop_after_resizing_the_shorter_side(tmp_path: Path, sop_folder: Path) -> None:
    # Left third black, middle gray, right third white: the crop of a wide image must see the middle.
    wide = np.zeros((64, 192, 3), dtype=np.uint8)
    wide[:, 64:128], wide[:, 128:] = 128, 255
    Image.fromarray(wide).save(sop_folder / "cabinet_final" / "1004_0.JPG", quality=95)
    image = data.load("sop", str(sop_folder), image_size=64).test[0]
    assert image.shape == (3, 64, 64)
    assert (image - 128 / 255).abs().max() < 0.1


def test_testing_transform_is_the_published_one(sop_folder: Path) -> None:
    published = v2.Compose([v2.ToImage(), v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    expected = published(Image.open(sop_folder / "cabinet_final" / "1004_0.JPG")) / 255
    assert torch.equal(data.load("sop", str(sop_folder)).test[0], torch.as_tensor(expected))


@pytest.mark.parametrize("missing", ["Ebay_train.txt", "Ebay_test.txt"])
def test_missing_list_file_is_named(sop_folder: Path, missing: str) -> None:
    (sop_folder / missing).unlink()
    with pytest.raises(data.DataError, match=missing) as error:
        data.load("sop", str(sop_folder))
    assert "https://cvgl.stanford.edu/projects/lifted_struct/" in str(error.value)
    assert "Stanford_Online_Products.zip" in str(error.value) and "--root" in str(error.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match=r"has nothing of it.*Ebay_train\.txt"):
        data.load("sop", str(tmp_path))
    with pytest.raises(data.DataError, match="does not exist"):
        data.load("sop", str(tmp_path / "nowhere"))
    with pytest.raises(data.DataError, match=r"needs --root.*lifted_struct"):
        data.load("sop")


@pytest.mark.parametrize(
    "line",
    [
        "7 2 1",
        "7 two 1 a_final/1.JPG",
        "7 2 1 ../secret.JPG",
        "7 2 1 /etc/secret.JPG",
        "-7 2 1 a.JPG",
        "rubbish",
    ],
)
def test_malformed_line_names_file_and_number(sop_folder: Path, line: str) -> None:
    file = sop_folder / "Ebay_train.txt"
    lines = file.read_text().splitlines()
    lines.insert(6, line)
    file.write_text("\n".join(lines))
    with pytest.raises(data.DataError, match=r"Ebay_train\.txt, line 7"):
        data.load("sop", str(sop_folder))


@pytest.mark.parametrize("header", ["", "image_id class_id path", "1 1 1 bicycle_final/1001_0.JPG"])
def test_wrong_header(sop_folder: Path, header: str) -> None:
    file = sop_folder / "Ebay_test.txt"
    file.write_text("\n".join([header, *file.read_text().splitlines()[1:]]))
    with pytest.raises(data.DataError, match=r"Ebay_test\.txt, line 1: expected the header 'image_id class_id"):
        data.load("sop", str(sop_folder))


def test_windows_line_ends_byte_order_mark_and_blank_lines(sop_folder: Path) -> None:
    file = sop_folder / "Ebay_train.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n  \r\n")
    assert len(data.load("sop", str(sop_folder)).train) == 12


def test_not_text(sop_folder: Path) -> None:
    (sop_folder / "Ebay_train.txt").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(data.DataError, match=r"Ebay_train\.txt cannot be read"):
        data.load("sop", str(sop_folder))


def test_class_in_both_lists(sop_folder: Path) -> None:
    file = sop_folder / "Ebay_test.txt"
    file.write_text(file.read_text() + "99 3 1 bicycle_final/1003_0.JPG\n")
    with pytest.raises(data.DataError, match=r"class 3 is in both Ebay_train.txt and Ebay_test.txt"):
        data.load("sop", str(sop_folder))


def test_missing_image_is_named_before_training_starts(sop_folder: Path) -> None:
    (sop_folder / "cabinet_final" / "1002_1.JPG").unlink()
    with pytest.raises(data.DataError, match=r"1 of the 20 listed images are missing: .*1002_1\.JPG"):
        data.load("sop", str(sop_folder))


def test_counts_are_checked_when_asked(sop_folder: Path) -> None:
    with pytest.raises(data.DataError) as error:
        data.load("sop", str(sop_folder), check_counts=True)
    assert "Ebay_train.txt has 12 images, -59,539 against the published 59,551" in str(error.value)
    assert "Ebay_test.txt has 2 classes, -11,314 against the published 11,316" in str(error.value)


def test_half_a_download_is_checked_without_asking(sop_folder: Path) -> None:
    lines = (sop_folder / "Ebay_train.txt").read_text().splitlines()
    many = [f"{i} {1 + i % 3} 1 bicycle_final/1001_0.JPG" for i in range(40_000)]
    (sop_folder / "Ebay_train.txt").write_text("\n".join([lines[0], *many]))
    with pytest.raises(data.DataError, match="40,000 images"):
        data.load("sop", str(sop_folder))
    assert len(data.load("sop", str(sop_folder), check_counts=False).train) == 40_000


def test_the_data_set_class_has_the_same_images_and_labels(sop_folder: Path) -> None:
    for split in ("train", "test"):
        own = StanfordOnlineProducts(sop_folder.parent, split)
        loaded = getattr(data.load("sop", sop_folder, channels=3), split)
        assert own.paths == loaded.paths and own.targets == loaded.labels.tolist()
        assert own.classes == loaded.class_names and len(own) == len(loaded)
    image, target = StanfordOnlineProducts(sop_folder, "test")[4]
    expected = Image.open(sop_folder / "bicycle_final" / "1005_0.JPG").convert("RGB")
    assert image.mode == "RGB" and image.tobytes() == expected.tobytes() and target == 1
