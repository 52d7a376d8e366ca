"""`run analyze`: the story of a trained run, told by two files, and runs of every kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from python_tests.data import layouts
from robustdml_ext import run
from robustdml_ext.data import load
from robustdml_ext.recipes import resolve
from robustdml_ext.tools import console
from robustdml_ext.tools.analysis_options import AnalysisOptions, choose_threat
from robustdml_ext.tools.analyze import analyze_run
from robustdml_ext.tools.finished import read_run
from robustdml_ext.tools.models import find_model
from robustdml_ext.training.checkpoint import save_checkpoint
from robustdml_ext.training.folder import prepare_folder

EPSILON = 0.2
QUICK = (
    "--threads", "1", "--no-tensorboard", "--eval-steps", "3", "--attack-epsilons", str(EPSILON),
)  # fmt: skip


TINY = ("--arch", "small", "--image-size", "16", "--weights", "none", "--select-on", "last", "--device", "cpu")

BY_VALIDATION = ("--select-on", "validation", "--batch-size", "24", "--evaluate-every", "1")


def _train(folder: Path, *words: str) -> Path:
    assert run.main([*words, *QUICK, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short MDProp run of two auxiliary norms, analyzed."""
    folder = _train(tmp_path_factory.mktemp("runs") / "mdprop", "mdprop", "--targets", "1", "5", "--epochs", "6")
    assert run.main(["analyze", str(folder), "--threads", "1"]) == 0
    return folder


def _facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "analysis.json").read_text())
    return facts


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "analysis.npz", allow_pickle=False) as found:
        return dict(found)


