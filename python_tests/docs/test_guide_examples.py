"""The literal examples of the guides do what the guides say."""

from __future__ import annotations

import importlib.util
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from robustdml_ext import ops
from robustdml_ext.attacks import PGD, AdaptivePGD, SquareAttack
from robustdml_ext.data import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.methods import Batch, Context
from robustdml_ext.models import build_embedder
from robustdml_ext.recipes import RecipeError, read_recipe_file, resolve

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "guides" / "examples"


def example(name: str, module: str | None = None) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module or f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize("name", ["add_loss", "add_objective", "add_method"])
def test_example_runs_as_a_script(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_loss_is_its_equation() -> None:
    loss = example("add_loss").CosineHingeLoss(bound=0.1)
    vectors = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3])
    positive, negative = [], []
    for i in range(9):
        for j in range(9):
            cosine = float(vectors[i] @ vectors[j] / vectors[i].norm() / vectors[j].norm())
            if labels[i] != labels[j]:
                negative.append(max(cosine - 0.1, 0.0))
            elif i != j:
                positive.append(1 - cosine)
    expected = sum(positive) / len(positive) + sum(negative) / len(negative)
    assert float(loss(vectors, labels)) == pytest.approx(expected, rel=1e-12)
    assert float(loss(vectors[:1], labels[:1])) == 0


def test_objective_draws_images_to_the_point() -> None:
    torch.manual_seed(0)
    model, images = build_embedder("small", channels=1, embedding_dim=16).eval(), torch.rand(8, 1, 8, 8)
    objective = example("add_objective").TowardsPoint(model(torch.rand(1, 1, 8, 8))[0])
    clean = objective(model(images)).detach()
    for attack in (PGD(0.1, steps=10), AdaptivePGD(0.1, steps=10), SquareAttack(0.1, 50)):
        attacked = attack.perturb(model, images, objective, generator=torch.Generator().manual_seed(0))
        assert float((attacked - images).abs().max()) <= 0.1 + 1e-6
        assert (objective(model(attacked)).detach() <= clean + 1e-6).all()
        assert float(objective(model(attacked)).detach().mean()) < 0.9 * float(clean.mean())


def test_method_trains_both_norms_and_shares_the_rest() -> None:
    torch.manual_seed(0)
    embedder = build_embedder("small", channels=1, embedding_dim=16, distributions=2)
    loss = example("add_loss").CosineHingeLoss()
    method = example("add_method").Noisy(embedder, loss, deviation=0.2).train()
    batch = Batch(torch.rand(12, 1, 8, 8), torch.arange(12) // 3)
    output = method.training_step(batch, torch.Generator().manual_seed(0), Context())
    assert output.loss.item() == pytest.approx(float(output.log["loss/clean"]) + float(output.log["loss/noisy"]))
    assert float(output.log["loss/clean"]) != float(output.log["loss/noisy"])
    with pytest.raises(ValueError, match="expected 2 distributions, got 1"):
        example("add_method").Noisy(build_embedder("small", channels=1, embedding_dim=16), loss)


def test_data_set_reads_its_layout(tmp_path: Path) -> None:
    leaves = example("add_dataset")
    for part, plants in {"train": ("ash", "elm"), "test": ("fir", "oak")}.items():
        for shade, plant in enumerate(plants):
            for number in range(3):
                file = tmp_path / "leaves" / part / plant / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 40), (shade * 200, 0, 0)).save(file)
    splits = leaves.load(ReadOptions(root=tmp_path))
    assert splits.train.class_names == ["ash", "elm"] and splits.test.class_names == ["fir", "oak"]
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert splits.train[3].shape == (3, 32, 32) and float(splits.train[3][0].mean()) == pytest.approx(
        200 / 255, abs=1e-3
    )
    assert "train 6 images of 2 classes" in leaves.probe(tmp_path)
    assert leaves.Leaves(tmp_path, "test").classes == ["fir", "oak"]
    shutil.rmtree(tmp_path / "leaves" / "test")
    with pytest.raises(DataError, match="lacks test/"):
        leaves.load(ReadOptions(root=tmp_path))


def test_recipe_file_is_read_and_flags_win() -> None:
    file = read_recipe_file(EXAMPLES / "add_recipe.yaml")
    recipe = resolve("mdprop", {"epochs": 5}, file)
    assert (recipe.epochs, recipe.loss, recipe.triplet_margin, recipe.targets) == (5, "triplet", 0.2, (1, 5))
    assert recipe.epsilon == pytest.approx(8 / 255)
    assert file.published is not None and file.published.clean["recall@1"] == 96.0
    with pytest.raises(RecipeError, match="is for mdprop"):
        resolve("standard", {}, file)


@pytest.fixture(scope="module")
def operator() -> ModuleType:
    """The example's operator, defined as its file in `robustdml_ext/ops` would define it; once a process."""
    return example("squared_norms", "robustdml_ext.ops.squared_norms")


def test_operator_passes_its_own_tests(operator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "squared_norms", operator.squared_norms, raising=False)
    tests = example("test_squared_norms")
    tests.test_it_is_its_definition()
    tests.test_its_gradient_is_right()
    tests.test_it_says_what_it_expects()
    torch.library.opcheck(torch.ops.robustdml.squared_norms.default, (torch.rand(3, 4, requires_grad=True),))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_operator_kernel_compiles_and_is_taken(operator: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "common").symlink_to(ROOT / "csrc" / "common")
    source = Path(shutil.copy(EXAMPLES / "squared_norms.cpp", tmp_path / "cpu"))
    torch_root, library = Path(torch.__file__).parent, tmp_path / "squared_norms.so"
    flags = ["-std=c++20", "-O1", "-fopenmp-simd", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    flags += ["-isystem", str(torch_root / "include"), "-DTORCH_TARGET_VERSION=0x020A000000000000"]
    linked = [f"-L{torch_root / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"]
    done = subprocess.run(["g++", *flags, source, "-o", library, *linked], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.ops.load_library(str(library))
    assert torch._C._dispatch_has_kernel_for_dispatch_key("robustdml::squared_norms", "CPU")
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        rows = torch.randn(5, 37).to(dtype)
        exact = torch.tensor([sum(float(v) ** 2 for v in row) for row in rows])
        torch.testing.assert_close(operator.squared_norms(rows).float(), exact, rtol=1e-5, atol=1e-5)
