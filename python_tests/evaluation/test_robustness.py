"""Embeddings and figures under attack: what is attacked, by whom, and that every choice is recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from robustdml_ext.attacks import PGD, TowardsTargets, sample_targets
from robustdml_ext.evaluation import (
    ThreatModel,
    attack_dataset,
    embed,
    evaluate,
    evaluate_under,
)
from robustdml_ext.models import Embedder, build_embedder


def network(distributions: int = 1) -> Embedder:
    torch.manual_seed(0)
    return build_embedder(
        "small", channels=1, embedding_dim=8, widths=(4, 8), distributions=distributions, norm_noise=0.5
    )


def images(count: int = 30) -> tuple[Tensor, Tensor]:
    """Blobs: a class is a bright corner."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    pixels = torch.rand(count, 1, 8, 8, generator=generator) * 0.5
    for label, corner in enumerate([(0, 0), (0, 4), (4, 0)]):
        pixels[labels == label, :, corner[0] : corner[0] + 4, corner[1] : corner[1] + 4] += 0.4
    return pixels, labels


@pytest.mark.parametrize(("name", "targets"), [("stax", 1), ("mtax", 4)])
def test_equals_the_attack_written_out(name: str, targets: int) -> None:
    model, (pixels, labels) = network().train(), images()
    threat = ThreatModel(name, epsilon=0.1, steps=3, targets=targets)
    flags = [module.training for module in model.modules()]
    embeddings, found = attack_dataset(model, [(pixels[:16], labels[:16]), (pixels[16:], labels[16:])], threat, seed=4)
    assert [module.training for module in model.modules()] == flags
    assert all(p.grad is None and p.requires_grad for p in model.parameters())

    model.eval()
    with torch.no_grad():
        bank = model(pixels)
    rows = sample_targets(labels, targets, candidates=labels, generator=torch.Generator().manual_seed(4))
    adversarial = PGD(0.1, 3).perturb(model, pixels, TowardsTargets(bank, rows))
    with torch.no_grad():
        torch.testing.assert_close(embeddings, model(adversarial), rtol=1e-4, atol=1e-4)
    assert torch.equal(found, labels) and embeddings.dtype == torch.float32
    before = TowardsTargets(bank, rows)(bank).mean()
    assert TowardsTargets(bank, rows)(embeddings).mean() < before
    metrics = evaluate_under(model, [(pixels, labels)], threat, 4, recall_at=(1, 2))
    expected = evaluate(embeddings, labels, recall_at=(1, 2), seed=4)
    assert metrics.keys() == expected.keys()
    assert metrics["recall@1"] == pytest.approx(expected["recall@1"], abs=0.04)


def test_away_needs_no_targets_and_goes_away() -> None:
    model, (pixels, labels) = network().eval(), images()
    clean, _ = embed(model, [(pixels, labels)])
    moves = []
    for steps in (1, 10):
        threat = ThreatModel("away", epsilon=0.1, steps=steps, random_start=0.01)
        moved, _ = attack_dataset(model, [(pixels, labels)], threat)
        moves.append((1 - (moved * clean).sum(1)).mean().item())
    assert 1e-6 < moves[0] < moves[1]


def test_judges_the_deployed_model_whatever_is_attacked() -> None:
    model, (pixels, labels) = network(2).eval(), images()
    by_distribution = [
        attack_dataset(model, [(pixels, labels)], ThreatModel(epsilon=0.1, steps=3, distribution=k))[0] for k in (0, 1)
    ]
    assert (by_distribution[0] - by_distribution[1]).abs().max() > 1e-3
    still, _ = attack_dataset(model, [(pixels, labels)], ThreatModel(epsilon=0.0, steps=1, distribution=1))
    torch.testing.assert_close(still, embed(model, [(pixels, labels)])[0], rtol=1e-4, atol=1e-5)


def test_any_module_and_any_images() -> None:
    pixels, labels = images(12)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    threat = ThreatModel(epsilon=0.1, steps=2, norm="l2")
    expected, _ = attack_dataset(model, [(pixels, labels)], threat)
    for data in (TensorDataset(pixels, labels), DataLoader(TensorDataset(pixels, labels), 5)):
        torch.testing.assert_close(attack_dataset(model, data, threat, batch_size=7)[0], expected)


def test_refuses_images_that_cannot_be_read_twice_alike() -> None:
    model, (pixels, labels) = network(), images(12)
    threat = ThreatModel(steps=1)
    with pytest.raises(TypeError, match="read twice"):
        attack_dataset(model, iter([(pixels, labels)]), threat)

    class Shuffling:
        def __init__(self) -> None:
            self.reads = 0

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.reads += 1
            order = torch.arange(12).roll(self.reads)
            yield pixels[order], labels[order]

    with pytest.raises(ValueError, match="another order"):
        attack_dataset(model, Shuffling(), threat)
    with pytest.raises(ValueError, match="no other class"):
        attack_dataset(model, [(pixels, labels * 0)], threat)


def test_a_threat_model_records_everything() -> None:
    threat = ThreatModel("mtax", epsilon=0.1, steps=20, targets=5)
    record = json.loads(json.dumps(asdict(threat)))
    assert ThreatModel(**record) == threat
    assert record["step_size"] == pytest.approx(0.005) and record["space"] == "pixels"
    assert record["precision"] == "float32"
    assert record["attacked"] == "queries and gallery" and record["norm_mode"] == "eval"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "pgd"}, "name"), ({"space": "normalized"}, "space"), ({"attacked": "queries"}, "attacked"),
        ({"targets": 2}, "targets"), ({"name": "mtax", "targets": 0}, "targets"),
        ({"name": "away"}, "random_start"),
        ({"epsilon": -1.0}, "epsilon"), ({"steps": 0}, "steps"), ({"norm": "l1"}, "norm"),
        ({"norm_mode": "x"}, "norm_mode"), ({"precision": "half"}, "precision"),
    ],
)  # fmt: skip
def test_errors_name_the_field(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThreatModel(**options)


def test_figures_do_not_depend_on_the_callers_autocast() -> None:
    class Watching(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            product = images.flatten(1) @ torch.eye(4)
            seen.add(product.dtype)
            return product.float()

    seen: set[torch.dtype] = set()
    images = [(torch.rand(6, 1, 2, 2), torch.tensor([0, 0, 0, 1, 1, 1]))]
    with torch.autocast("cpu", torch.bfloat16):
        attack_dataset(Watching(), images, ThreatModel(steps=1))
    assert seen == {torch.float32}
    seen.clear()
    attack_dataset(Watching(), images, ThreatModel(steps=1, precision="bfloat16"))
    assert seen == {torch.bfloat16}
