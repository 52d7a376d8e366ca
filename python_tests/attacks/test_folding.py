"""The network that is attacked in a model's place: the same values and gradients, and no trace left behind."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from robustdml_ext.attacks import PGD, AwayFromClean, folding, under_attack
from robustdml_ext.attacks.folding import Folded, faster
from robustdml_ext.models import build_embedder
from robustdml_ext.models.ensemble import Ensemble


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Norm layers with statistics and parameters that matter, in float64."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if getattr(module, "running_var", None) is not None:
            for values, low in ((module.running_mean, -0.3), (module.running_var, 0.5), (module.bias, -0.3)):
                values.data.copy_(torch.rand(values.shape, generator=generator) + low)
            module.weight.data.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
    return model.double().eval()


class Wrapped(nn.Module):
    """What a user writes around torchvision's network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(self.network((images - 0.5) / 0.25), dim=1)


class Odd(nn.Module):
    """Convolutions of every kind, on maps that shrink to a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
            nn.Conv2d(6, 6, 3, stride=2, padding=2, dilation=2, bias=False), nn.BatchNorm2d(6, affine=True),
            nn.Conv2d(6, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5), nn.ReLU(),
            nn.Conv2d(5, 4, 5, stride=2, padding=4, dilation=2), nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, (3, 5), padding=(1, 2)), nn.BatchNorm2d(4), nn.Flatten(),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def models() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "small": build_embedder("small", channels=3, embedding_dim=8),
        "resnet18": build_embedder("resnet18", embedding_dim=8),
        "googlenet": build_embedder("googlenet", embedding_dim=8),
        "mobilenet_v2 plain": torchvision.models.mobilenet_v2(num_classes=8),
        "wrapped": Wrapped(torchvision.models.resnet18(num_classes=8)),
        "ensemble": Ensemble([build_embedder("small", embedding_dim=8) for _ in range(2)]),
        "every kind": Odd(),
    }


def gradient(model: nn.Module, images: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    leaf = images.clone().requires_grad_()
    embeddings = model(leaf, **options)
    direction = torch.linspace(-1, 1, embeddings.shape[1], dtype=images.dtype)
    return embeddings.detach(), torch.autograd.grad((embeddings * direction).sum(), leaf)[0]


@pytest.mark.parametrize("name", list(models()))
def test_same_values_and_gradients(name: str) -> None:
    model = shaken(models()[name])
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    children = [(name, id(module)) for name, module in model.named_modules()]
    used: list[object] = []
    with under_attack(model, "eval"):
        expected = gradient(model, images)
        with faster(model, images, 20) as victim:
            plans = [module for module in (victim, *victim.modules()) if isinstance(module, Folded)]
            plans += [m._forward for m in model.modules() if isinstance(getattr(m, "_forward", None), Folded)]
            used += plans
            found = gradient(victim, images)
            again = gradient(victim, images[:2])
    assert used
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(again[0], expected[0][:2], rtol=1e-8, atol=1e-10)
    assert [(name, id(module)) for name, module in model.named_modules()] == children
    assert all(not convolution._constants for plan in used for convolution in plan._convolutions)


def test_every_kind_of_convolution() -> None:
    model = shaken(Odd())
    for size in (4, 7, 16):
        images = torch.rand(3, 3, size, size, dtype=torch.float64)
        with under_attack(model, "eval"):
            plan = Folded(model.layers)
            with plan.constants_of(model.layers):
                torch.testing.assert_close(gradient(plan, images), gradient(model.layers, images))
                products = [bool(convolution._matrices) for convolution in plan._convolutions]
        # Maps of one to four pixels under kernels of 9 to 25 taps are taken as products.
        assert any(products) and not all(products)


def test_distributions_and_joint_passes() -> None:
    torch.manual_seed(0)
    model = shaken(build_embedder("small", channels=3, embedding_dim=8, distributions=2))
    images = torch.rand(6, 3, 8, 8, dtype=torch.float64)
    with under_attack(model, "eval"):
        cases = [{"distribution": 0}, {"distribution": 1}, {"segments": [2, 4]}]
        expected = [gradient(model, images, **case) for case in cases]
        with faster(model, images, 20) as victim:
            assert isinstance(model._forward, Folded)
            found = [gradient(victim, images, **case) for case in cases]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    assert (found[0][0] - found[1][0]).abs().max() > 1e-3


def test_weights_are_read_anew() -> None:
    model = shaken(build_embedder("small", channels=3, embedding_dim=8))
    images = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    for _ in range(3):
        with under_attack(model, "eval"), faster(model, images, 20) as victim:
            found = victim(images)
        torch.testing.assert_close(found, model(images))
        with torch.no_grad():
            for values in [*model.parameters(), *model.buffers()]:
                if values.is_floating_point():
                    values.data.mul_(1.3)  # unseen by version counters
    convolution = model.backbone.stages[3]
    model.backbone.stages[3] = nn.Conv2d(16, 32, 3, stride=2, padding=1).double()
    with under_attack(model, "eval"), faster(model, images, 20) as victim:
        assert victim(images).shape == (3, 8)
        assert not any(c._source[0] is convolution for c in folding._PLANS[model.backbone][1]._convolutions)


def test_what_is_not_folded() -> None:
    images = torch.rand(3, 3, 32, 32)
    torch.manual_seed(0)

    def folds(model: nn.Module, images: Tensor = images, passes: int = 20) -> bool:
        with under_attack(model.eval(), "eval"), faster(model, images, passes) as victim:
            return any(isinstance(module, Folded) for module in victim.modules())

    def network() -> nn.Module:
        return Wrapped(torchvision.models.resnet18(num_classes=8))

    assert folds(network()) and not folds(network(), passes=4)
    hooked = network()
    hooked.network.layer1.register_forward_hook(lambda *_: None)
    assert not folds(hooked)
    patched = network()
    patched.network.forward = lambda images: images.flatten(1)
    with under_attack(patched, "eval"), faster(patched, images, 20) as victim:
        assert victim(images).shape == (3, 3 * 32 * 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert not folds(network())

    class Reaching(Wrapped):
        def forward(self, images: Tensor) -> Tensor:
            return self.network.conv1(images).flatten(1)

    reaching = Reaching(torchvision.models.resnet18(num_classes=8))
    assert not folds(reaching) and isinstance(reaching.network, torchvision.models.ResNet)

    class Counting(Wrapped):
        """Other values at every call: a plan that is tried out would not match."""

        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            return self.network(images) * self.calls

    assert not folds(Counting(torchvision.models.resnet18(num_classes=8)))


def test_exceptions_restore_and_plans_die_with_their_networks() -> None:
    model = Wrapped(torchvision.models.resnet18(num_classes=8)).eval()
    network, images = model.network, torch.rand(2, 3, 32, 32)
    owners, seen = [model], []

    def fails(embeddings: Tensor) -> Tensor:
        seen.append(isinstance(owners[0].network, Folded))
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        PGD(0.1, 8).perturb(model, images, fails)
    assert seen == [True] and model.network is network and network in folding._PLANS
    owners.clear()
    before = len(folding._PLANS)
    del model, network
    gc.collect()
    assert len(folding._PLANS) < before


def test_attacks_reach_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shaken(build_embedder("small", channels=3, embedding_dim=8))
    images = torch.rand(5, 3, 16, 16, dtype=torch.float64)
    objective = AwayFromClean(torch.randn(5, 8, dtype=torch.float64), "l2")
    attack = PGD(0.1, 8, 0.02)
    folded = attack.perturb(model, images, objective)
    monkeypatch.setattr(folding, "FEWEST_PASSES", 1000)
    torch.testing.assert_close(folded, attack.perturb(model, images, objective), rtol=0, atol=1e-9)


class Noisy(nn.Module):
    """Draws from the global generator, as a randomized defense does."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torchvision.models.resnet18(num_classes=8)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images + 0.01 * torch.randn_like(images))


