"""`run evaluate --task`: one model's classification, few-shot episodes, verification and retrieval."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from prototypes_run import judged, train, write_digits

from robustdml_ext import data, run
from robustdml_ext.evaluation import embed
from robustdml_ext.models import build_embedder
from robustdml_ext.tools.evaluate_options import Evaluate, JudgmentOptions, ModelOptions, TaskOptions
from robustdml_ext.tools.models import find_model
from robustdml_ext.tools.task_options import READ_BY, check_options
from robustdml_ext.tools.tasks import class_attacks, step_size

QUICK = ("--threads", "1", "--device", "cpu")
FEW = ("--episodes", "20", "--trials", "500")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "trained")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A network without prototypes, as `evaluate` is given it."""
    path = tmp_path_factory.mktemp("weights") / "backbone.pt"
    torch.manual_seed(0)
    torch.save(build_embedder("small", embedding_dim=16, channels=1).export().state_dict(), path)
    return ["small", "--weights", str(path), "--dataset", "digits"]


def test_a_run_of_new_classes_has_every_clean_task_in_its_result(trained: Path) -> None:
    result = judged(trained)
    (entry,) = result["results"]
    kinds = ("recall@1", "cosine_recall@8", "eer_sum", "few_shot_5way_1shot_cosine_interval", "min_dcf@0.01_similarity")
    assert set(kinds) <= set(entry["metrics"]) and (trained / "classifier.pt").is_file()


def test_classification_by_each_head_clean_and_attacked(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(trained), "--task", "classification", "--split", "train", "--limit", "100", *QUICK]
    attacks = ["--attacks", "standard", "apgd-margin", "--epsilons", "0.1", "--steps", "3", "--step-size", "0.05"]
    assert run.main([*words, *attacks, "--out", str(tmp_path / "out")]) == 0
    result = judged(tmp_path / "out")
    names = [entry["threat"] and entry["threat"]["name"] for entry in result["results"]]
    assert names == [None, "fgsm", "pgd", "apgd-margin", "worst"]
    clean, fgsm, pgd, _, worst = (entry["metrics"] for entry in result["results"])
    assert set(clean) == {"accuracy_similarity", "accuracy_dense"} and min(clean.values()) > 0.9
    assert set(fgsm) == {*clean, "accuracy_similarity_from_dense", "accuracy_dense_from_similarity"}
    for name, value in clean.items():
        assert worst[name] <= min(fgsm[name], pgd[name]) <= fgsm[name] < value
    assert result["results"][2]["threat"]["step_size"] == 0.05 and result["data"]["images"] == 100
    # The accuracy is the model's own arg max.
    found = find_model(str(trained))
    assert found.classifier is not None
    images = data.load("digits").train.select(torch.linspace(0, 900, 100).round().long().tolist())
    rows, labels = embed(found.classifier(1).encoder, data.evaluation_batches(images, 50), "cpu")
    hits = found.classifier(1).heads.logits(rows).argmax(1) == labels
    assert clean["accuracy_similarity"] == pytest.approx(float(hits.double().mean()), abs=0.02)
    said = capsys.readouterr().out
    for text in ("Classification", "SIM %", "PGD-3, ε = 0.1, step 0.05", "APGD-3 on the margin", "worst of 3"):
        assert text in said
    assert run.main(["compare", str(tmp_path / "out")]) == 0
    assert "SIM %" in capsys.readouterr().out


