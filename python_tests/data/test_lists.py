from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_tests.data.images import write_image
from robustdml_ext.data import DataError
from robustdml_ext.data.sets import _lists
from robustdml_ext.data.sets._lists import Count, ImageList

_words = st.sampled_from(["a", "b c", "..", ".", "...", "1.jpg", "é", "..a", ""])


@given(st.lists(_words, max_size=5), st.booleans())
def test_no_path_leads_out(words: list[str], absolute: bool) -> None:
    folder = Path("/data/set")
    relative = ("/" if absolute else "") + "/".join(words)
    try:
        path = _lists.inside(folder, relative, "list.txt, line 3")
    except DataError as error:
        assert str(error).startswith("list.txt, line 3: the path ")
        plain = [word for word in words if word not in ("", ".")]
        assert absolute or ".." in plain or not words or not words[0], "a plain relative path is never refused"
    else:
        assert os.path.normpath(path).startswith("/data/set")
        assert path == folder / relative


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_numbered_classes_are_labeled_in_their_order(numbers: list[int]) -> None:
    names = {number: f"class {number}" for number in range(1, 31)}
    images = [(Path(f"{i}.jpg"), number) for i, number in enumerate(numbers)]
    made = _lists.by_number(images, names)
    assert made.paths == [path for path, _ in images]
    assert [made.class_names[label] for label in made.labels] == [names[number] for number in numbers]
    assert made.class_names == [names[number] for number in sorted(set(numbers))]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 30))
def test_halves_are_apart_and_whole(numbers: list[int], last_seen: int) -> None:
    names = {number: f"class {number}" for number in range(1, 31)}
    images = [(Path(f"{i}.jpg"), number) for i, number in enumerate(numbers)]
    if min(numbers) > last_seen or max(numbers) <= last_seen:
        with pytest.raises(DataError, match="no class is numbered"):
            _lists.halves(images, names, last_seen, "Set", Path("root"))
        return
    splits = _lists.halves(images, names, last_seen, "Set", Path("root"))
    assert sorted(p.name for s in splits.values() for p in s.paths) == sorted(path.name for path, _ in images)
    assert all(int(name.split()[1]) <= last_seen for name in splits["train"].class_names)
    assert all(int(name.split()[1]) > last_seen for name in splits["test"].class_names)


@pytest.mark.parametrize(
    ("images", "asked", "raises"),
    [(49, None, False), (50, None, True), (49, True, True), (50, False, False), (101, None, True)],
)
def test_counts_are_checked_from_half_of_the_images_on(images: int, asked: bool | None, raises: bool) -> None:
    counts = [Count("train", images, 10, (100, 10)), Count("test", 1, 10, (100, 10))]
    if raises:
        expected = f"train has {images} images, {images - 100:+} against the published 100; test has 1 images, -99"
        with pytest.raises(DataError, match=re.escape(expected)):
            _lists.check_published("Set", counts, asked, "Get it.")
    else:
        _lists.check_published("Set", counts, asked, "Get it.")


def test_classes_of_the_published_size_do_not_make_a_set_whole() -> None:
    counts = [Count("train", 20, 1, (19_280, 964)), Count("Greek", 20, 1, (20, 1), whole=False)]
    _lists.check_published("Set", counts, None, "Get it.")


def test_differences_are_named_up_to_a_dozen() -> None:
    counts = [Count(f"class {i}", 19, 1, (20, 1)) for i in range(30)]
    with pytest.raises(DataError, match=r"class 0 has .*class 11 has [^;]*; and 18 more\. Get it\.") as error:
        _lists.check_published("Set", counts, True, "Get it.")
    assert "class 12 has" not in str(error.value)


def test_missing_images_are_counted_over_all_splits(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.png", 0)
    here, gone = tmp_path / "a" / "1.png", [tmp_path / "a" / "2.png", tmp_path / "b" / "1.png"]
    splits = [ImageList([here, gone[0]], [0, 0], ["x"]), ImageList([gone[1], here], [0, 0], ["y"])]
    with pytest.raises(DataError, match=rf"2 of the 4 listed images are missing: {gone[0]}, {gone[1]}\. Get it\."):
        _lists.check_images_exist(splits, "Get it.")
    _lists.check_images_exist([ImageList([here], [0], ["x"])], "Get it.")


def test_images_in_a_folder(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in _lists.images_in(tmp_path)] == ["a.jpg", "b.PNG"]


@pytest.mark.parametrize(
    ("exists", "message"), [("folder", "has nothing of it"), ("file", "is not a folder"), ("", "does not exist")]
)
def test_what_is_not_found(tmp_path: Path, exists: str, message: str) -> None:
    root = tmp_path / "root"
    if exists == "folder":
        root.mkdir()
    elif exists:
        root.write_bytes(b"")
    assert str(_lists.not_found("Set", root, "Get it.")) == f"Set not found: {root} {message}. Get it."
