"""The fused forward computes what the network's own does, in the values, the gradients and the statistics."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.googlenet import BasicConv2d, Inception
from torchvision.models.resnet import BasicBlock, Bottleneck

from robustdml_ext.models import SmallNet, convert_norms, fused_forward

# Fused: norm → ReLU, and norm → add (→ ReLU); ReLU6, SiLU and branching stay as they are.
NETWORKS = {
    "small": (lambda: SmallNet(3), 3),
    "resnet18": (lambda: torchvision.models.resnet18(), 17),
    "resnet50": (lambda: torchvision.models.resnet50(), 49),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(), 10),
    "densenet121": (lambda: torchvision.models.densenet121(), 121),
    "googlenet": (lambda: torchvision.models.googlenet(aux_logits=False, init_weights=False), 57),
}


def run(network: nn.Module, fused: bool, x: Tensor, sizes: list[int]) -> dict[str, Tensor]:
    norms = convert_norms(network, len(sizes))
    forward = fused_forward(network) if fused else network
    assert forward is not None
    x = x.clone().requires_grad_()
    with norms[0].context.use(sizes):
        output = forward(x)
    output.square().sum().backward()
    gradients = {f"{name}.grad": p.grad for name, p in network.named_parameters()}
    return {"output": output.detach(), "x.grad": x.grad, **gradients, **dict(network.named_buffers())}


# Every kind of block once, as whole networks of these kinds are mostly repetition.
BLOCKS = {
    "small": lambda: SmallNet(3),
    "resnet18": lambda: ResNet(BasicBlock, [2, 1, 1, 1]),
    "resnet50": lambda: ResNet(Bottleneck, [2, 1, 1, 1], width_per_group=8),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(width_mult=0.1).features[:4],
    "densenet121": lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=10),
    "googlenet": lambda: nn.Sequential(BasicConv2d(3, 8, kernel_size=3), Inception(8, 4, 3, 5, 2, 6, 7)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_equals_unfused(name: str, training: bool) -> None:
    torch.manual_seed(0)
    network = BLOCKS[name]().double().train(training)
    x = torch.rand(8, 3, 48, 48, dtype=torch.float64)
    fused, unfused = (run(copy.deepcopy(network), mode, x, [3, 5]) for mode in (True, False))
    assert fused.keys() == unfused.keys()
    for key, value in unfused.items():
        assert (fused[key] - value).abs().max() <= 1e-9 * (1 + value.abs().max()), key


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_whole_networks_equal_unfused_in_single_precision(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name][0]().eval()
    (norm, *_) = convert_norms(network, 2)
    forward = fused_forward(network)
    assert forward is not None
    x = torch.rand(4, 3, 32, 32).to(memory_format=torch.channels_last)
    with torch.no_grad(), norm.context.use([1, 3]):
        expected = network(x)
        assert (forward(x) - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", NETWORKS)
def test_fuses_what_it_should_and_shares_the_layers(name: str) -> None:
    network = NETWORKS[name][0]()
    keys = list(network.state_dict())
    convert_norms(network, 2)
    forward = fused_forward(network)
    assert forward is not None and list(network.state_dict()) == keys
    module = forward.__self__  # type: ignore[attr-defined]
    assert sum("relu" in node.kwargs for node in module.graph.nodes) == NETWORKS[name][1]
    own = {id(value) for value in network.parameters()}
    assert {id(value) for value in module.parameters()} <= own


def test_training_flags_survive_tracing() -> None:
    network = torchvision.models.resnet18().train()
    network.layer1.eval()
    convert_norms(network, 2)
    before = [module.training for module in network.modules()]
    fused_forward(network)
    assert [module.training for module in network.modules()] == before


class Chain(nn.Module):
    """Norms in chains that may not be fused."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "used twice":
            y = self.norm(x)
            return y.relu() + y
        if self.kind == "by mode":
            return self.norm(x).relu() if self.training else self.norm(x)
        if self.kind == "by value":
            return self.norm(x).relu() if x.sum() > 0 else x
        y = self.norm(x)
        return (y + y).relu()


@pytest.mark.parametrize("kind", ["used twice", "by mode", "by value", "with itself"])
def test_leaves_other_chains_alone(kind: str) -> None:
    network = Chain(kind)
    convert_norms(network, 2)
    assert fused_forward(network) is None


@pytest.mark.parametrize("first", ["norm", "other"])
def test_two_norms_that_meet(first: str) -> None:
    class Meet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            a = getattr(self, first)(x)
            b = self.other(x * 2) if first == "norm" else self.norm(x * 2)
            return torch.relu(a + b)

    torch.manual_seed(0)
    network, x = Meet().double(), torch.randn(6, 3, 4, 4, dtype=torch.float64)
    fused, unfused = (run(copy.deepcopy(network), mode, x, [2, 4]) for mode in (True, False))
    for key, value in unfused.items():
        torch.testing.assert_close(fused[key], value, msg=key)
