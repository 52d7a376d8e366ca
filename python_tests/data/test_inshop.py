from __future__ import annotations

from pathlib import Path

import pytest
import torch

from python_tests.data.layouts import write_inshop
from robustdml_ext import data
from robustdml_ext.data.sets import inshop
from robustdml_ext.data.sets.inshop import InShop


def _partition(folder: Path) -> Path:
    return folder / "Eval" / "list_eval_partition.txt"


def test_queries_and_gallery_are_numbered_alike(tmp_path: Path) -> None:
    splits = data.load("inshop", write_inshop(tmp_path), image_size=16)
    assert splits.protocol == "query-gallery" and splits.gallery is not None
    assert splits.train.class_names == ["id_00000001", "id_00000002"]
    assert splits.test.class_names == splits.gallery.class_names == ["id_00000003", "id_00000004"]
    for part in (splits.test, splits.gallery):
        assert part.labels.tolist() == [0, 0, 1, 1]
        assert [path.parent.name for path in part.paths] == [part.class_names[label] for label in part.labels]
    assert InShop(tmp_path, "gallery").classes == InShop(tmp_path, "test").classes


def test_numbering_is_over_the_union(tmp_path: Path) -> None:
    file = _partition(write_inshop(tmp_path))
    # Item 3 has no query left, and item 4 nothing in the gallery.
    lines = file.read_text().splitlines()
    lines[10] = lines[10].replace("query", "gallery")
    lines[11] = lines[11].replace("query", "gallery")
    lines[16] = lines[16].replace("gallery", "query")
    lines[17] = lines[17].replace("gallery", "query")
    file.write_text("\n".join(lines))
    splits = data.load("inshop", tmp_path, image_size=16)
    assert splits.gallery is not None
    assert splits.test.labels.tolist() == [1] * 4 and splits.gallery.labels.tolist() == [0] * 4
    only = data.load("inshop", tmp_path, image_size=16, protocol="query-only")
    assert only.test.labels.tolist() == [0] * 4 and only.test.class_names == ["id_00000004"]


def test_query_only_has_no_gallery(tmp_path: Path) -> None:
    splits = data.load("inshop", write_inshop(tmp_path), image_size=16, protocol="query-only")
    assert splits.gallery is None and splits.protocol == "query-only"
    whole = data.load("inshop", tmp_path, image_size=16)
    assert splits.test.paths == whole.test.paths and torch.equal(splits.test[1], whole.test[1])
    with pytest.raises(ValueError, match="split must be one of train, test, got 'gallery'"):
        InShop(tmp_path, "gallery", protocol="query-only")


@pytest.mark.parametrize("image_folder", ["", "Img"])
@pytest.mark.parametrize("place", ["Eval", "Anno", "."])
def test_where_images_and_partition_may_lie(tmp_path: Path, image_folder: str, place: str) -> None:
    file = _partition(write_inshop(tmp_path, image_folder=image_folder))
    (tmp_path / place).mkdir(exist_ok=True)
    file.rename(tmp_path / place / file.name)
    assert len(data.load("inshop", tmp_path, image_size=16).train) == 8


def test_images_that_are_not_unpacked(tmp_path: Path) -> None:
    (write_inshop(tmp_path) / "img").rename(tmp_path / "elsewhere")
    (tmp_path / "Img").mkdir()
    with pytest.raises(data.DataError, match=r"is img\.zip unpacked\?"):
        data.load("inshop", tmp_path)


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (1, "sixteen", "line 1: expected the number of images, found 'sixteen'"),
        (2, "image item status", "line 2: expected the header 'image_name item_id evaluation_status'"),
        (1, "17", "line 1 announces 17 images, and 16 are listed"),
        (7, "img/WOMEN/a.jpg id_00000001", "line 7: expected 'image_name item_id evaluation_status'"),
        (7, "img/WOMEN/a.jpg id_00000001 val", "line 7: expected train, query or gallery, found 'val'"),
        (7, "../a.jpg id_00000001 train", "line 7: .* leads out of"),
        (7, "/etc/a.jpg id_00000001 train", "line 7: .* leads out of"),
        (7, "img/a.jpg id_00000003 train", "class id_00000003 is in both train and the test"),
    ],
)
def test_malformed_partition(tmp_path: Path, number: int, line: str, message: str) -> None:
    file = _partition(write_inshop(tmp_path))
    lines = file.read_text().splitlines()
    lines[number - 1] = line
    file.write_text("\n".join(lines))
    with pytest.raises(data.DataError, match=rf"list_eval_partition\.txt.*{message}"):
        data.load("inshop", tmp_path)


def test_an_empty_partition_and_one_without_queries(tmp_path: Path) -> None:
    file = _partition(write_inshop(tmp_path))
    text = file.read_text()
    file.write_text("")
    with pytest.raises(data.DataError, match="line 1: expected the number of images, found an empty file"):
        data.load("inshop", tmp_path)
    file.write_text(text.replace("query", "gallery"))
    with pytest.raises(data.DataError, match="lists no image for query"):
        data.load("inshop", tmp_path)


@pytest.mark.parametrize("protocol", ["query-gallery", "query-only"])
def test_published_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    assert inshop.PUBLISHED == {"train": (25_882, 3_997), "query": (14_218, 3_985), "gallery": (12_612, 3_985)}
    write_inshop(tmp_path)
    monkeypatch.setattr(inshop, "PUBLISHED", {"train": (8, 2), "query": (5, 2), "gallery": (4, 3)})
    with pytest.raises(data.DataError) as error:
        data.load("inshop", tmp_path, protocol=protocol)
    assert "query has 4 images, -1 against the published 5" in str(error.value)
    assert "gallery has 2 classes, -1 against the published 3" in str(error.value)
    assert "train has" not in str(error.value)
