"""A prototypical classifier under attack, against loops over single images written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.evaluation import ClassThreat, judge_classifier, places_of
from robustdml_ext.models import PrototypicalClassifier, PrototypicalHeads
from robustdml_ext.models.prototypical import HEADS

SIDE, CLASSES, DIM = 4, 3, 5


class Linear(nn.Module):
    """Pixels → embeddings; remembers the range of the pixels that it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIDE * SIDE, DIM)
        self.seen: list[tuple[float, float]] = []

    def forward(self, images: Tensor) -> Tensor:
        if len(images):
            self.seen.append((float(images.detach().min()), float(images.detach().max())))
        embeddings: Tensor = self.linear(images.flatten(1) - 0.5)
        return embeddings


def classifier(seed: int = 0) -> PrototypicalClassifier:
    """Random but for heads that lean on the classes' patterns, so that each has hits and misses of its own."""
    torch.manual_seed(seed)
    made = PrototypicalClassifier(Linear(), PrototypicalHeads(CLASSES, DIM, hidden=16))
    patterns, labels = images(60, seed=1)
    optimizer = torch.optim.Adam(made.parameters(), 0.02)
    made.train()
    for _ in range(12):
        loss = sum(F.cross_entropy(made.logits(patterns, head), labels) for head in HEADS)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
    optimizer.zero_grad()
    return made.eval()


