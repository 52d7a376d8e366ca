"""Downloads the archives of a data set: resumed, checked, and unpacked into the official layout."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from robustdml_ext.data.archives import Archive
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.lock import locked
from robustdml_ext.data.progress import Report, progress
from robustdml_ext.data.unpack import is_archive, unpack

__all__ = ["Archive", "download_archives"]

_CHUNK = 2**20
_TIMEOUT = 60.0  # seconds without a byte until a connection is given up
_ATTEMPTS = 4  # in a row without a new byte, over all addresses
_PAUSE = 1.0  # seconds before the next attempt, times the number of failures
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG, errno.EIO)  # trying again mends none
_NETWORK = (OSError, http.client.HTTPException)  # urllib's and ftplib's errors are OSErrors


def download_archives(archives: Sequence[Archive], root: Path) -> None:
    """Downloads each archive to `root` and unpacks it there; what has been unpacked already is left alone.

    A download goes to `root/<file>.part` and is taken up again there, in this call or the next, where the server can
    send the rest of a file. Size and checksum are verified before it gets its name. An archive that lies at
    `root/<file>` already, put there by hand, is verified, unpacked and kept; a downloaded one is removed once
    unpacked. See `unpack` for what is refused. Progress is shown on a terminal. Of several processes one downloads,
    and the others wait for it.

    Raises: DataError where the network fails (with the address, and how to do without), for a wrong checksum (the
    downloaded file is removed), for a harmful or damaged archive, and where the disk cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / ".download.lock"):
            for archive in archives:
                _provide(archive, root)
    except OSError as error:
        raise DataError(f"the data set cannot be downloaded to {root}: {error}") from error


def _provide(archive: Archive, root: Path) -> None:
    folder = root / archive.unpack_into
    marker = folder / f".{archive.file_name}.unpacked"
    plain = not is_archive(archive.file_name)
    file = (folder if plain else root) / archive.file_name
    if _unpacked(marker, archive):
        return
    by_hand = file.exists()
    if by_hand:
        _verify(archive, file, downloaded=False)
    else:
        part = root / f"{archive.file_name}.part"
        _fetch(archive, part)
        _verify(archive, part, downloaded=True)
        folder.mkdir(parents=True, exist_ok=True)
        os.replace(part, file)
    if plain:
        return
    names = unpack(file, folder)
    marker.write_text(json.dumps({"checksum": archive.checksum, "names": names}))
    if not by_hand:
        file.unlink()


def _unpacked(marker: Path, archive: Archive) -> bool:
    """Whether this very archive has been unpacked, and nothing of it was removed since, as far as names tell."""
    try:
        noted = json.loads(marker.read_text())
        return noted["checksum"] == archive.checksum and all((marker.parent / n).exists() for n in noted["names"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _verify(archive: Archive, file: Path, *, downloaded: bool) -> None:
    found_size = file.stat().st_size
    problem = ""
    if archive.size is not None and found_size != archive.size:
        problem = f"has {found_size:,} bytes, expected {archive.size:,}"
    elif archive.checksum is not None:
        kind, _, expected = archive.checksum.partition(":")
        found = _digest(file, kind)
        if found != expected:
            problem = f"has the {kind} checksum {found}, expected {expected}"
    if problem:
        if downloaded:
            file.unlink()
            raise DataError(
                f"the download of {archive.file_name} {problem}; it was removed. Try again, and if that does not help, "
                f"the file at {archive.url} is no longer the published one"
            )
        raise DataError(f"{file} {problem}; remove it, so that it is downloaded, or put the published one there")


def _digest(file: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(file, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch(archive: Archive, part: Path) -> None:
    """Downloads until the file is whole, taking up what is there; every failure tries the next address."""
    furthest, failures = part.stat().st_size if part.exists() else 0, 0
    with progress(archive.file_name, archive.size, of_bytes=True) as report:
        while True:
            url = archive.urls[failures % len(archive.urls)]
            try:
                _download(url, part, archive.size, report)
                return
            except _NETWORK as error:
                if isinstance(error, OSError) and error.errno in _DISK:
                    raise
                reached = part.stat().st_size if part.exists() else 0
                failures = 0 if reached > furthest else failures + 1
                furthest = max(furthest, reached)
                final = isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404, 410)
                if failures >= _ATTEMPTS or (final and failures >= len(archive.urls)):
                    raise DataError(
                        f"{archive.file_name} cannot be downloaded from {' or '.join(archive.urls)}: {error}. "
                        f"Try again ({reached:,} bytes are kept), or get it by other means and put it at "
                        f"{part.with_name(archive.file_name)}, from where it is unpacked"
                    ) from error
                time.sleep(_PAUSE * failures)


def _download(url: str, part: Path, size: int | None, report: Report) -> None:
    """One request. Raises: what urllib raises; ConnectionError where the connection ends before the file does."""
    start = part.stat().st_size if part.exists() else 0
    if size is not None and start == size:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "robustdml_ext", "Accept-Encoding": "identity"})
    if start and not url.startswith("ftp:"):  # urllib cannot take up FTP
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        # Nothing is left to send: the file is whole, or no prefix of the one the server has.
        if not error.headers.get("Content-Range", "").endswith(f"/{start}"):
            part.unlink()
            raise ConnectionError("what had been downloaded does not belong to the file; begun again") from error
        return
    with response:
        length = response.headers.get("Content-Length")
        resumed = getattr(response, "status", None) == http.client.PARTIAL_CONTENT
        if resumed and not re.match(rf"bytes {start}-", response.headers.get("Content-Range", "")):
            part.unlink()
            raise ConnectionError("the server sent another part of the file than it was asked for")
        start = start if resumed else 0
        total = start + int(length) if length and length.isdecimal() else size
        reached = _store(response, part, start, total, report)
    if total is not None and reached < total:
        raise ConnectionError(f"the connection ended after {reached:,} of {total:,} bytes")


def _store(response: IO[bytes], part: Path, start: int, total: int | None, report: Report) -> int:
    reached = start
    with open(part, "ab" if start else "wb") as sink:
        report(reached, total)
        while chunk := response.read(_CHUNK):
            sink.write(chunk)
            reached += len(chunk)
            report(reached, total)
    return reached
