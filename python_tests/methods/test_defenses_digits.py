"""On real digits: what the defenses claim under the paper's attack, and what is left of it without their key ideas."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from methods.digits import CLASSES, digits, trained, unseen
from torch import Tensor, nn

from robustdml_ext.attacks import PGD
from robustdml_ext.evaluation import ThreatModel, embed, evaluate, evaluate_under
from robustdml_ext.losses import ProxyAnchorLoss
from robustdml_ext.methods import (
    EAT,
    IAT,
    TRADES,
    Batch,
    Context,
    Method,
    MixUp,
    Standard,
    UntargetedAdversarial,
    split_into_parts,
)
from robustdml_ext.models import Embedder, EmbedderEnsemble, build_embedder

EPSILON, SEEDS = 0.2, (0, 1)


def network() -> Embedder:
    return build_embedder("small", channels=1, embedding_dim=64)


def loss() -> ProxyAnchorLoss:
    return ProxyAnchorLoss(CLASSES, 64)


def attack(epsilon: float = EPSILON) -> PGD:
    return PGD(epsilon, 4, random_start=epsilon / 10)


def recall(model: nn.Module, epsilon: float) -> float:
    """Recall@1 on the digits 5 to 9, every image attacked by PGD-10 away from its clean embedding."""
    if epsilon == 0:
        return evaluate(*embed(model, unseen()), recall_at=(1,), clustering=False)["recall@1"]
    threat = ThreatModel("away", epsilon=epsilon, steps=10, random_start=epsilon / 10)
    return evaluate_under(model, unseen(), threat, recall_at=(1,), clustering=False)["recall@1"]


@cache
def mean_recall(name: str, epsilon: float) -> float:
    """Over seeds, of the method by that name."""
    return sum(recall(network_of(name, seed), epsilon) for seed in SEEDS) / len(SEEDS)


@cache
def network_of(name: str, seed: int) -> nn.Module:
    return trained(METHODS[name], seed)


def members(**options: bool | float) -> EAT:
    _, labels = digits()
    split = split_into_parts(labels[labels < CLASSES], 3, 0)
    ensemble = EmbedderEnsemble([network() for _ in range(3)], "concatenate")
    return EAT(ensemble, [loss() for _ in range(3)], split, attack(), **options)  # type: ignore[arg-type]


def mixup(coefficient: float | None) -> Method:
    """Mix-Up; with a coefficient of 1 each image is its own mixture."""
    method = MixUp(network(), loss(), label_vectors="embeddings")
    if coefficient is not None:
        method.draw = lambda count, generator: (torch.tensor(coefficient), torch.arange(count))  # type: ignore[method-assign]
    return method


METHODS: dict[str, Callable[[], Method]] = {
    "pal": lambda: Standard(network(), loss()),
    "at": lambda: UntargetedAdversarial(network(), loss(), attack()),
    "at without a ball": lambda: UntargetedAdversarial(network(), loss(), attack(1e-4)),
    "at, embeddings": lambda: UntargetedAdversarial(network(), loss(), attack(), label_vectors="embeddings"),
    "mixup": lambda: mixup(None),
    "mixup without mixing": lambda: mixup(1.0),
    "iat": lambda: IAT(network(), loss(), attack()),
    "trades": lambda: TRADES(network(), loss(), attack(), trade_off=60.0),
    "trades without its second term": lambda: TRADES(network(), loss(), attack(), trade_off=0.0),
    "eat": members,
    "eat, beta 1": lambda: members(beta=1.0),
}


def test_the_baseline_is_good_and_fragile() -> None:
    assert mean_recall("pal", 0) > 0.9
    assert mean_recall("pal", EPSILON) < mean_recall("pal", 0) - 0.1


@pytest.mark.parametrize(
    ("defended", "without"),
    [
        ("at", "pal"),
        ("at", "at without a ball"),
        ("at, embeddings", "at without a ball"),
        ("mixup", "mixup without mixing"),
        ("iat", "pal"),
        ("trades", "trades without its second term"),
        ("eat", "pal"),
        ("eat", "eat, beta 1"),
        ("eat", "at"),
    ],
)
def test_robust_recall_rises_by_the_key_idea(defended: str, without: str) -> None:
    assert mean_recall(defended, 0) > 0.9
    assert mean_recall(defended, EPSILON) > mean_recall(without, EPSILON) + 0.02


def test_the_split_alone_makes_members_differ() -> None:
    """Members of one start stay one network where they see the same data; the parts of the data set them apart."""
    _, labels = digits()

    def disagreement(parts: Tensor | None) -> float:
        def make() -> Method:
            first = network()
            proxies = loss()
            ensemble = EmbedderEnsemble([copy.deepcopy(first) for _ in range(3)], "concatenate")
            return EAT(ensemble, [copy.deepcopy(proxies) for _ in range(3)], parts, attack())

        ensemble = trained(make, 0, steps=40)
        assert isinstance(ensemble, EmbedderEnsemble)
        images = unseen()[0][0]
        with torch.no_grad():
            nearest = []
            for member in ensemble.members:
                cosines = member(images) @ member(images).T
                nearest.append(cosines.fill_diagonal_(-2).argmax(1))
        return float((nearest[0] != nearest[1]).float().mean())

    assert disagreement(None) < 0.02
    assert disagreement(split_into_parts(labels[labels < CLASSES], 3, 0)) > 0.2


def test_self_transfer_trains_on_what_fools_the_whole_ensemble() -> None:
    """Line 7: examples made against all members move every one of them; made against one, that one the most."""
    images, labels = digits()
    torch.manual_seed(0)
    rows = torch.where(labels < CLASSES)[0][::7]
    moved = {}
    for self_transfer in (True, False):
        torch.manual_seed(0)
        method = members(self_transfer=self_transfer)
        seen: list[Tensor] = []
        original = method._attacked

        def spy(*arguments: object, original: Callable = original, seen: list[Tensor] = seen) -> dict[int, Tensor]:
            found = original(*arguments)
            seen.append(found)
            return found

        method._attacked = spy  # type: ignore[method-assign]
        method.training_step(Batch(images[rows], labels[rows], rows), torch.Generator().manual_seed(0), Context())
        (found,) = seen
        mine = (method.parts[rows] != 0).nonzero()[:, 0]
        method.eval()
        with torch.no_grad():
            moved[self_transfer] = [
                float((1 - F.cosine_similarity(m(images[rows][mine]), m(found[0]), dim=1)).mean())
                for m in method.ensemble.members
            ]
    others = {key: sum(values[1:]) / 2 for key, values in moved.items()}
    assert others[True] > 1.1 * others[False]
    assert moved[False][0] > moved[True][0]
