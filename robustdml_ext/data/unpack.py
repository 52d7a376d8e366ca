"""Unpacks archives that nobody has to trust: nothing is written outside the folder they are unpacked into."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Protocol

from robustdml_ext.data.errors import DataError
from robustdml_ext.data.progress import Report, progress

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    gzip.BadGzipFile,
    NotImplementedError,
)
_CHUNK = 2**20
_SPARE = 64 * 2**20  # bytes of the disk that are always left free


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def is_archive(name: str) -> bool:
    """Whether `unpack` takes apart a file of this name."""
    return name.endswith((".zip", ".gz", *_TAR))


def unpack(file: Path, folder: Path) -> list[str]:
    """Unpacks a zip, tar (plain, gz, bz2, xz) or gz file into `folder`.

    Everything is first unpacked beside the place and moved there when it is whole; files of the same name are
    replaced, others in `folder` left alone. Returns the names that came to lie in `folder`, sorted.

    Raises: DataError naming archive and member for one that is absolute, contains "..", is a device, or is a link: the
    safest of links needs more rules than all of these archives have links, which is none. Also for a damaged archive,
    and where the disk has no room. Nothing is unpacked then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder) as name,
        progress(f"unpacking {file.name}", of_bytes=True) as report,
    ):
        staging = Path(name)
        try:
            if file.name.endswith(".zip"):
                _unzip(file, staging, report)
            elif file.name.endswith(_TAR):
                _untar(file, staging, report)
            else:
                with gzip.open(file) as source:
                    _write(source, staging / file.name.removesuffix(".gz"), file)
        except _DAMAGED as error:
            raise DataError(f"{file} is damaged ({error}); remove it and download it again") from error
        names = sorted(entry.name for entry in staging.iterdir())
        _merge(staging, folder)
    return names


def _unzip(file: Path, folder: Path, report: Report) -> None:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        for member in members:
            # The name as it stands in the archive: zipfile cuts it at a zero byte.
            _check_name(file, member.orig_filename)
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "a link" if stat.S_ISLNK(mode) else "a device"
                raise _refused(file, member.filename, f"is {kind}")
            if member.flag_bits & 1:
                raise _refused(file, member.filename, "is encrypted")
        total = sum(member.file_size for member in members)
        _check_room(file, folder, total)
        done = 0
        for member in members:
            report(done, total)
            done += member.file_size
            target = folder / member.filename
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            with archive.open(member) as source:
                _write(source, target, file, member.file_size)
        report(total, total)


def _untar(file: Path, folder: Path, report: Report) -> None:
    """In one pass, as the list of members stands nowhere in a tar file."""
    second_opinion = getattr(tarfile, "data_filter", None)  # Python's own, from 3.10.12 and 3.11.4 on
    with open(file, "rb") as packed, tarfile.open(fileobj=packed, mode="r|*") as archive:
        for member in archive:
            report(packed.tell(), file.stat().st_size)
            path = _check_name(file, member.name)
            if not (member.isdir() or member.isreg()):
                raise _refused(file, member.name, "is a link" if member.issym() or member.islnk() else "is a device")
            if second_opinion is not None:
                second_opinion(member, str(folder))
            if member.isdir():
                (folder / path).mkdir(parents=True, exist_ok=True)
                continue
            source = archive.extractfile(member)
            assert source is not None
            _write(source, folder / path, file, member.size)


def _check_name(file: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or re.match("[A-Za-z]:", name):
        raise _refused(file, name, "is an absolute path")
    if not name:
        raise _refused(file, name, "has no name")
    if ".." in path.parts or "\0" in name:
        raise _refused(file, name, "leads out of the folder")
    return path


def _refused(file: Path, member: str, why: str) -> DataError:
    return DataError(f"{file}: the member {member!r} {why}; nothing was unpacked. Is this the right archive?")


def _check_room(file: Path, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free - _SPARE
    if needed > free:
        raise DataError(
            f"{file}: no room to unpack it at {folder.parent}: {needed:,} bytes are needed, and {max(free, 0):,} free"
        )


def _write(source: _Readable, target: Path, file: Path, size: int = 0) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_room(file, target.parent, size)
    with open(target, "wb") as sink:
        while chunk := source.read(_CHUNK):
            if sink.tell() >= size:  # more than was announced
                _check_room(file, target.parent, len(chunk))
            sink.write(chunk)


def _merge(source: Path, target: Path) -> None:
    entries: Iterable[os.DirEntry[str]]
    with os.scandir(source) as entries:
        for entry in list(entries):
            there = target / entry.name
            if entry.is_dir(follow_symlinks=False) and there.is_dir():
                _merge(Path(entry.path), there)
            else:
                os.replace(entry.path, there)
