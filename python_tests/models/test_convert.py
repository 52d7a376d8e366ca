"""Conversion to several distributions and back, on torchvision's own networks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from robustdml_ext.models import DistributionNorm, convert_norms, to_plain


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3), nn.BatchNorm1d(3))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: torchvision.models.resnet18(),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(),
    "densenet121": lambda: torchvision.models.densenet121(),
    "googlenet": lambda: torchvision.models.googlenet(aux_logits=False, init_weights=False),
    "mlp": mlp,
}


def marked(name: str) -> nn.Module:
    """The network with batch norm statistics and parameters that no initialization would give."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for value in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                value.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back(name: str) -> None:
    network = marked(name)
    original = copy.deepcopy(network).eval()
    norms = convert_norms(network, 3)
    count = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in original.modules())
    assert len(norms) == count > 0
    assert len({norm.context for norm in norms}) == 1
    x = torch.rand(2, 12) if name == "mlp" else torch.rand(2, 3, 32, 32)
    network.eval()
    with torch.no_grad():
        expected = original(x)
        for distribution in range(3):
            with norms[0].context.use([2 * (k == distribution) for k in range(3)]):
                torch.testing.assert_close(network(x), expected, rtol=1e-3, atol=1e-4)
    for distribution in (0, 2):
        plain = to_plain(network, distribution)
        assert not any(isinstance(m, DistributionNorm) for m in plain.modules())
        fresh = NETWORKS[name]().eval()
        fresh.load_state_dict(plain.state_dict(), strict=True)
        with torch.no_grad():
            assert torch.equal(fresh(x), expected)
    assert any(isinstance(m, DistributionNorm) for m in network.modules())


def test_auxiliary_distributions_copy_all_and_get_noise() -> None:
    def converted(noise: float, seed: int = 0) -> list[DistributionNorm]:
        return convert_norms(marked("mlp"), 3, noise, generator=torch.Generator().manual_seed(seed))

    source = [m for m in marked("mlp").modules() if isinstance(m, nn.BatchNorm1d)]
    for norm, plain, noisy in zip(converted(0.0), source, converted(0.1), strict=True):
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            for k in range(3):
                assert torch.equal(getattr(norm, name)[k], getattr(plain, name)), name
        for name in ("weight", "bias"):
            difference = getattr(noisy, name) - getattr(norm, name)
            assert difference[0].abs().max() == 0
            assert 0 < difference[1:].abs().mean() < 0.3
            assert not torch.equal(difference[1], difference[2])
        for name in ("running_mean", "running_var"):
            assert torch.equal(getattr(noisy, name), getattr(norm, name))
    assert torch.equal(converted(0.1)[0].weight, converted(0.1)[0].weight)
    assert not torch.equal(converted(0.1)[0].weight, converted(0.1, seed=1)[0].weight)


def test_keeps_flags_and_shared_layers() -> None:
    shared = nn.BatchNorm2d(3).eval()
    shared.weight.requires_grad_(False)
    network = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)}).double()
    (norm,) = convert_norms(network, 2)
    assert network["a"] is network["b"][0] is norm
    assert not norm.training and not norm.weight.requires_grad and norm.weight.dtype == torch.float64
    back = to_plain(network)
    assert back["a"] is back["b"][0] and not back["a"].training and not back["a"].weight.requires_grad


def test_refuses_what_it_cannot_convert() -> None:
    class WithActivation(nn.BatchNorm2d):
        pass

    with pytest.raises(TypeError, match="act is a WithActivation"):
        convert_norms(nn.ModuleDict({"act": WithActivation(3)}), 2)
    with pytest.raises(TypeError, match="itself a norm"):
        convert_norms(nn.BatchNorm2d(3), 2)
    network = mlp()
    convert_norms(network, 2)
    with pytest.raises(TypeError, match="converted already"):
        convert_norms(network, 2)
    with pytest.raises(IndexError, match="0 to 1, got 2"):
        to_plain(network, 2)
    with pytest.raises(ValueError, match="noise_std"):
        convert_norms(mlp(), 2, -1.0)
    assert convert_norms(nn.Linear(2, 2), 2) == []
