"""Wide residual networks: sizes as published, layers as published, and as embedders."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.models import WideResNet, build_embedder
from robustdml_ext.models.architectures import check_arch, own_architecture
from robustdml_ext.models.wide_resnet import wide_resnet_size


@pytest.mark.parametrize(("depth", "width", "millions"), [(28, 10, 36.5), (40, 4, 8.9), (16, 8, 11.0)])
def test_parameters_are_as_many_as_published(depth: int, width: int, millions: float) -> None:
    """Zagoruyko & Komodakis 2016."""
    with torch.device("meta"):
        network = WideResNet(depth, width)
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1) == millions
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert sum(module.kernel_size == (3, 3) for module in convolutions) == depth - 3
    assert sum(module.kernel_size == (1, 1) for module in convolutions) == 3


def _norm(maps: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (maps - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


@pytest.mark.parametrize(("depth", "width", "channels"), [(10, 1, 3), (10, 2, 1), (16, 1, 3)])
def test_blocks_activate_before_they_convolve(depth: int, width: int, channels: int) -> None:
    torch.manual_seed(0)
    network = WideResNet(depth, width, num_classes=5, channels=channels).double().eval()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                nn.init.uniform_(value, 0.5, 1.5)  # type: ignore[arg-type]
    images = torch.rand(2, channels, 16, 16, dtype=torch.float64)
    maps = F.conv2d(images, network.conv.weight, padding=1)
    shapes = []
    for number, block in enumerate(network.stages):
        stride = 2 if number % ((depth - 4) // 6) == 0 and number else 1
        active = _norm(maps, block.norm1).relu()
        inner = _norm(F.conv2d(active, block.conv1.weight, stride=stride, padding=1), block.norm2).relu()
        changes = stride == 2 or maps.shape[1] != inner.shape[1]
        assert (block.shortcut is not None) == changes
        kept = F.conv2d(active, block.shortcut.weight, stride=stride) if changes else maps
        maps = kept + F.conv2d(inner, block.conv2.weight, padding=1)
        shapes.append(tuple(maps.shape[1:]))
    blocks = (depth - 4) // 6
    stages = [(16 * width, 16, 16), (32 * width, 8, 8), (64 * width, 4, 4)]
    assert shapes == [shape for shape in stages for _ in range(blocks)]
    expected = _norm(maps, network.norm).relu().mean((2, 3)) @ network.fc.weight.T + network.fc.bias
    torch.testing.assert_close(network(images), expected)


def test_other_depths_and_widths_are_refused() -> None:
    for depth in (4, 11, 50):
        with pytest.raises(ValueError, match=f"depth: expected 6n . 4 with n >= 1.*got {depth}"):
            WideResNet(depth)
    with pytest.raises(ValueError, match="width: expected a number >= 1, got 0"):
        WideResNet(10, 0)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("wide_resnet34_10", (34, 10)), ("wide_resnet10_1", (10, 1)), ("wide_resnet28_10", (28, 10)),
        ("wide_resnet50_2", None), ("wide_resnet101_2", None), ("wide_resnet4_1", None), ("wide_resnet10_0", None),
        ("wide_resnet10", None), ("wide_resnet_10_1", None), ("resnet34_10", None), ("wide_resnet34_10_2", None),
    ],
)  # fmt: skip
def test_names(name: str, size: tuple[int, int] | None) -> None:
    assert wide_resnet_size(name) == size
    assert (own_architecture(name) is not None) == (size is not None)


def test_torchvisions_wide_networks_are_torchvisions() -> None:
    check_arch("wide_resnet50_2")
    with pytest.raises(ValueError, match="3 channels"):
        check_arch("wide_resnet50_2", 1)
    check_arch("wide_resnet10_1", 1)
    with pytest.raises(ValueError, match=r"'wide_resnet33_10' is neither.*did you mean wide_resnet34_10"):
        check_arch("wide_resnet33_10")


@pytest.mark.parametrize("train", [False, True])
def test_as_an_embedder_with_two_distributions(train: bool) -> None:
    models = []
    for fuse in (True, False):
        torch.manual_seed(0)
        models.append(build_embedder("wide_resnet10_1", embedding_dim=8, distributions=2, fuse=fuse).train(train))
    fused, plain = models
    assert fused.fused and not plain.fused and fused.classifier == "fc" and fused.feature_dim == 64
    images = torch.rand(6, 3, 16, 16)
    joint = [model(images, segments=[2, 4]) for model in models]
    torch.testing.assert_close(joint[0], joint[1], rtol=1e-4, atol=1e-5)
    apart = torch.cat([plain(images[:2]), plain(images[2:], distribution=1)])
    torch.testing.assert_close(joint[1], apart, rtol=1e-4, atol=1e-5)
    gradients = [
        torch.autograd.grad(out[:, 0].sum(), model.backbone.conv.weight)
        for out, model in zip(joint, models, strict=True)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


def test_what_is_deployed_is_the_plain_network() -> None:
    torch.manual_seed(0)
    model = build_embedder("wide_resnet10_2", embedding_dim=8, distributions=2, channels=1, unit_length=False)
    images = torch.rand(5, 1, 12, 12)
    model.train()(images, segments=[2, 3])  # the distributions' statistics part
    model.eval()
    for k in range(2):
        network = WideResNet(10, 2, num_classes=8, channels=1).eval()
        network.load_state_dict(model.export(k).state_dict(), strict=True)
        torch.testing.assert_close(network(images), model(images, distribution=k), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(images), model(images, distribution=1))
