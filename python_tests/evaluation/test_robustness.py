"""Figures under attack: what is attacked, by whom, and that every choice is recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from toys import Blind, Cracking, Projection, blobs, on_grid

from robustdml_ext.attacks import PGD, TowardsTargets, sample_targets
from robustdml_ext.evaluation import (
    ThreatModel,
    attack_dataset,
    attacked,
    embed,
    evaluate,
    evaluate_under,
    judge_robustness,
    recall_at_k,
)
from robustdml_ext.evaluation.attacked import attack_subject
from robustdml_ext.evaluation.figures import Wanted, clean_ranks, measure, measure_attacked
from robustdml_ext.evaluation.judging import Judge
from robustdml_ext.evaluation.subject import Embedded, Subject
from robustdml_ext.evaluation.surrogate import _remembered, distilled_surrogate
from robustdml_ext.evaluation.threats import standard_threat
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


RECALLS = Wanted((1, 8), groups=())


@pytest.mark.parametrize("name", ["stax", "away"])
def test_embeddings_that_are_no_numbers_are_never_hits(name: str) -> None:
    report = judge_robustness(Cracking(), on_grid(blobs()), epsilons=(0.0503,), attacks=(name,), steps=2)
    entry = report.entries[1]
    assert entry["clean"]["recall@1"] == 1
    # As zero vectors all 64 would tie, and the first eight in line hold every class.
    assert entry["metrics"]["recall@1"] == entry["metrics"]["recall@8"] == report.score - 0.5 == 0
    finite = next(check for check in report.checks if check["check"] == "finite")
    assert not finite["passed"] and finite["embeddings"] == 64


def test_a_right_item_that_is_no_number_is_not_found() -> None:
    subject = Subject(Projection(), blobs(8))
    clean = subject.clean()
    # Queries of class 0 have no finite right item left but each other.
    for lost, missing in (([0], [0]), ([0, 4], [0, 4])):
        embeddings = clean.queries.clone()
        embeddings[lost] = torch.nan
        ahead = measure(subject, Embedded(embeddings, embeddings), RECALLS).ahead
        assert (ahead[missing] > 8).all()
        # Of two images a class, the partner is the only right item.
        assert torch.equal(ahead > 8, torch.isin(torch.arange(8) % 4, torch.tensor([0])))


@pytest.mark.parametrize(("name", "wanted"), [("gallery-raise", 0.0), ("gallery-lower", 1.0)])
def test_the_rank_of_what_is_no_number_is_what_the_attacker_wants(name: str, wanted: float) -> None:
    subject = Subject(Cracking(), on_grid(blobs()))
    threat = standard_threat(name, 0.0503, steps=2, algorithm="pgd", route="whole")
    found = attack_subject(subject, threat)
    assert found.moved is not None and found.moved.isnan().all()
    figures = measure_attacked(subject, found, threat, RECALLS)
    assert figures.metrics == {"recall@1": 0.0, "recall@8": 0.0, "rank": wanted}
    candidate = standard_threat(f"candidate-{name[8:]}", 0.0503, steps=2, algorithm="pgd", route="whole")
    figures = measure_attacked(subject, attack_subject(subject, candidate), candidate, RECALLS)
    assert figures.metrics == {"recall@1": 0.0, "recall@8": 0.0, "rank": wanted}


def test_distinct_images_are_counted_whatever_the_attacks() -> None:
    judge = Judge(Subject(Cracking(), on_grid(blobs(40)), on_grid(blobs(24, seed=3))), RECALLS)
    assert judge.broken == 0
    for name, count in (("candidate-lower", 40), ("candidate-raise", 40), ("stax", 64), ("gallery-raise", 64)):
        judge.attack(standard_threat(name, 0.0503, steps=1, algorithm="pgd", route="whole"))
        assert judge.broken == count
    again = Judge(Subject(Cracking(), on_grid(blobs(40)), on_grid(blobs(24, seed=3))), RECALLS)
    threat = standard_threat("gallery-lower", 0.0503, steps=1, algorithm="pgd", route="whole")
    moved = attack_subject(again.subject, threat).candidates
    again.attack(threat)
    assert moved is not None and again.broken == len(moved.unique()) <= 24


@pytest.mark.parametrize("apart", [False, True])
def test_clean_embeddings_that_are_no_numbers_are_misses_and_a_warning(apart: bool) -> None:
    gallery = blobs(40, seed=3) if apart else None
    report = judge_robustness(
        Blind(),
        blobs(),
        gallery=gallery,
        epsilons=(0.02,),
        steps=2,
        queries=3,
        attacks=("stax", "out", "gallery-raise"),
        metrics="all",
    )
    queries, labels = (torch.cat(part) for part in zip(*blobs(), strict=True))
    seen = queries[:, 0, 0, 0] <= 0.6
    model = Projection()
    with torch.no_grad():
        if gallery is None:
            hits = recall_at_k(model(queries[seen]), labels[seen], 1)[1]
            lost = int((~seen).sum())
        else:
            items, classes = (torch.cat(part) for part in zip(*gallery, strict=True))
            known = items[:, 0, 0, 0] <= 0.6
            hits = recall_at_k(model(queries[seen]), labels[seen], 1, model(items[known]), classes[known])[1]
            lost = int((~seen).sum() + (~known).sum())
    assert report.entries[0]["metrics"]["recall@1"] == pytest.approx(hits * seen.double().mean().item())
    finite = next(check for check in report.checks if check["check"] == "finite")
    assert 0 < lost <= finite["embeddings"] and not finite["passed"]
    assert next(check for check in report.checks if check["check"] == "deterministic")["passed"]
    json.dumps(report.to_json(), allow_nan=False)


def test_a_model_without_any_finite_embedding_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="model: Cracking embeds every image as NaN"):
        judge_robustness(Cracking(), [(x * 0.999, y) for x, y in on_grid(blobs())], attacks=("out",))


class Constant(Projection):
    def forward(self, images: Tensor) -> Tensor:
        return self.weight[:1].expand(len(images), -1) + 0 * images.flatten(1)[:, :37]


@pytest.mark.parametrize("name", ["gallery-raise", "gallery-lower", "candidate-raise", "candidate-lower"])
@pytest.mark.parametrize("gallery", [None, blobs(24, seed=3)])
def test_where_nothing_changes_ranks_do_not(name: str, gallery: list[tuple[Tensor, Tensor]] | None) -> None:
    # Of so many numbers that the order in which they are added shows.
    subject = Subject(Constant(size=37), blobs(), gallery)
    threat = standard_threat(name, 0.05, steps=1, route="whole")
    found = attack_subject(subject, threat)
    assert found.candidates is not None
    figures = measure_attacked(subject, found, threat, RECALLS)
    assert figures.metrics["rank"] == clean_ranks(subject, found, threat)
    # Everything ties: the index alone decides.
    own = subject.own
    before = found.candidates[:, 0] - (0 if own is None else (own < found.candidates[:, 0]).long())
    others = len(subject.gallery_labels) - 1 - (own is not None)
    assert figures.metrics["rank"] == pytest.approx((before / others).mean().item())
    assert torch.equal(figures.ahead, measure(subject, subject.clean(), RECALLS).ahead)


def test_the_items_pushed_back_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, original = [], attacked.nearest_right
    monkeypatch.setattr(attacked, "nearest_right", lambda *args: calls.append(args[-1]) or original(*args))
    subject = Subject(Projection(), blobs())
    for epsilon in (0.01, 0.1):
        for name in ("candidate-lower", "gallery-lower"):
            attack_subject(subject, standard_threat(name, epsilon, steps=1, route="whole"))
    assert calls == [torch.device("cpu")]


def test_figures_are_computed_where_the_model_is_but_for_want_of_float64() -> None:
    images = blobs()
    assert Subject(Projection(), images, device="cuda:1").measured_on == torch.device("cuda:1")
    subject = Subject(Projection(), images)
    clean = subject.clean()
    subject.device = torch.device("mps")
    assert subject.measured_on == torch.device("cpu")
    # Fails at the first tensor that is sent to mps, which this build or machine may lack.
    assert measure(subject, clean, Wanted((1,))).metrics["recall@1"] == 1


def test_the_surrogate_is_taught_images_of_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustdml_ext.evaluation.surrogate._MOST_IMAGES", 12)
    batches = blobs(60)
    pixels, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    order = labels.argsort(stable=True)
    sorted_by_class = list(zip(pixels[order].split(7), labels[order].split(7), strict=True))
    subject = Subject(Projection(), sorted_by_class, blobs(20, seed=3))
    remembered, rows = _remembered(subject)
    assert len(rows) == len(remembered) == 12 and rows[0] == 0 and rows[-1] == 79 and rows.diff().min() >= 7
    everything = torch.cat([pixels[order], *[x for x, _ in blobs(20, seed=3)]])
    assert torch.equal(remembered, everything[rows])
    assert set(subject.all_labels[rows[rows < 60]].tolist()) == {0, 1, 2, 3}


def test_teaching_leaves_every_generator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustdml_ext.evaluation.surrogate._UPDATES", 2)
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    state = torch.get_rng_state()
    first, second = (distilled_surrogate(Subject(Projection(), blobs()), seed=3) for _ in range(2))
    assert seeded == [] and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