def test_few_shot_verification_and_retrieval_together(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    tasks = ["few-shot", "verification", "retrieval"]
    words = ["evaluate", str(trained), "--task", *tasks, "--ways", "2", "5", "--shots", "1", "--recall-at", "1", "3"]
    assert run.main([*words, "--queries", "4", *FEW, *QUICK]) == 0
    result = judged(trained / "evaluation-digits-test-few-shot+verification+retrieval")
    (entry,) = result["results"]
    figures = entry["metrics"]
    assert set(figures) == {
        *(f"few_shot_{ways}way_1shot_{name}{end}" for ways in (2, 5) for name in ("similarity", "cosine")
          for end in ("", "_interval")),
        *(f"{figure}_{name}" for figure in ("eer", "min_dcf@0.01", "min_dcf@0.05")
          for name in ("similarity", "cosine", "sum")),
        *(f"{name}recall@{k}" for name in ("", "cosine_", "sum_") for k in (1, 3)),
    }  # fmt: skip
    # Two ways are easier than five, and both than chance; the test digits were never trained on.
    two, five = (figures[f"few_shot_{ways}way_1shot_cosine"] for ways in (2, 5))
    assert two > five > 0.25 and figures["recall@1"] <= figures["recall@3"]
    assert result["protocol"] == {
        "task": tasks, "seed": 0, "scorers": ["similarity", "cosine", "sum"], "recall_at": [1, 3], "trials": ["500"],
        "symmetric": False, "queries": 4, "episodes": 20,
    }  # fmt: skip
    said = capsys.readouterr().out
    for text in ("SIM + cosine", "5-way 1-shot %", "EER %", "R@3 %"):
        assert text in said
    assert run.main([*words, *QUICK]) == 2 and "--overwrite" in capsys.readouterr().err


def test_scorers_are_those_asked_for_and_the_first_has_the_plain_recall(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(trained), "--task", "retrieval", "--recall-at", "1", "--limit", "200", *QUICK]
    assert run.main([*words, "--out", str(tmp_path / "first")]) == 0
    capsys.readouterr()
    assert run.main([*words, "--scorers", "cosine", "published-sum", "--out", str(tmp_path / "second")]) == 0
    first, second = (judged(tmp_path / name)["results"][0]["metrics"] for name in ("first", "second"))
    assert set(second) == {"recall@1", "published-sum_recall@1"}
    assert second["recall@1"] == first["cosine_recall@1"] != first["recall@1"]
    said = capsys.readouterr().out
    assert "│ cosine" in said and "│ SIM " not in said


def test_a_model_without_prototypes_is_judged_by_the_cosine(
    plain: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", *plain, "--task", "retrieval", "verification", "few-shot", "--limit", "300", *FEW, *QUICK]
    assert run.main([*words, "--out", str(tmp_path / "out")]) == 0
    result = judged(tmp_path / "out")
    figures = result["results"][0]["metrics"]
    assert {"recall@1", "eer_cosine", "few_shot_5way_5shot_cosine"} < set(figures)
    assert not any("similarity" in name or "sum" in name for name in figures)
    assert result["protocol"]["scorers"] == ["cosine"]
    said = capsys.readouterr().out
    assert "│ cosine" in said and "│ SIM " not in said
    assert run.main(["compare", str(tmp_path / "out")]) == 0


def test_what_cannot_be_judged_ends_with_2_and_one_message(
    trained: Path, plain: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, out = [str(trained)], ["--out", str(tmp_path / "out")]
    for model, words, message in (
        (plain, ["--task", "classification"], "classification needs prototypes, and small has none"),
        (plain, ["--task", "retrieval", "--scorers", "similarity"], "similarity need a learned similarity"),
        (own, ["--task", "retrieval", "--scorers", "sim"], "scorers: expected names of similarity, cosine"),
        (own, ["--task", "classification"], "no prototype of 5, 6, 7, 8, 9; add them from examples first"),
        (own, ["--task", "suite", "retrieval"], "the suite has a result of its own"),
        (own, ["--task", "classification", "--attacks", "stax"], "attacks on a classifier must be of standard, strong"),
        (own, ["--task", "classification", "--step-size", "big"], "step_size must be a number above 0"),
        (own, ["--task", "few-shot", "--ways", "1"], "ways must be at least 2; got 1"),
        (own, ["--task", "few-shot", "--shots", "0"], "shots must be at least 1; got 0"),
        (own, ["--task", "few-shot", "--episodes", "1"], "episodes must be at least 2; got 1"),
        (own, ["--task", "few-shot", "--ways", "6"], "6"),
        (own, ["--task", "verification", "--trials", "many"], "trials must be a number above 0, all; got 'many'"),
        (own, ["--task", "verification", "--trials", "0"], "trials must be a number above 0"),
    ):
        assert run.main(["evaluate", *model, *words, *QUICK, *out]) == 2, message
        said = capsys.readouterr().err
        assert message in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_names_knows_its_classes_by_their_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_digits(tmp_path / "data", 20, 1, 6)  # of class folders, 1 to 3 train and are numbered from 0
    words = ["prototypes", "--dataset", "folder", "--root", str(root), "--arch", "small", "--weights", "none"]
    words += ["--image-size", "8", "--channels", "1", "--batch-size", "30", "--samples-per-class", "10"]
    words += ["--epochs", "40", "--select-on", "last"]
    words += ["--threads", "1", "--few-shot-ways", "--verification-trials", "0", "--out", str(tmp_path / "run")]
    assert run.main(words) == 0
    words = ["--task", "classification", "--attacks", "none", *QUICK]
    figures = []
    for name in ("classifier.pt", "last.pt"):
        out = tmp_path / name.partition(".")[0]
        own = ["evaluate", str(tmp_path / "run" / name), "--split", "train", "--out", str(out)]
        assert run.main([*own, *words]) == 0, capsys.readouterr().err
        figures.append(judged(out)["results"][0]["metrics"])
    assert figures[0] == figures[1] and figures[0]["accuracy_similarity"] > 0.5
    capsys.readouterr()
    assert run.main(["evaluate", str(tmp_path / "run" / "last.pt"), *words]) == 2
    error = capsys.readouterr().err
    assert "has no names of its 3 classes" in error and "of folder that it was trained on alone" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ways", "3"], "--ways is read by --task few-shot alone; got --task suite"),
        (["--trials", "7"], "--trials is read by --task verification alone"),
        (["--scorers", "cosine"], "--scorers is read by --task retrieval or verification or few-shot alone"),
        (["--heads", "dense", "--task", "retrieval"], "--heads is read by --task classification alone"),
        (["--step-size", "0.1", "--task", "few-shot"], "--step-size is read by --task classification alone"),
        (["--attacks", "pgd", "--task", "retrieval"], "--attacks is read by --task suite or classification alone"),
        (["--episodes", "7", "--task", "retrieval", "verification"], "got --task retrieval verification"),
        (["--symmetric", "--task", "few-shot"], "--symmetric is read by --task verification alone"),
        (["--corruptions", "all", "--task", "classification"], "--corruptions is read by --task suite alone"),
        (["--metrics", "recall", "--task", "retrieval"], "--metrics is read by --task suite alone"),
        (["--surrogate", "small", "--task", "retrieval"], "--surrogate is read by --task suite alone"),
    ],
)
def test_an_option_of_other_tasks_is_refused_before_anything_is_read(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["evaluate", "nowhere", *words]) == 2
    assert message in capsys.readouterr().err


def test_every_option_of_a_task_alone_is_known_to_be() -> None:
    """Those whose help says of which task they are, and which the default leaves as they are."""
    said = {
        field.name: arguments.help.partition("Of ")[2]
        for field in dataclasses.fields(TaskOptions)
        for arguments in get_type_hints(TaskOptions, include_extras=True)[field.name].__metadata__
        if (arguments.help or "").startswith("Of ")
    }
    assert len(said) == 8
    for name, text in said.items():
        assert text.startswith(READ_BY[name][0]) and len(READ_BY[name]) == 1
    check_options(Evaluate(ModelOptions("x"), judgment=JudgmentOptions(attacks=("none",))))


def test_only_the_heads_that_were_trained_are_judged(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["--epochs", "1", "--threads", "1", "--auxiliary-weight", "0", "--few-shot-ways", "--out", str(folder)]
    assert run.main(["prototypes", *words, "--verification-trials", "0"]) == 0
    words = ["evaluate", str(folder), "--task", "classification", "--split", "train", "--attacks", "none", *QUICK]
    assert run.main(words) == 0
    (entry,) = judged(folder / "evaluation-digits-train-classification")["results"]
    assert set(entry["metrics"]) == {"accuracy_similarity"}


def test_words_of_attacks_and_steps() -> None:
    assert class_attacks(("standard", "pgd", "square-margin")) == ("fgsm", "pgd", "square-margin")
    assert class_attacks(("strong",)) == ("apgd", "apgd-margin", "square-margin") and class_attacks(("none",)) == ()
    assert (step_size(None), step_size("0.01"), step_size("2/255")) == (None, 0.01, 2 / 255)
    for word in ("0", "-1", "x", "1/0"):
        with pytest.raises(ValueError, match="step_size must be a number above 0"):
            step_size(word)