def images(count: int, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Images `[N, 1, 4, 4]` of three classes: a pattern each, under noise."""
    patterns = torch.rand(CLASSES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    noise = 0.4 * torch.randn(count, 1, SIDE, SIDE, generator=generator)
    return (patterns[labels] + noise).clamp(0, 1), labels


def uneven(pixels: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Batches of 7, 0, 1 and the rest."""
    sizes = [7, 0, 1, len(labels) - 8]
    return list(zip(pixels.split(sizes), labels.split(sizes), strict=True))


def plain_logits(model: PrototypicalClassifier, pixels: Tensor, head: str) -> Tensor:
    """Logits of one image `[1, 4, 4]` in float64, pair by pair."""
    embedding = model.encoder(pixels[None].double())[0]
    if head == "dense":
        return F.linear(embedding, model.heads.dense.weight, model.heads.dense.bias)
    network: Any = model.heads.similarity
    scores = []
    for prototype in model.heads.prototypes:
        hidden = network[0].weight @ torch.cat([prototype, embedding]) + network[0].bias
        hidden = torch.where(hidden > 0, hidden, 0.1 * hidden)
        scores.append(network[3].weight[0] @ hidden + network[3].bias[0])
    return torch.stack(scores)


def plain_attack(model: PrototypicalClassifier, pixels: Tensor, label: int, head: str, threat: ClassThreat) -> Tensor:
    """Projected gradient ascent of one image's cross-entropy, from the image itself."""
    clean, moved = pixels.double(), pixels.double()
    step = threat.epsilon if threat.name == "fgsm" else threat.step_size
    assert step is not None
    for _ in range(threat.steps):
        moved.requires_grad_()
        logits = plain_logits(model, moved, head)
        (gradient,) = torch.autograd.grad(logits.exp().sum().log() - logits[label], moved)
        moved = moved.detach() + step * gradient.sign()
        moved = (clean + (moved - clean).clamp(-threat.epsilon, threat.epsilon)).clamp(0, 1)
    return moved


def test_each_head_through_itself_and_through_the_other() -> None:
    model, (pixels, labels) = classifier(), images(40)
    threats = [ClassThreat("pgd", 0.06, 4, 0.02, random_start=0.0), ClassThreat("fgsm", 0.04)]
    told: list[tuple[str, int, int]] = []
    entries = judge_classifier(
        model, uneven(pixels, labels), threats, progress=lambda *what: told.append(what)
    )  # fmt: skip
    plain = copy.deepcopy(model).double()

    def right(image: Tensor, label: int, head: str) -> bool:
        return int(plain_logits(plain, image, head).argmax()) == label

    pairs = list(zip(pixels, labels.tolist(), strict=True))
    clean = {head: [right(image, label, head) for image, label in pairs] for head in HEADS}
    standing = {head: list(clean[head]) for head in HEADS}
    assert [entry["threat"] and entry["threat"]["name"] for entry in entries] == [None, "pgd", "fgsm", "worst"]
    assert entries[0]["metrics"] == {f"accuracy_{head}": pytest.approx(sum(clean[head]) / 40) for head in HEADS}
    for entry, threat in zip(entries[1:3], threats, strict=True):
        expected = {}
        for attacked in HEADS:
            moved = [
                plain_attack(plain, image, label, attacked, threat) if any(hits) else image
                for (image, label), *hits in zip(pairs, *clean.values(), strict=True)
            ]
            for judged in HEADS:
                found = [
                    hit and right(image, label, judged)
                    for image, (_, label), hit in zip(moved, pairs, clean[judged], strict=True)
                ]
                name = f"accuracy_{judged}" + ("" if judged == attacked else f"_from_{attacked}")
                expected[name] = sum(found) / 40
                standing[judged] = [old and new for old, new in zip(standing[judged], found, strict=True)]
        assert entry["metrics"] == {name: pytest.approx(value) for name, value in expected.items()}
        assert entry["metrics"]["accuracy_similarity"] < entries[0]["metrics"]["accuracy_similarity"]
    worst = {f"accuracy_{head}": pytest.approx(sum(standing[head]) / 40) for head in HEADS}
    assert entries[3]["metrics"] == worst and entries[3]["threat"]["attacks"] == ["pgd", "fgsm"]
    # None of it is trivial: the heads differ, and an attack through one is not the same for the other.
    figures = [value for entry in entries[1:3] for value in entry["metrics"].values()]
    assert len(set(figures)) > 2 and clean["similarity"] != clean["dense"]
    assert told == [
        ("pgd on similarity", 1, 4), ("pgd on dense", 2, 4), ("fgsm on similarity", 3, 4), ("fgsm on dense", 4, 4),
    ]  # fmt: skip


def test_one_head_alone_is_judged_through_itself() -> None:
    model, (pixels, labels) = classifier(), images(30)
    both = judge_classifier(model, [(pixels, labels)], [ClassThreat("fgsm", 0.1)])
    for head in HEADS:
        (clean, attacked) = judge_classifier(model, [(pixels, labels)], [ClassThreat("fgsm", 0.1)], heads=[head])
        name = f"accuracy_{head}"
        assert clean["metrics"] == {name: both[0]["metrics"][name]}
        assert attacked["metrics"] == {name: both[1]["metrics"][name]}


@pytest.mark.parametrize("name", ["pgd", "apgd", "square-margin"])
def test_images_that_are_wrong_already_are_left_alone(name: str) -> None:
    """Labels of the runner-up: every image is wrong, and an attack would only bring it home."""
    model, (pixels, _) = classifier(), images(20)
    with torch.no_grad():
        wrong = model.logits(pixels, "similarity").argsort(1)[:, -2]
    entries = judge_classifier(model, [(pixels, wrong)], [ClassThreat(name, 0.3, 3)], heads=["similarity"])
    assert [entry["metrics"]["accuracy_similarity"] for entry in entries] == [0.0, 0.0]
    assert entries[1]["perturbation"]["linf_max"] == 0.0


@pytest.mark.parametrize(
    "threat",
    [
        ClassThreat("pgd", 0.1, 12, 0.03), ClassThreat("fgsm", 0.1), ClassThreat("apgd-margin", 0.1, 5, restarts=2),
        ClassThreat("square-margin", 0.1, queries=10), ClassThreat("pgd", 0.5, 12, 0.2, "l2"),
    ],
)  # fmt: skip
def test_attacks_stay_in_their_ball_and_in_the_pixel_range(threat: ClassThreat) -> None:
    model, (pixels, labels) = classifier(), images(30)
    encoder = model.encoder
    assert isinstance(encoder, Linear)
    attacked = judge_classifier(model, uneven(pixels, labels), [threat])[1]
    moved = attacked["perturbation"]["l2_max" if threat.norm == "l2" else "linf_max"]
    assert 0.9 * threat.epsilon < moved <= threat.epsilon + 1e-6
    assert min(least for least, _ in encoder.seen) == 0 and max(most for _, most in encoder.seen) == 1
    record = attacked["threat"]
    assert (record["name"], record["epsilon"], record["norm"]) == (threat.name, threat.epsilon, threat.norm)
    assert record["algorithm"] == threat.algorithm and record["space"] == "pixels"


def test_the_model_is_left_as_it_was_found() -> None:
    model, (pixels, labels) = classifier().train(), images(20)
    model.heads.eval()
    model.encoder.linear.weight.requires_grad_(False)  # type: ignore[union-attr]
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = judge_classifier(model, [(pixels, labels)], [ClassThreat("pgd", 0.1, 6)], seed=3)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    needing = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert needing == ["encoder.linear.weight"]
    again = judge_classifier(model, [(pixels, labels)], [ClassThreat("pgd", 0.1, 6)], seed=3)
    assert [entry["metrics"] for entry in again] == [entry["metrics"] for entry in first]
    assert again[1]["perturbation"] == first[1]["perturbation"]


class Broken(Linear):
    """NaN for images that are bright in a corner."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.where(images[:, 0, 0, :1] > 0.5, torch.nan, super().forward(images))


def test_logits_that_are_no_numbers_are_misses() -> None:
    model, (pixels, labels) = classifier(), images(40)
    whole = judge_classifier(model, [(pixels, labels)])[0]["metrics"]
    broken = pixels[:, 0, 0, 0] > 0.5
    with torch.no_grad():
        hits = {head: (model.logits(pixels, head).argmax(1) == labels) for head in HEADS}
    model.encoder.__class__ = Broken
    # Their arg max is some class, which is theirs by chance: of one of each class one would be a hit.
    found = judge_classifier(model, [(pixels, labels)])[0]["metrics"]
    for head in HEADS:
        assert found[f"accuracy_{head}"] == pytest.approx(float((hits[head] & ~broken).double().mean()))
        assert found[f"accuracy_{head}"] < whole[f"accuracy_{head}"]


def test_classes_added_after_training_are_beyond_the_dense_layer() -> None:
    model, (pixels, labels) = classifier(), images(40)
    model.add_classes(pixels[:6], torch.tensor([0, 0, 0, 1, 1, 1]), ["new", "newer"])
    labels = labels.clone()
    labels[:6] = torch.tensor([3, 3, 3, 4, 4, 4])
    with torch.no_grad():
        hits = [model.logits(pixels, head).argmax(1) == labels for head in HEADS]
    assert not hits[1][:6].any()
    entries = judge_classifier(model, uneven(pixels, labels), [ClassThreat("pgd", 0.05, 3)])
    for head, right in zip(HEADS, hits, strict=True):
        assert entries[0]["metrics"][f"accuracy_{head}"] == pytest.approx(float(right.double().mean()))
    only = judge_classifier(model, [(pixels[:6], labels[:6])], [ClassThreat("fgsm", 0.05)])
    assert [entry["metrics"]["accuracy_dense"] for entry in only] == [0.0, 0.0]


def test_classes_are_found_by_their_names() -> None:
    model, (pixels, labels) = classifier(), images(30)
    model.class_names = ["cat", "dog", "owl"]
    places = places_of(["owl", "cat"], model)
    assert places.tolist() == [2, 0] and places.dtype == torch.int64
    kept = labels != 1
    renamed = torch.where(labels[kept] == 2, 0, 1)
    threats = [ClassThreat("fgsm", 0.05)]
    expected = judge_classifier(model, [(pixels[kept], labels[kept])], threats)
    found = judge_classifier(model, [(pixels[kept], renamed)], threats, prototype_of=places)
    assert [entry["metrics"] for entry in found] == [entry["metrics"] for entry in expected]
    with pytest.raises(ValueError, match="no prototype of ant, bee; add them from examples first"):
        places_of(["ant", "cat", "bee"], model)
    with pytest.raises(ValueError, match=r"no prototype of 0, 1, 2, 3, 4 and 3 more;"):
        places_of([str(number) for number in range(8)], model)


def test_what_cannot_be_judged_is_refused() -> None:
    model, (pixels, labels) = classifier(), images(10)
    batches = [(pixels, labels)]
    for wrong, message in (
        ({"images": []}, "images: expected at least one, got none"),
        ({"images": [(pixels[:0], labels[:0])]}, "images: expected at least one, got none"),
        ({"heads": ["sim"]}, "heads: expected some of similarity, dense, got sim"),
        ({"heads": []}, "got none"),
        ({"images": [(pixels, labels + 1)]}, "labels: expected classes with a prototype, 0 to 2; got 1 to 3"),
        ({"images": [(pixels, labels - 1)]}, "0 to 2; got -1 to 1"),
        ({"prototype_of": torch.tensor([0, 1])}, "labels: .*0 to 1; got 0 to 2"),
        ({"prototype_of": torch.tensor([0, 1, 3])}, "prototype_of: .*0 to 2; got 0 to 3"),
    ):
        asked: dict[str, Any] = {"images": batches, **wrong}
        with pytest.raises(ValueError, match=message):
            judge_classifier(model, asked.pop("images"), **asked)
    with pytest.raises(TypeError, match="images: are read again"):
        judge_classifier(model, iter(batches))
