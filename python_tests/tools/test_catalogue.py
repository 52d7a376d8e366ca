"""`run list` and `run show`: every name there is, without PyTorch, and recipes that can be run as they are shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from commands import environment_with

from robustdml_ext import assemble, evaluation, run
from robustdml_ext.data.catalog import SETS
from robustdml_ext.models.architectures import OWN, WIDE_RESNET
from robustdml_ext.recipes import METHODS, Recipe, packaged_recipes, read_recipe_file, resolve
from robustdml_ext.recipes.commandline import parse_run
from robustdml_ext.tools import TOOLS
from robustdml_ext.tools.catalogue import ATTACKS, BACKBONES, CLASS_ATTACKS, KINDS, LOSSES, PAPERS


def test_the_lines_are_of_all_that_can_be_built() -> None:
    assert set(LOSSES) == set(get_args(Recipe.model_fields["loss"].annotation))
    assert set(LOSSES) == set(assemble.LOSSES) | {"prototypical"}
    assert set(METHODS) == set(assemble.METHODS) | set(assemble.ENSEMBLES) | {"prototypes"}
    assert set(BACKBONES) == set(OWN) | {WIDE_RESNET}
    assert {name: attack.summary for name, attack in evaluation.ATTACKS.items()} == ATTACKS
    assert {name: attack.summary for name, attack in evaluation.CLASS_ATTACKS.items()} == CLASS_ATTACKS
    assert {name.partition("/")[0] for name in packaged_recipes()} == set(PAPERS)
    assert set(KINDS["datasets"][1]()) == set(SETS)


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["list"]) == 0
    listed = capsys.readouterr().out
    for _, entries in KINDS.values():
        for name, line in entries().items():
            assert name in listed and line in listed
    at = listed.index("    table3: `table 'mdprop/table3*'` runs all")
    assert listed.index("MDProp (Singh et al.)") < at < listed.index("mdprop/table3-sop-standard")


def test_list_of_one_kind_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["list", "losses"]) == 0
    listed = capsys.readouterr().out
    assert "proxyanchor" in listed and "mdprop" not in listed
    assert run.main(["list", "losses", "recipes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["losses"] == LOSSES and set(found["recipes"]) == set(packaged_recipes()) and len(found) == 2
    assert run.main(["list", "lossses"]) == 2
    assert "kinds must be of methods, losses" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "mdprop/table1-cub200-multisimilarity-mdprop-1-5", "prototypes/table1-mnist", "prototypes/table3-voxceleb",
        "eat/table2-cub200-2010-bninception-at",
    ],
)  # fmt: skip
def test_what_show_prints_of_a_recipe_can_be_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = read_recipe_file(name)
    for words in ([], ["--yaml"]):
        assert run.main(["show", name, *words]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith("#") == (not words)
        own = tmp_path / "mine.yaml"
        own.write_text(shown)
        method = str(file.fields["method"])
        request = parse_run(method, "", ["--recipe", str(own)], "run")
        assert request.recipe == resolve(recipe_file=file) and request.published == file.published
        assert yaml.safe_load(shown)["title"] == file.title


def test_show_says_what_was_published_and_how_to_run_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["show", "mdprop/table1-cub200-multisimilarity-mdprop-1-5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    remarks = [line for line in lines if line.startswith("#")]
    assert remarks == lines[: len(remarks)] and max(map(len, remarks)) <= 160
    clean = next(line for line in remarks if line.split()[1:2] == ["clean"])
    assert clean.split() == ["#", "clean", "65.75", "±", "0.28", "85.23", "±", "0.21", "70.43", "±", "0.04", "0.974"]
    assert any("57.27 ± 1.9" in line for line in remarks)
    said = "\n".join(remarks)
    assert "--recipe mdprop/table1-cub200-multisimilarity-mdprop-1-5 --root DIR" in said
    assert "table 'mdprop/table1*' --seeds 3 --root DIR" in said
    assert "cub200: CUB-200-2011" in said and "named by --root" in said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("proxyanchor", ["of losses", "--proxyanchor-margin"]),
        ("normalizedsoftmax", ["of losses", "--softmax-temperature"]),
        ("eat", ["of methods", "--self-transfer", "eat --help"]),
        ("triplet", ["of methods", "of losses", "--triplet-mining"]),
        ("stax", ["of attacks", "one image of another class"]),
        ("apgd", ["of class-attacks", "Auto-PGD"]),
        ("sop", ["of datasets", "Stanford Online Products", "protocol zero-shot", "--root"]),
        ("xvector", ["of backbones", "time-delay"]),
    ],
)
def test_show_of_another_name(name: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["show", name]) == 0
    shown = capsys.readouterr().out
    for word in words:
        assert word in shown


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tripplet", "did you mean triplet"),
        ("mdprop/table3-sop-standart", "mdprop/table3-sop-standard"),
        ("x", "`list`"),
    ],
)
def test_show_of_nothing(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["show", name]) == 2
    assert hint in capsys.readouterr().err


def test_help_list_and_show_start_without_pytorch() -> None:
    """In one process: none of them imports it, nor does asking any tool of recipes for help."""
    code = (
        "import sys; from robustdml_ext.run import main; codes = [main(words.split()) for words in "
        "('--help', 'list', 'list --json', 'show mdprop/table3-sop-standard', 'show proxyanchor', 'show stax', "
        "'table --help', 'table mdprop/table1* --seeds 0')]; "
        "print('\\n', codes, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment_with(), timeout=600
    )
    assert done.stdout.splitlines()[-1].strip() == "[0, 0, 0, 0, 0, 0, 0, 2] False", done.stderr


def test_a_tool_is_registered_by_one_line() -> None:
    assert list(run.TOOLS) == list(TOOLS) and not set(TOOLS) & set(METHODS)
    for tool in TOOLS.values():
        assert tool.summary.endswith(".") and (not tool.stopped or tool.stopped.endswith("."))
