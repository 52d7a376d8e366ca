from __future__ import annotations

import contextlib
import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from python_tests.data.packed import files_under, special, tarred, zipped
from robustdml_ext.data import unpack as unpack_module
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.unpack import unpack


def symlink_in_zip() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr("fine.txt", b"fine")
        archive.writestr(link, "../outside")
        archive.writestr("link/evil.txt", b"evil")
    return sink.getvalue()


EVIL: dict[str, tuple[str, Callable[[Path], bytes], str]] = {
    "zip: up": ("a.zip", lambda outside: zipped({"fine.txt": b"", "../evil.txt": b"evil"}), "'../evil.txt'"),
    "zip: up inside": ("a.zip", lambda outside: zipped({"x/../../evil.txt": b"evil"}), "evil.txt"),
    "zip: backslashes": ("a.zip", lambda outside: zipped({"..\\evil.txt": b"evil"}), "evil.txt"),
    "zip: absolute": ("a.zip", lambda outside: zipped({f"{outside}/evil.txt": b"evil"}), "outside/evil.txt"),
    "zip: drive": ("a.zip", lambda outside: zipped({"C:/evil.txt": b"evil"}), "'C:/evil.txt'"),
    "zip: link, then through it": ("a.zip", lambda outside: symlink_in_zip(), "'link' is a link"),
    "tar: up": ("a.tgz", lambda outside: tarred(("fine.txt", b""), ("../evil.txt", b"evil")), "'../evil.txt'"),
    "tar: absolute": ("a.tgz", lambda outside: tarred((f"{outside}/evil.txt", b"evil")), "outside/evil.txt"),
    "tar: link, then through it": (
        "a.tar.gz",
        lambda outside: tarred(special("link", tarfile.SYMTYPE, "../.."), ("link/evil.txt", b"evil")),
        "'link' is a link",
    ),
    "tar: absolute link": (
        "a.tgz",
        lambda outside: tarred(special("l", tarfile.SYMTYPE, str(outside))),
        "'l' is a link",
    ),
    "tar: hard link": ("a.tgz", lambda outside: tarred(special("l", tarfile.LNKTYPE, "../secret")), "'l' is a link"),
    "tar: device": ("a.tgz", lambda outside: tarred(special("null", tarfile.CHRTYPE)), "'null' is a device"),
    "tar: pipe": ("a.tar", lambda outside: tarred(special("p", tarfile.FIFOTYPE), mode="w"), "'p' is a device"),
}


@pytest.mark.parametrize("case", EVIL)
def test_harmful_members_are_refused_and_nothing_is_written(tmp_path: Path, case: str) -> None:
    name, make, named = EVIL[case]
    root = tmp_path / "inner" / "unpacked"
    root.mkdir(parents=True)
    outside = tmp_path / "inner" / "outside"
    outside.mkdir()
    (root / name).write_bytes(make(outside))
    with pytest.raises(DataError) as caught:
        unpack(root / name, root / "set")
    assert named in str(caught.value) and str(root / name) in str(caught.value)
    assert set(files_under(tmp_path)) == {f"inner/unpacked/{name}"}
    assert not list((root / "set").iterdir()) and not list(outside.iterdir())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.zip", zipped({"a.txt": b"a" * 9000})[:-40]),
        ("a.tgz", tarred(("a.txt", bytes(range(256)) * 90))[:-40]),
        ("a.txt.gz", gzip.compress(bytes(range(256)) * 90)[:-40]),
        ("a.tgz", b"<html>Not found</html>"),
        ("a.gz", b"<html>Not found</html>"),
    ],
)
def test_damaged_archives_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} is damaged"):
        unpack(tmp_path / name, tmp_path / "set")
    assert not list((tmp_path / "set").iterdir())


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.txt.gz"])
def test_a_full_disk_is_told_before_it_is_full(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {
        "a.zip": zipped({"a.txt": bytes(5000)}),
        "a.tar": tarred(("a.txt", bytes(5000)), mode="w"),
        "a.txt.gz": gzip.compress(bytes(5000)),
    }[name]
    (tmp_path / name).write_bytes(content)
    real = unpack_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(unpack_module.shutil, "disk_usage", lambda _: real._replace(free=unpack_module._SPARE + 4999))
    with pytest.raises(DataError, match="no room to unpack"):
        unpack(tmp_path / name, tmp_path / "set")
    assert not list((tmp_path / "set").iterdir())


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(
        st.lists(st.sampled_from(["a", "b", "..", ".", "/", "\\", "C:", ""]), min_size=1, max_size=4)
        .map("/".join)
        .filter(bool),
        min_size=1,
        max_size=3,
        unique=True,
    ),
    kind=st.sampled_from(["zip", "tar"]),
)
def test_no_name_leads_out(tmp_path_factory: pytest.TempPathFactory, names: list[str], kind: str) -> None:
    outer = tmp_path_factory.mktemp("outer")
    file = outer / f"a.{kind}"
    contents = {name: b"x" for name in names}
    file.write_bytes(zipped(contents) if kind == "zip" else tarred(*contents.items(), mode="w"))
    before = set(outer.rglob("*"))
    with contextlib.suppress(DataError, OSError):  # an OSError where a name is a file and a folder
        unpack(file, outer / "one" / "two")
    written = set(outer.rglob("*")) - before - {outer / "one"}
    assert all(outer / "one" / "two" in (path, *path.parents) for path in written)
