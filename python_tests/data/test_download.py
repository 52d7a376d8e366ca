"""Downloads: what is fetched, taken up again, checked and unpacked."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from python_tests.data.packed import files_under, tarred, zipped
from python_tests.data.servers import FtpSession, Site, serving, web_site
from robustdml_ext.data import archives, download
from robustdml_ext.data.archives import Archive
from robustdml_ext.data.download import download_archives
from robustdml_ext.data.errors import DataError


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    with web_site() as place:
        yield place


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


@pytest.mark.parametrize("begun", [False, True])
def test_ftp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    content = zipped({"a.txt": b"a" * 5000})
    monkeypatch.setattr(FtpSession, "content", content)
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), FtpSession)) as address:
        if begun:
            (tmp_path / "one.zip.part").write_bytes(content[:100])
        url = f"ftp://{address}/cs/one.zip"
        download_archives([Archive(url, "one.zip", f"md5:{hashlib.md5(content).hexdigest()}", len(content))], tmp_path)
    assert files_under(tmp_path) == {"a.txt": b"a" * 5000}


@pytest.mark.parametrize("name", ["one.zip", "one.tgz"])
def test_progress_is_shown_on_a_terminal_only(
    site: Site, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = zipped({"a.txt": b"a" * 500}) if name == "one.zip" else tarred(("a.txt", b"a" * 500))
    shown = io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    download_archives([site.archive(name, content)], tmp_path / "quiet")
    assert shown.getvalue() == ""
    monkeypatch.setattr(shown, "isatty", lambda: True, raising=False)
    download_archives([site.archive(name, content)], tmp_path / "shown")
    downloaded, unpacked, _ = shown.getvalue().split("\x1b[?25h")  # each bar ends by showing the cursor
    assert name in downloaded and f"{len(content)}/{len(content)} bytes" in downloaded
    assert f"unpacking {name}" in unpacked and "━" in unpacked


def test_processes_at_once_download_once(site: Site, tmp_path: Path) -> None:
    archive = site.archive("one.zip", zipped({f"{i}.txt": bytes(20_000) for i in range(20)}))
    threads = [threading.Thread(target=download_archives, args=([archive], tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(site.asked) == 1 and len(files_under(tmp_path)) == 20


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
    assert len({archive.url for archive in listed}) == len(listed) == 19
    checksums = [archive.checksum for archive in listed if archive.checksum is not None]
    assert len(set(checksums)) == len(checksums) == 13
