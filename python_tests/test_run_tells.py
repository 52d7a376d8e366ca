"""What the command line tells: doctor, list, show, help."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from commands import environment_with

from robustdml_ext import run


def test_doctor_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"] == torch.__version__
    for status in facts["kernels"].values():
        assert status["live"] or status["reason"]
    assert {entry["name"]: entry["found"] for entry in facts["data"]}["digits"] is True


def test_doctor_list_and_show_are_readable(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["doctor"]) == 0
    assert "Kernel libraries" in capsys.readouterr().out
    assert run.main(["list"]) == 0
    listed = capsys.readouterr().out
    for word in ("mdprop", "digits", "sop", "mdprop/table3-sop-mdprop-1-5", "eat/table1-cub200-2010-mobilenetv2-eat"):
        assert word in listed
    assert run.main(["show", "mdprop/table3-sop-mdprop-1-5"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["recipe"]["targets"] == [1, 5] and shown["published"]["clean"]["recall@1"] == 78.7
    assert run.main(["show", "eat/table4-inshop-mobilenetv2-eat"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["recipe"]["members"] == 3 and shown["published"]["adversarial"]["recall@20"] == 72.64


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--help"]) == 0
    overview = capsys.readouterr().out
    for word in [*run.METHODS, *run.TOOLS, "torchrun", "exit codes"]:
        assert word in overview
    assert run.main([]) == 2
    for command in [*run.METHODS, *run.TOOLS]:
        assert run.main([command, "--help"]) == 0
        assert "xample" in capsys.readouterr().out or command == "list"


@pytest.mark.parametrize("words", [("--help",), ("doctor",), ("mdprop", "--help"), ("list",)])
def test_a_reader_that_leaves_is_no_failure(words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "robustdml_ext.run", *words]
    try:
        done = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment_with(), timeout=240
        )
    finally:
        os.close(writer)
    assert done.returncode in (0, 141) and not done.stderr
