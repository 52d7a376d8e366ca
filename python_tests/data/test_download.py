from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import re
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustdml_ext.data import archives, download, unpack
from robustdml_ext.data.archives import Archive
from robustdml_ext.data.download import download_archives
from robustdml_ext.data.errors import DataError


class Site:
    """A web server on this machine: its files, how it misbehaves, and what it was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.cut_after: list[int] = []  # bytes of the body after which the next answers end
        self.asked: list[tuple[str, str | None]] = []
        self.address = ""

    def archive(
        self, name: str, content: bytes, into: str = ".", *, checksum: str | None = "right", size: int | None = None
    ) -> Archive:
        self.files[f"/{name}"] = content
        digest = f"md5:{hashlib.md5(content).hexdigest()}" if checksum == "right" else checksum
        return Archive(f"{self.address}/{name}", name, digest, size, into)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    place = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            place.asked.append((self.path, asked))
            content = place.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and place.ranges else 0
            if start and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = start + place.cut_after.pop(0) if place.cut_after else len(content)
            self.wfile.write(content[start:end])

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(download, "_PAUSE", 0.0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    place.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield place
    server.shutdown()
    server.server_close()
    thread.join()


def zipped(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return sink.getvalue()


def tarred(*members: tuple[str, bytes] | tarfile.TarInfo, mode: str = "w:gz") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as archive:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return sink.getvalue()


def special(name: str, kind: bytes, to: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def files_under(folder: Path) -> dict[str, bytes]:
    """The visible files."""
    found = {str(f.relative_to(folder)): f for f in folder.rglob("*") if f.is_file()}
    return {name: file.read_bytes() for name, file in found.items() if "/." not in f"/{name}"}


def test_every_kind_is_unpacked_into_its_folder_and_the_archive_removed(site: Site, tmp_path: Path) -> None:
    members = {"set/a.txt": b"a" * 3000, "set/deep/b.txt": b"b"}
    pairs = tuple(members.items())
    download_archives(
        [
            site.archive("one.zip", zipped(members), "zip"),
            site.archive("two.tgz", tarred(*pairs), "tgz"),
            site.archive("three.tar", tarred(*pairs, mode="w"), "tar"),
            site.archive("four.bin.gz", gzip.compress(b"four"), "gz/deep"),
            site.archive("trials.txt", b"1 a b\n", checksum=None),
        ],
        tmp_path / "root",
    )
    expected = {f"{folder}/{name}": content for folder in ("zip", "tgz", "tar") for name, content in members.items()}
    assert files_under(tmp_path / "root") == expected | {"gz/deep/four.bin": b"four", "trials.txt": b"1 a b\n"}


def test_what_is_there_is_not_downloaded_again_until_it_is_removed(site: Site, tmp_path: Path) -> None:
    wanted = [site.archive("one.zip", zipped({"set/a.txt": b"a"})), site.archive("list.txt", b"list")]
    download_archives(wanted, tmp_path)
    download_archives(wanted, tmp_path)
    assert [path for path, _ in site.asked] == ["/one.zip", "/list.txt"]
    (tmp_path / "set" / "a.txt").unlink()
    (tmp_path / "set").rmdir()
    download_archives(wanted, tmp_path)
    assert [path for path, _ in site.asked] == ["/one.zip", "/list.txt", "/one.zip"]
    assert (tmp_path / "set" / "a.txt").read_bytes() == b"a"


def test_files_of_the_user_beside_the_unpacked_ones_stay(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    (tmp_path / "set" / "a.txt").write_text("damaged")
    download_archives([site.archive("one.zip", zipped({"set/a.txt": b"a"}))], tmp_path)
    assert files_under(tmp_path) == {"set/mine.txt": b"mine", "set/a.txt": b"a"}


def test_an_archive_put_there_by_hand_is_unpacked_and_kept(site: Site, tmp_path: Path) -> None:
    content = zipped({"a.txt": b"a"})
    (tmp_path / "one.zip").write_bytes(content)
    download_archives([site.archive("one.zip", content)], tmp_path)
    assert site.asked == []
    assert files_under(tmp_path) == {"one.zip": content, "a.txt": b"a"}


def test_a_wrong_archive_put_there_by_hand_is_named_and_kept(site: Site, tmp_path: Path) -> None:
    (tmp_path / "one.zip").write_bytes(b"other")
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "one.zip")) + ".*checksum"):
        download_archives([site.archive("one.zip", zipped({"a.txt": b"a"}))], tmp_path)
    assert (tmp_path / "one.zip").read_bytes() == b"other"


def test_cut_connections_are_taken_up_where_they_ended(site: Site, tmp_path: Path) -> None:
    content = zipped({"a.txt": bytes(range(256)) * 400})
    site.cut_after = [1000, 500, 20_000]
    download_archives([site.archive("one.zip", content)], tmp_path)
    assert [asked for _, asked in site.asked] == [None, "bytes=1000-", "bytes=1500-", "bytes=21500-"]
    assert (tmp_path / "a.txt").read_bytes() == bytes(range(256)) * 400


def test_a_part_of_an_earlier_run_is_taken_up(site: Site, tmp_path: Path) -> None:
    content = zipped({"a.txt": b"a" * 5000})
    archive = site.archive("one.zip", content)
    (tmp_path / "one.zip.part").write_bytes(content[:777])
    download_archives([archive], tmp_path)
    assert site.asked == [("/one.zip", "bytes=777-")]
    assert (tmp_path / "a.txt").read_bytes() == b"a" * 5000


@pytest.mark.parametrize("size_known", [False, True])
def test_a_part_that_is_whole_needs_no_more(site: Site, tmp_path: Path, size_known: bool) -> None:
    content = zipped({"a.txt": b"a" * 5000})
    (tmp_path / "one.zip.part").write_bytes(content)
    download_archives([site.archive("one.zip", content, size=len(content) if size_known else None)], tmp_path)
    assert site.asked == ([] if size_known else [("/one.zip", f"bytes={len(content)}-")])
    assert files_under(tmp_path) == {"a.txt": b"a" * 5000}


def test_a_part_longer_than_the_file_is_begun_again(site: Site, tmp_path: Path) -> None:
    content = zipped({"a.txt": b"a" * 5000})
    (tmp_path / "one.zip.part").write_bytes(content + b"more")
    download_archives([site.archive("one.zip", content)], tmp_path)
    assert files_under(tmp_path) == {"a.txt": b"a" * 5000}


def test_a_server_that_ignores_ranges_sends_the_whole_again(site: Site, tmp_path: Path) -> None:
    content = zipped({"a.txt": b"a" * 5000})
    site.ranges = False
    site.cut_after = [100]
    download_archives([site.archive("one.zip", content)], tmp_path)
    assert [asked for _, asked in site.asked] == [None, "bytes=100-"]
    assert (tmp_path / "a.txt").read_bytes() == b"a" * 5000


def test_a_wrong_checksum_names_both_and_removes_the_file(site: Site, tmp_path: Path) -> None:
    content = zipped({"a.txt": b"a"})
    archive = site.archive("one.zip", content, checksum="sha256:" + "0" * 64)
    with pytest.raises(DataError, match=f"{hashlib.sha256(content).hexdigest()}, expected {'0' * 64}"):
        download_archives([archive], tmp_path)
    assert files_under(tmp_path) == {}


def test_a_wrong_size_is_named(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 9 bytes, expected 10"):
        download_archives([site.archive("one.txt", b"123456789", size=10)], tmp_path)
    assert files_under(tmp_path) == {}


def test_a_failing_network_names_address_and_another_way(site: Site, tmp_path: Path) -> None:
    archive = site.archive("one.zip", b"")
    site.files.clear()
    with pytest.raises(DataError) as caught:
        download_archives([archive], tmp_path)
    assert archive.url in str(caught.value) and str(tmp_path / "one.zip") in str(caught.value)
    assert "404" in str(caught.value) and len(site.asked) == 1  # a page that is gone is not asked for again


def test_a_connection_that_always_ends_is_given_up_and_kept(site: Site, tmp_path: Path) -> None:
    content = zipped({"a.txt": b"a" * 500})
    site.cut_after = [100] + [0] * 50
    with pytest.raises(DataError, match="100 bytes are kept"):
        download_archives([site.archive("one.zip", content)], tmp_path)
    assert (tmp_path / "one.zip.part").read_bytes() == content[:100]
    assert len(site.asked) == 1 + 4


def test_a_server_without_ranges_that_always_ends_is_given_up(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.cut_after = [100] * 50
    with pytest.raises(DataError, match="cannot be downloaded"):
        download_archives([site.archive("one.zip", zipped({"a.txt": b"a" * 500}))], tmp_path)
    assert len(site.asked) <= 6


def test_nobody_listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9/one\.zip"):
        download_archives([Archive("http://127.0.0.1:9/one.zip", "one.zip", None)], tmp_path)


def test_mirrors_are_tried_in_order(site: Site, tmp_path: Path) -> None:
    content = zipped({"a.txt": b"a"})
    right = site.archive("one.zip", content)
    download_archives([Archive(f"{site.address}/gone.zip", "one.zip", right.checksum, mirrors=(right.url,))], tmp_path)
    assert [path for path, _ in site.asked] == ["/gone.zip", "/one.zip"]
    assert (tmp_path / "a.txt").exists()


def test_processes_at_once_download_once(site: Site, tmp_path: Path) -> None:
    archive = site.archive("one.zip", zipped({f"{i}.txt": bytes(20_000) for i in range(20)}))
    threads = [threading.Thread(target=download_archives, args=([archive], tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(site.asked) == 1 and len(files_under(tmp_path)) == 20


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
def test_harmful_members_are_refused_and_nothing_is_written(site: Site, tmp_path: Path, case: str) -> None:
    name, make, named = EVIL[case]
    root = tmp_path / "inner" / "root"
    outside = tmp_path / "inner" / "outside"
    outside.mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        download_archives([site.archive(name, make(outside), "set")], root)
    assert named in str(caught.value) and str(root / name) in str(caught.value)
    assert set(files_under(tmp_path)) == {f"inner/root/{name}"}
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
def test_damaged_archives_are_named(site: Site, tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(DataError, match=f"{name} is damaged"):
        download_archives([site.archive(name, content, "set")], tmp_path)
    assert not list((tmp_path / "set").iterdir())


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.txt.gz"])
def test_a_full_disk_is_told_before_it_is_full(
    site: Site, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {
        "a.zip": zipped({"a.txt": bytes(5000)}),
        "a.tar": tarred(("a.txt", bytes(5000)), mode="w"),
        "a.txt.gz": gzip.compress(bytes(5000)),
    }[name]
    real = unpack.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(unpack.shutil, "disk_usage", lambda _: real._replace(free=unpack._SPARE + 4999))
    with pytest.raises(DataError, match="no room to unpack"):
        download_archives([site.archive(name, content, "set")], tmp_path)
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
        unpack.unpack(file, outer / "one" / "two")
    written = set(outer.rglob("*")) - before - {outer / "one"}
    assert all(outer / "one" / "two" in (path, *path.parents) for path in written)


def test_what_an_archive_may_be() -> None:
    for url in ("file:///etc/passwd", "data:text/plain,x", "one.zip"):
        with pytest.raises(ValueError, match="url must be"):
            Archive(url, "one.zip", None)
    for name in ("../one.zip", "a/b.zip", "", "..", "a\\b"):
        with pytest.raises(ValueError, match="file_name must be"):
            Archive("http://x/one.zip", name, None)
    for into in ("/tmp", "..", "a/../.."):
        with pytest.raises(ValueError, match="unpack_into must be"):
            Archive("http://x/one.zip", "one.zip", None, unpack_into=into)
    for checksum in ("md5:12", "sha1:" + "0" * 40, "0" * 32, "md5:" + "G" * 32):
        with pytest.raises(ValueError, match="checksum must be"):
            Archive("http://x/one.zip", "one.zip", checksum)


def test_the_published_tables() -> None:
    tables = [value for name, value in vars(archives).items() if name.isupper() and not name.startswith("_")]
    listed = [archive for table in tables for archive in table]
    assert len({archive.url for archive in listed}) == len(listed) == 15
    checksums = [archive.checksum for archive in listed if archive.checksum is not None]
    assert len(set(checksums)) == len(checksums) == 13
