"""timm's layers of norm and activation in one keep their activation, in all distributions and on the way back."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, create_act_layer
from timm.layers.norm_act import SyncBatchNormAct, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustdml_ext.models import DistributionNorm, DistributionNormAct, Embedder, convert_norms, fused_forward, to_plain

# Norm and activation apart, in one, both in one network, activations in the middle of residual blocks.
NETWORKS = ("resnet18", "mobilenetv3_small_050", "regnety_002", "tinynet_e", "ghostnet_050", "resnetv2_18")
ACTIVATIONS = ("relu", "relu6", "silu", "hard_swish", "leaky_relu", "prelu", "gelu", "identity")


def stir(network: nn.Module) -> nn.Module:
    """Gives norm layers and slopes values that no initialization would give."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.PReLU):
            module.weight.data.uniform_(0.1, 0.9)
    return network


def layer_of(activation: str, **options: object) -> BatchNormAct2d:
    torch.manual_seed(0)
    kind = type(create_act_layer(activation))
    made = BatchNormAct2d(5, act_layer=kind, inplace=False, **options).double()
    stir(made)
    return made


def written_out(layer: BatchNormAct2d, x: Tensor, training: bool) -> Tensor:
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None and variance is not None
    if training:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    columns = [value.reshape(1, -1, 1, 1) for value in (mean, variance, layer.weight, layer.bias)]
    normalized = (x - columns[0]) / (columns[1] + layer.eps).sqrt() * columns[2] + columns[3]
    return layer.act(normalized)  # type: ignore[no-any-return]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values(activation: str, training: bool) -> None:
    layer = layer_of(activation)
    network = nn.Sequential(copy.deepcopy(layer)).train(training)
    (norm,) = convert_norms(network, 3)
    assert isinstance(norm, DistributionNormAct) and norm.training == training
    assert norm.only_norm == (activation == "identity")
    x = torch.randn(7, 5, 3, 2, dtype=torch.float64)
    with norm.context.use([4, 0, 3]):
        found = network(x)
    expected = torch.cat([written_out(layer, part, training) for part in x.split([4, 3])])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_what_is_dropped_is_dropped_before_the_activation() -> None:
    class Shift(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - 10.0

    layer = layer_of("relu", drop_layer=Shift).eval()
    network = nn.Sequential(copy.deepcopy(layer))
    convert_norms(network, 2)
    x = torch.randn(4, 5, 3, 2, dtype=torch.float64)
    assert network(x).count_nonzero() == 0
    torch.testing.assert_close(network(4 * x + 20), layer(4 * x + 20))
    assert network(4 * x + 20).count_nonzero() > 0


@pytest.mark.parametrize("kind", [BatchNormAct2d, SyncBatchNormAct])
def test_there_and_back(kind: type[nn.Module]) -> None:
    network = nn.ModuleDict({"a": layer_of("prelu"), "b": nn.Sequential(layer_of("silu").eval())})
    if kind is SyncBatchNormAct:
        convert_sync_batchnorm(network)
    original = copy.deepcopy(network)
    assert {type(layer) for layer in original.modules() if isinstance(layer, _BatchNorm)} == {kind}
    first, second = convert_norms(network, 2)
    with torch.no_grad():
        for norm in (first, second):
            assert norm.weight is not None
            norm.weight[1] += 1
    for distribution, shift in ((0, 0.0), (1, 1.0)):
        back = to_plain(network, distribution)
        assert type(back["a"]) is type(back["b"][0]) is kind
        assert back["a"].training and not back["b"][0].training
        assert type(back["a"].act) is type(original["a"].act) and back["a"].act is not first.act
        for (name, value), (key, expected) in zip(
            back.state_dict().items(), original.state_dict().items(), strict=True
        ):
            assert name == key
            moved = name in ("a.weight", "b.0.weight")
            assert torch.equal(value, expected + shift if moved else expected), name


class Block(nn.Module):
    """Where a ReLU inside of the norm must not move behind the sum, and one after the sum may."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.first, self.second = layer_of(activation), layer_of("identity")

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(-x) + x)
        return torch.relu(self.second(y) - y + self.second(0.5 * y) + y)


@pytest.mark.parametrize("activation", ["relu", "silu", "identity"])
def test_fusing_leaves_the_activation_where_it_is(activation: str) -> None:
    network = Block(activation).eval()
    original = copy.deepcopy(network)
    (norm, _) = convert_norms(network, 2)
    x = torch.randn(6, 5, 3, 3, dtype=torch.float64)
    run = fused_forward(network) or network
    with norm.context.use([0, 6]):
        torch.testing.assert_close(run(x), original(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_timm(name: str) -> None:
    torch.manual_seed(0)
    network = stir(timm.create_model(name, num_classes=0)).double().eval()
    original = copy.deepcopy(network)
    x = torch.rand(3, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = original(x)
        embedder = Embedder(network, expected.shape[1], 8, distributions=3).double().eval()
        assert len(list(embedder.norms())) == sum(isinstance(layer, _BatchNorm) for layer in original.modules())
        for distribution in range(3):
            found = embedder.features(x, distribution=distribution)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        fresh = timm.create_model(name, num_classes=0).double().eval()
        fresh.load_state_dict(to_plain(embedder.backbone).state_dict(), strict=True)
        assert torch.equal(fresh(x), expected)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "regnety_002"])
def test_a_joint_pass_equals_separate_ones(name: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0, drop_rate=0.0).double()
    embedder = Embedder(stir(network), network.num_features if name == "regnety_002" else 1024, 8, distributions=3)
    joint, separate = embedder.double().train(), copy.deepcopy(embedder)
    x = torch.rand(9, 3, 64, 64, dtype=torch.float64)
    found = joint(x, [4, 3, 2])
    expected = torch.cat([separate(part, distribution=k) for k, part in enumerate(x.split([4, 3, 2]))])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for (key, value), other in zip(joint.state_dict().items(), separate.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-9, msg=key)


def test_refuses_what_it_does_not_know() -> None:
    class More(BatchNormAct2d):
        pass

    with pytest.raises(TypeError, match="0 is a More, which cannot be converted"):
        convert_norms(nn.Sequential(More(3)), 2)
    with pytest.raises(ValueError, match="no batch norm layer"):
        Embedder(timm.create_model("convnext_atto", num_classes=0), 320, distributions=2)
    # Its norm layers see a row for each place of each image: whose rows are whose is not to be told.
    levit = Embedder(timm.create_model("levit_128s", num_classes=0), 384, distributions=2).eval()
    with pytest.raises(ValueError, match=r"segments: .* 392; got \[2, 0\]"):
        levit(torch.rand(2, 3, 224, 224))


def test_networks_without_activations_inside_get_the_plain_layer() -> None:
    network = timm.create_model("resnet18", num_classes=0)
    assert {type(norm) for norm in convert_norms(network, 2)} == {DistributionNorm}