def _result(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def _embedded(folder: Path, pixels: torch.Tensor, distribution: int = 0) -> torch.Tensor:
    """Unit embeddings in float64."""
    model = find_model(str(folder)).build(1)
    with torch.no_grad():
        found = model(pixels, distribution=distribution).double()
    return found / found.norm(dim=1, keepdim=True)


def test_norms_grow_apart(trained: Path) -> None:
    facts, arrays = _facts(trained)["norms"], _arrays(trained)
    assert facts["distributions"] == ["clean", "T1", "T5"] and facts["pairs"] == [[0, 1], [0, 2], [1, 2]]
    state = torch.load(trained / "last.pt", weights_only=True)["method"]
    weights = [value for name, value in state.items() if name.startswith("embedder.backbone") and value.shape[0] == 3]
    assert len(facts["layers"]) == 3 and weights
    first = facts["layers"][0]
    for kind, parameter in (("gamma", "weight"), ("beta", "bias")):
        own = state[f"embedder.backbone.{first}.{parameter}"].double()
        found = arrays[f"norm_{kind}"][:, arrays["norm_layer"] == 0]
        for place, (i, j) in enumerate(facts["pairs"]):
            np.testing.assert_allclose(found[place], (own[i] - own[j]).numpy(), atol=1e-7)
        sizes = np.abs(arrays[f"norm_{kind}"]).mean(1)
        np.testing.assert_allclose(facts["mean_absolute"][kind], sizes, rtol=1e-5)
        # The two attacked distributions have more in common with each other than with clean images.
        assert sizes.min() > 1e-3 and sizes[2] < min(sizes[0], sizes[1])


def test_figures_under_each_norm_are_those_of_embeddings_under_it(trained: Path) -> None:
    entries = _facts(trained)["auxiliary"]["distributions"]
    assert [entry["name"] for entry in entries] == ["clean", "T1", "T5"]
    assert entries[0]["metrics"] == _result(trained)["results"][0]["metrics"]
    images = load("digits").test
    pixels, labels = images.batch(range(len(images)))
    for k, entry in enumerate(entries):
        units = _embedded(trained, pixels, k)
        nearest = (units @ units.T).fill_diagonal_(-2).argmax(1)
        recall = float((labels[nearest] == labels).double().mean())
        assert abs(entry["metrics"]["recall@1"] - recall) < 1.5 / len(labels)  # a query whose two nearest are as near
    recalls = [entry["metrics"]["recall@1"] for entry in entries]
    assert recalls[1] != recalls[0] and recalls[2] != recalls[0]


def test_sheets_are_what_a_plain_search_finds(trained: Path) -> None:
    facts, arrays = _facts(trained)["sheets"], _arrays(trained)
    names, count = facts["class_names"], len(arrays["sheet_query"])
    images = load("digits").test
    pixels, labels = images.batch(range(len(images)))
    assert facts["gallery_images"] == len(labels) and facts["top"] == 5 and facts["drawn_from"] == 512
    shown = arrays["sheet_query"][..., 0] / 255
    # Which image each query is: digits have 17 levels, which 256 tell apart.
    differs = np.abs(shown[:, None] - pixels[:, 0].numpy()[None]).reshape(count, len(labels), -1).max(2)
    rows = torch.from_numpy(differs.argmin(1))
    assert differs.min(1).max() < 1 / 255 and len(rows.unique()) == count
    clean = pixels[rows]
    moved = arrays["sheet_perturbation"].transpose(0, 3, 1, 2)
    assert 0.9 * EPSILON < np.abs(moved).max() <= EPSILON + 1e-6
    attacked = clean + torch.from_numpy(moved)
    assert float(attacked.min()) >= -1e-6 and float(attacked.max()) <= 1 + 1e-6
    np.testing.assert_allclose(arrays["sheet_attacked"][..., 0] / 255, attacked[:, 0].numpy(), atol=0.51 / 255)
    gallery = _embedded(trained, pixels)
    rights = {}
    for kind, queries in (("clean", clean), ("attacked", attacked)):
        cosines = _embedded(trained, queries) @ gallery.T
        cosines[torch.arange(count), rows] = -2
        nearest = cosines.topk(5, dim=1)
        np.testing.assert_allclose(arrays[f"sheet_{kind}_similarity"], nearest.values.numpy(), atol=2e-5)
        found = [[int(names[name]) - 5 for name in row] for row in arrays[f"sheet_{kind}_top_class"]]
        pictures = arrays[f"sheet_{kind}_top"][..., 0] / 255
        for k in range(5):
            clear = (cosines.topk(6, dim=1).values.diff(dim=1).abs()[:, max(k - 1, 0) : k + 1] > 1e-5).all(1)
            assert clear.double().mean() > 0.9
            for row in torch.nonzero(clear).flatten().tolist():
                item = int(nearest.indices[row, k])
                assert found[row][k] == int(labels[item])
                np.testing.assert_allclose(pictures[row, k], pixels[item, 0].numpy(), atol=0.51 / 255)
        rights[kind] = np.array([row[0] for row in found]) == labels[rows].numpy()
    assert [int(names[name]) - 5 for name in arrays["sheet_query_class"]] == labels[rows].tolist()
    at_random = arrays["sheet_random"]
    assert at_random[:8].all() and not at_random[8:].any() and 8 < count <= 16
    assert rights["clean"][8:].all() and not rights["attacked"][8:].any()
    assert count - 8 <= facts["broken"] <= facts["right"] <= 512


def test_the_map_has_both_kinds_of_images(trained: Path) -> None:
    facts, arrays = _facts(trained)["map"], _arrays(trained)
    assert facts["classes"] == ["5", "6", "7", "8", "9"] and "openTSNE" in facts["method"]
    assert np.bincount(arrays["map_class"]).tolist() == [40] * 5
    assert arrays["map_clean"].shape == arrays["map_attacked"].shape == (200, 2)
    assert np.isfinite(arrays["map_clean"]).all() and np.isfinite(arrays["map_attacked"]).all()
    # Classes hold together: most images have their like beside them.
    places, classes = arrays["map_clean"].astype(np.float64), arrays["map_class"]
    distances = ((places[:, None] - places[None]) ** 2).sum(2)
    np.fill_diagonal(distances, np.inf)
    assert (classes[distances.argmin(1)] == classes).mean() > 0.8


def test_the_same_again_and_only_where_something_has_changed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    written = (folder / "analysis.npz").stat().st_mtime_ns
    assert run.main(["analyze", str(folder), str(folder / "result.json")]) == 0
    shown = capsys.readouterr().out
    assert "up to date" in shown and "points from clean norms" in shown and "clean and T5" in shown
    assert (folder / "analysis.npz").stat().st_mtime_ns == written
    before = _arrays(folder)
    assert run.main(["analyze", str(folder), "--again"]) == 0
    after = _arrays(folder)
    assert set(before) == set(after) and len(before) == 17
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)
    # Other options are another analysis.
    words = ["--seed", "1", "--queries", "3", "--classes", "2", "--images-per-class", "6", "--steps", "1"]
    assert run.main(["analyze", str(folder), *words, "--epsilon", "8/255"]) == 0
    facts, other = _facts(folder), _arrays(folder)
    assert facts["threat"]["epsilon"] == 8 / 255 and facts["threat"]["steps"] == 1
    assert facts["threat"]["step_size"] == 8 / 255 and len(facts["map"]["classes"]) == 2
    assert other["map_clean"].shape == (12, 2) and other["sheet_random"].sum() == 3
    # So are other weights.
    (folder / "analysis.json").write_text(json.dumps(facts | {"weights": facts["weights"] | {"sha256": "0" * 64}}))
    assert run.main(["analyze", str(folder), *words, "--epsilon", "8/255"]) == 0
    assert "up to date" not in capsys.readouterr().out.rpartition("analysis:")[2]
    assert _facts(folder)["weights"]["sha256"] == facts["weights"]["sha256"]


