"""Lists of trials: pairs of recordings, and whether both are of one speaker."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robustdml_ext.data.errors import DataError
from robustdml_ext.data.splits import TrialPairs

_RECORDING = re.compile(r"[^/\\]+(?:/[^/\\]+)+")


@dataclass(frozen=True)
class Trials:
    """P pairs of recordings: whether each is of the same speaker, bool [P], and the two files."""

    same: Tensor
    first: list[Path]
    second: list[Path]

    def __len__(self) -> int:
        return len(self.first)


def trial_lines(file: Path, where: str) -> Iterator[tuple[int, bool, str, str]]:
    """Of each trial its line's number, from 1, whether it is of one speaker, and the two recordings as written.

    A line is "1 id10270/5r0dWxy17C8/00001.wav id10270/x6uYqmx31kE/00002.wav", or 0 for two speakers.

    Raises: DataError naming file and line of what is none, or that ends in `where` if the file cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list of trials {file} cannot be read: {error}. {where}") from error
    empty = True
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        empty = False
        if len(words) != 3 or words[0] not in ("0", "1"):
            raise DataError(f"{file}, line {number}: expected '0 or 1, recording, recording', found {line!r}")
        for word in words[1:]:
            # A pattern, as pathlib takes seconds over the million paths of the longest list.
            if not _RECORDING.fullmatch(word) or ".." in word.split("/"):
                raise DataError(
                    f"{file}, line {number}: expected a path as id10270/5r0dWxy17C8/00001.wav, found {word!r}"
                )
        yield number, words[0] == "1", words[1], words[2]
    if empty:
        raise DataError(f"{file} lists no trials")


def recording_key(path: str) -> str:
    """The speaker, video and number in a recording's path: how lists know it, whatever its folder and kind of file."""
    return "/".join(path.rsplit(".", 1)[0].replace("\\", "/").split("/")[-3:])


def trial_pairs(file: Path, paths: Sequence[Path], where: str, on_missing: str = "error") -> TrialPairs:
    """A list of trials as rows of the recordings `paths`; files may be of another kind than the list says.

    With `on_missing` "skip", trials of recordings that are not among `paths` are left out, with a warning.

    Raises: DataError naming file and line of a malformed trial, of a recording that is not there ("error"), or where
    no trial is left.
    """
    rows = {recording_key(str(path)): row for row, path in enumerate(paths)}
    same: list[bool] = []
    pairs: list[tuple[int, int]] = []
    left_out = 0
    for number, alike, *words in trial_lines(file, where):
        first, second = (rows.get(recording_key(word), -1) for word in words)
        if first >= 0 and second >= 0:
            same.append(alike)
            pairs.append((first, second))
            continue
        if on_missing == "error":
            word = words[0] if first < 0 else words[1]
            raise DataError(
                f"{file}, line {number}: the recording {word!r} is not among the {len(paths):,} that test. {where}"
            )
        left_out += 1
    if not pairs:
        raise DataError(f"{file}: none of its trials is of the {len(paths):,} recordings that test. {where}")
    if left_out:
        warnings.warn(
            f"{file}: {left_out:,} trials are of recordings that are not there; left out as on_broken='skip' says",
            stacklevel=2,
        )
    return TrialPairs(torch.tensor(same), torch.tensor(pairs, dtype=torch.int64))
