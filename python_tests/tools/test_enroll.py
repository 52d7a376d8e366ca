"""`run enroll`: digits that a run has never seen, from a few files, and what the larger classifier then does."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from prototypes_run import judged, train, write_digits

from python_tests.data.images import truncate
from robustdml_ext import data, run
from robustdml_ext.assemble import build_classifier
from robustdml_ext.evaluation import embed
from robustdml_ext.recipes import make_recipe
from robustdml_ext.training.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "trained")


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("examples") / "digits", 10)


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """The run, to be changed; without its training checkpoints, which enrolment does not need."""
    (tmp_path / "run").mkdir()
    for name in ("classifier.pt", "recipe.yaml"):
        shutil.copy(trained / name, tmp_path / "run" / name)
    return tmp_path / "run"


def test_new_classes_are_added_and_saved(
    folder: Path, examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    before = load_checkpoint(folder / "classifier.pt")
    assert run.main(["enroll", str(folder), "--examples", str(examples), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "  5: 10 examples\n" in said and "5 classes added, 10 in all" in said
    after = load_checkpoint(folder / "classifier.pt")
    assert after["class_names"] == [str(digit) for digit in range(10)]
    key = "loss.heads.prototypes"
    assert after["method"].keys() == before["method"].keys()
    for name, value in before["method"].items():
        assert torch.equal(after["method"][name][:5] if name == key else after["method"][name], value), name
    # Each new prototype is the mean embedding of its examples.
    model = build_classifier(make_recipe(before["recipe"]), 1, before["method"], before["class_names"])
    for place, digit in enumerate(range(5, 10), start=5):
        pixels = [np.array(Image.open(path)) for path in sorted((examples / str(digit)).iterdir())]
        images = torch.from_numpy(np.stack(pixels)).float()[:, None] / 255
        with torch.no_grad():
            torch.testing.assert_close(after["method"][key][place], model.embed(images).mean(0), rtol=1e-4, atol=1e-5)


def test_a_class_is_enrolled_once(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_digits(tmp_path / "first", 1, 5, 5)
    words = ["enroll", str(folder / "classifier.pt"), "--examples"]
    assert run.main([*words, str(first)]) == 0
    assert "  5: 1 example\n" in capsys.readouterr().out
    content = (folder / "classifier.pt").read_bytes()
    again = write_digits(tmp_path / "again", 2, 5, 6)
    assert run.main([*words, str(again)]) == 2
    assert "5 more than once" in capsys.readouterr().err
    assert (folder / "classifier.pt").read_bytes() == content
    assert run.main([*words, str(write_digits(tmp_path / "known", 2, 3, 3))]) == 2
    # What one enrolment leaves another goes on from.
    assert run.main([*words, str(write_digits(tmp_path / "second", 2, 6, 7))]) == 0
    assert load_checkpoint(folder / "classifier.pt")["class_names"] == [str(digit) for digit in range(8)]


def test_another_file_leaves_the_models_own(folder: Path, examples: Path, tmp_path: Path) -> None:
    content = (folder / "classifier.pt").read_bytes()
    words = ["enroll", str(folder), "--examples", str(examples), "--out"]
    assert run.main([*words, str(tmp_path / "larger.pt")]) == 0
    assert (folder / "classifier.pt").read_bytes() == content
    assert len(load_checkpoint(tmp_path / "larger.pt")["class_names"]) == 10


def test_what_cannot_be_enrolled_is_said(
    trained: Path, folder: Path, examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (folder / "classifier.pt").read_bytes()
    write_digits(tmp_path / "empty", 1, 5, 5)
    (tmp_path / "empty" / "six").mkdir()
    (tmp_path / "bare").mkdir()
    broken = write_digits(tmp_path / "broken", 2, 6, 6)
    truncate(next((broken / "6").iterdir()))
    (tmp_path / "half.pt").write_bytes(content[: len(content) // 2])
    for model, words, message in (
        (folder, ["--examples", str(tmp_path / "nowhere")], "nowhere does not exist"),
        (folder, ["--examples", str(tmp_path / "bare")], "no class folders with images"),
        (folder, ["--examples", str(tmp_path / "empty")], "the class folders six have no images"),
        (folder, ["--examples", str(broken)], "6"),
        (folder, ["--examples", str(examples), "--out", str(tmp_path / "no" / "x.pt")], "out: the folder"),
        (folder, ["--examples", str(examples), "--device", "abacus"], "abacus"),
        (tmp_path / "bare", ["--examples", str(examples)], "expected the folder of a finished run of prototypes"),
        (tmp_path / "missing.pt", ["--examples", str(examples)], "is not there"),
        (
            trained / "last.pt",
            ["--examples", str(examples)],
            "is a checkpoint of training; expected a run's classifier.pt",
        ),
        (trained / "backbone.pt", ["--examples", str(examples)], "is not a checkpoint of this package"),
        (tmp_path / "half.pt", ["--examples", str(examples)], "truncated or is not a checkpoint"),
    ):
        assert run.main(["enroll", str(model), *words]) == 2, message
        said = capsys.readouterr().err
        assert message in said and len(said.strip().splitlines()) == 1
    assert (folder / "classifier.pt").read_bytes() == content


def test_the_larger_classifier_tells_new_digits_from_old_ones(folder: Path, examples: Path, tmp_path: Path) -> None:
    assert run.main(["enroll", str(folder), "--examples", str(examples)]) == 0
    for split, least in (("test", 0.15), ("train", 0.85)):
        out = tmp_path / split
        words = ["--task", "classification", "--attacks", "none", "--split", split, "--out", str(out)]
        assert run.main(["evaluate", str(folder), *words, "--threads", "1", "--device", "cpu"]) == 0
        (entry,) = judged(out)["results"]
        # Ten classes to choose from; the dense output layer knows the first five alone.
        assert entry["metrics"]["accuracy_similarity"] > least
        dense = entry["metrics"]["accuracy_dense"]
        assert dense == 0 if split == "test" else dense > 0.85
    state, images = load_checkpoint(folder / "classifier.pt"), data.load("digits").test
    model = build_classifier(make_recipe(state["recipe"]), 1, state["method"], state["class_names"])
    rows, labels = embed(model.encoder, data.evaluation_batches(images, 500), "cpu")
    # Among the new classes alone, as section 3.2 has it, chance is a fifth.
    among = model.heads.logits(rows)[:, 5:].argmax(1)
    assert float((among == labels).double().mean()) > 0.35
