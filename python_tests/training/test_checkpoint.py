"""Checkpoints are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from robustdml_ext.training.checkpoint import (
    copy_atomically,
    keep_copy,
    load_checkpoint,
    save_checkpoint,
    write_atomically,
)
from robustdml_ext.training.errors import CheckpointError


def _state(step: int = 1) -> dict[str, Any]:
    return {
        "recipe": {"seed": 0},
        "step": step,
        "method": {"weight": torch.full((1000,), float(step))},
        "optimizer": {},
        "random": {},
        "metrics": {},
        "best": None,
    }


def test_round_trip(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", _state(7))
    state = load_checkpoint(tmp_path / "last.pt")
    assert state["step"] == 7 and torch.equal(state["method"]["weight"], torch.full((1000,), 7.0))
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_failure_at_any_stage_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, _state(1))
    before = path.read_bytes()

    def half(state: object, file: BinaryIO) -> None:
        file.write(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    if where == "write":
        monkeypatch.setattr(torch, "save", half)
    else:
        monkeypatch.setattr(os, where, refuse)
    with pytest.raises(OSError):
        save_checkpoint(path, _state(2))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


def test_data_reach_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    write_atomically(tmp_path / "file", lambda file: file.write(b"x"))
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("kept", [0, 1, 10, 500, -1])
def test_a_truncated_file_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, _state())
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    with pytest.raises(CheckpointError, match=r"last\.pt is truncated or is not a checkpoint"):
        load_checkpoint(path)


class _Foreign:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("true",))


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], _Foreign(), "text"])
def test_a_foreign_file_is_refused_and_runs_no_code(tmp_path: Path, content: object) -> None:
    path = tmp_path / "last.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "last.pt")


def test_an_incomplete_state_is_never_written(tmp_path: Path) -> None:
    state = _state()
    del state["optimizer"]
    with pytest.raises(ValueError, match="optimizer"):
        save_checkpoint(tmp_path / "last.pt", state)


def test_copies_outlive_the_next_checkpoint_and_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for step in (1, 2, 3, 4):
        save_checkpoint(path, _state(step))
        keep_copy(path, step, keep=2)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "last.pt",
        "step-00000003.pt",
        "step-00000004.pt",
    ]
    assert load_checkpoint(tmp_path / "step-00000003.pt")["step"] == 3


def test_copies_of_a_future_given_up_go_first(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for step in (10, 20, 30):
        save_checkpoint(path, _state(step))
        keep_copy(path, step, keep=3)
    (tmp_path / "step-mine.pt").write_bytes(b"not ours")
    save_checkpoint(path, _state(15))
    keep_copy(path, 15, keep=2)
    assert sorted(entry.name for entry in tmp_path.glob("step-*")) == [
        "step-00000010.pt",
        "step-00000015.pt",
        "step-mine.pt",
    ]


def test_writing_into_one_copy_leaves_the_others(tmp_path: Path) -> None:
    last = tmp_path / "last.pt"
    save_checkpoint(last, _state(3))
    keep_copy(last, 3, keep=1)
    copy_atomically(last, tmp_path / "best.pt")
    last.write_bytes(b"in place, as cp does")
    assert load_checkpoint(tmp_path / "best.pt")["step"] == 3
    assert load_checkpoint(tmp_path / "step-00000003.pt")["step"] == 3