def test_a_run_begun_anew_takes_its_analysis_along(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    prepare_folder(folder, go_on=True)
    assert (folder / "analysis.json").exists() and (folder / "analysis.npz").exists()
    prepare_folder(folder, go_on=False)
    assert not (folder / "analysis.json").exists() and not (folder / "analysis.npz").exists()


@pytest.mark.parametrize(
    ("words", "distributions", "missing"),
    [
        (("standard", *BY_VALIDATION), None, "one distribution, without auxiliary norms"),
        (("advprop",), ["clean", "T1"], ""),
        (("mdprop", "--targets", "1", "3", "5"), ["clean", "T1", "T3", "T5"], ""),
        (("eat", "--members", "2"), None, "an ensemble"),
        (("ensemble", "--members", "2", "--eval-route", "every"), None, "an ensemble"),
    ],
)
def test_runs_of_every_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], distributions: list | None, missing: str
) -> None:
    folder = _train(tmp_path / "run", *words, "--iterations", "4")
    assert run.main(["analyze", str(folder), "--queries", "2", "--images-per-class", "4"]) == 0
    facts, arrays = _facts(folder), _arrays(folder)
    assert facts["threat"] == _result(folder)["results"][1]["threat"]
    assert len(arrays["map_clean"]) == 20 and arrays["sheet_random"].sum() == 2
    if distributions is None:
        assert missing in facts["norms"]["missing"] and missing in facts["auxiliary"]["missing"]
        assert "norm_gamma" not in arrays and missing in capsys.readouterr().out
    else:
        pairs = len(distributions) * (len(distributions) - 1) // 2
        assert facts["norms"]["distributions"] == distributions and len(arrays["norm_gamma"]) == pairs
        assert [entry["name"] for entry in facts["auxiliary"]["distributions"]] == distributions
    assert ("members elect" in facts["sheets"]["note"]) == (words[0] in ("eat", "ensemble"))
    assert facts["weights"]["file"] == ("best.pt" if "validation" in words else "last.pt")


def test_a_separate_gallery_is_searched_whole(tmp_path: Path) -> None:
    root = layouts.write_inshop(tmp_path / "data", 4)
    folder = _train(
        tmp_path / "run", "standard", "--dataset", "inshop", "--root", str(root), "--batch-size", "4",
        "--samples-per-class", "2", "--iterations", "1", *TINY,
    )  # fmt: skip
    shutil.move(root, tmp_path / "elsewhere")
    assert run.main(["analyze", str(folder)]) == 2
    assert run.main(["analyze", str(folder), "--root", str(tmp_path / "elsewhere")]) == 0
    facts, arrays = _facts(folder), _arrays(folder)
    assert facts["sheets"]["gallery_images"] == len(load("inshop", tmp_path / "elsewhere").gallery or ())
    # Colored, and with a gray picture and no class where the gallery has no more.
    assert arrays["sheet_query"].shape[1:] == (16, 16, 3) and not np.isnan(arrays["sheet_perturbation"]).any()
    none = arrays["sheet_clean_top_class"] < 0
    assert (np.isnan(arrays["sheet_clean_similarity"]) == none).all()
    assert (arrays["sheet_clean_top"][none] == 128).all()


def test_prototypes_are_shown_under_the_attack_on_their_similarity(tmp_path: Path) -> None:
    root = layouts.write_pacs(tmp_path / "data", 8)
    folder = _train(
        tmp_path / "run", "prototypes", "--recipe", "prototypes/table2-pacs-sketch", "--root", str(root),
        "--batch-size", "8", "--samples-per-class", "4", "--epochs", "1", "--embedding-dim", "8",
        "--eval-attacks", "pgd", "fgsm", *TINY,
    )  # fmt: skip
    assert run.main(["analyze", str(folder)]) == 0
    facts, arrays = _facts(folder), _arrays(folder)
    assert facts["threat"]["name"] == "pgd" and "logits" in facts["sheets"]["note"]
    assert 0.5 * EPSILON < np.abs(arrays["sheet_perturbation"]).max() <= EPSILON + 1e-6
    assert run.main(["analyze", str(folder), "--attack", "out", "--steps", "2"]) == 0
    assert _facts(folder)["threat"]["name"] == "out"