def test_the_trial_draws_nothing() -> None:
    model = shaken(Noisy())
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with under_attack(model, "eval"), faster(model, images, 20) as victim:
        # Both passes of the trial see the same noise, so it is still folded.
        assert victim is model and isinstance(model.network, Folded)
        assert torch.equal(torch.random.get_rng_state(), before)


def test_the_trial_is_of_the_attacked_distribution() -> None:
    class Knows(nn.Module):
        """Gives a folded network away, for one distribution only."""

        distributions = 2

        def __init__(self) -> None:
            super().__init__()
            self.network = torchvision.models.resnet18(num_classes=8)

        def forward(self, images: Tensor, segments: Any = None, distribution: int = 0) -> Tensor:
            return self.network(images) + distribution * isinstance(self.network, Folded)

    model = shaken(Knows())
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for distribution, folded in ((0, True), (1, False)):
        with under_attack(model, "eval"), faster(model, images, 20, distribution):
            assert isinstance(model.network, Folded) == folded
    direction = AwayFromClean(torch.ones(2, 8, dtype=torch.float64))
    seen: list[bool] = []

    def objective(embeddings: Tensor) -> Tensor:
        seen.append(isinstance(model.network, Folded))
        return direction(embeddings)

    for segments, distribution in ((None, 1), ([0, 2], 0)):
        PGD(0.01, 6, distribution=distribution).perturb(model, images, objective, segments=segments)
    assert not any(seen)
    PGD(0.01, 6).perturb(model, images, objective)
    assert any(seen)