def test_what_a_zero_shot_run_of_prototypes_has_not(tmp_path: Path) -> None:
    words = ("prototypes", "--epochs", "1", "--verification-trials", "100", "--few-shot-episodes", "3")
    folder = _train(tmp_path / "run", *words)
    assert run.main(["analyze", str(folder)]) == 0
    facts = _facts(folder)
    assert facts["threat"] is None and "name one by --attack" in facts["map"]["missing"]
    assert not any(name.startswith(("map", "sheet")) for name in _arrays(folder))
    assert run.main(["analyze", str(folder), "--attack", "stax", "--epsilon", "0.1", "--steps", "2"]) == 0
    assert _facts(folder)["threat"]["epsilon"] == 0.1 and "map_clean" in _arrays(folder)


def test_of_sound_everything_is_missing_and_no_recording_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = resolve("prototypes", {"dataset": "voxceleb", "root": str(tmp_path / "none")}).model_dump(mode="json")
    state = {"recipe": recipe, "step": 4, "method": {}, "optimizer": {}, "random": {}, "metrics": {}, "best": None}
    save_checkpoint(tmp_path / "last.pt", state)
    result = {
        "recipe": recipe,
        "results": [{"threat": None, "metrics": {}}],
        "weights": {"chosen": "last"},
        "timing": {"steps": 4},
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert run.main(["analyze", str(tmp_path)]) == 0
    facts = _facts(tmp_path)
    assert all(facts[part]["missing"] for part in ("map", "sheets", "norms", "auxiliary")) and not _arrays(tmp_path)
    assert facts["weights"]["step"] == 4 and "voxceleb: one distribution" in capsys.readouterr().out


def test_what_cannot_be_analyzed_is_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> str:
        assert run.main(["analyze", *words]) == 2
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return captured.err

    assert "name the folder of a run that has ended" in said(str(tmp_path / "none"))
    assert "at least one folder" in said()
    for words, message in (
        (("--attack", "fly"), "attack must be one of"),
        (("--attack", "gallery-raise"), "moves gallery items"),
        (("--attack", "fgsm"), "on a classifier"),
        (("--epsilon", "0"), "above 0"),
        (("--steps", "0"), "steps must be at least 1"),
        (("--queries", "0"), "queries must be at least 1"),
        (("--seed", "-1"), "seed"),
        (("--device", "nowhere"), "cannot be used"),
    ):
        assert message in said(str(trained), *words), words
    folder = shutil.copytree(trained, tmp_path / "run")
    result = _result(folder)
    result["timing"]["steps"] -= 1
    (folder / "result.json").write_text(json.dumps(result))
    assert "has gone on since" in said(str(folder), "--again")
    (folder / "last.pt").unlink()
    assert "last.pt is not there" in said(str(folder))
    evaluated = tmp_path / "evaluation"
    evaluated.mkdir()
    (evaluated / "result.json").write_text(
        json.dumps({"recipe": result["recipe"], "entries": [{"threat": None, "metrics": {}}]})
    )
    assert "judgment by `evaluate`" in said(str(evaluated))


def test_what_is_written_survives_an_interruption(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts never stand beside the arrays of another analysis."""
    from robustdml_ext.tools import analyze

    folder = shutil.copytree(trained, tmp_path / "run")
    write, calls = analyze.write_atomically, []

    def interrupted(path: Path, content: Any) -> None:
        calls.append(path.name)
        if path.name == "analysis.json":
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(analyze, "write_atomically", interrupted)
    with pytest.raises(KeyboardInterrupt):
        analyze_run(folder, console(), options=AnalysisOptions(seed=3), again=True)
    assert calls == ["analysis.npz", "analysis.json"] and not (folder / "analysis.json").exists()
    monkeypatch.undo()
    analyze_run(folder, console())
    assert _facts(folder)["seed"] == 0


def test_the_attack_is_the_first_that_moves_queries(trained: Path) -> None:
    result, recipe, _ = read_run(trained)
    stax, mtax = (entry["threat"] for entry in result["results"][1:])
    assert vars(choose_threat(result, recipe, AnalysisOptions())) == stax
    assert vars(choose_threat(result, recipe, AnalysisOptions(attack="mtax"))) == mtax
    moved = {
        "threat": {**stax, "name": "gallery-raise", "attacked": "gallery", "algorithm": "adaptive", "step_size": None}
    }
    of_gallery = {**result, "results": [result["results"][0], moved, result["results"][2]]}
    assert vars(choose_threat(of_gallery, recipe, AnalysisOptions())) == mtax
    assert choose_threat({**result, "results": result["results"][:1]}, recipe, AnalysisOptions()) is None
    away = choose_threat(result, recipe, AnalysisOptions(attack="away", epsilon=0.05))
    assert away is not None and away.epsilon == 0.05 and away.random_start == pytest.approx(0.005)
    assert away.steps == recipe.eval_steps == 3
