"""LeNet: the textbook's layers on 28×28 pixels, and as many features of other sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from robustdml_ext.models import LeNet, build_embedder


@pytest.mark.parametrize("channels", [1, 3])
def test_28_pixels_pass_through_the_textbooks_layers(channels: int) -> None:
    torch.manual_seed(0)
    net = LeNet(channels, num_classes=7).double()
    images = torch.rand(5, channels, 28, 28, dtype=torch.float64)
    maps = F.max_pool2d(F.relu(F.conv2d(images, net.conv1.weight, net.conv1.bias)), 2)
    maps = F.max_pool2d(F.relu(F.conv2d(maps, net.conv2.weight, net.conv2.bias)), 2)
    assert maps.shape == (5, 20, 4, 4)
    hidden = F.relu(maps.flatten(1) @ net.fc1.weight.T + net.fc1.bias)
    torch.testing.assert_close(net(images), hidden @ net.fc2.weight.T + net.fc2.bias)


def test_widths_are_layers() -> None:
    net = LeNet(2, (3, 4, 6), 5)
    shapes = {name: tuple(value.shape) for name, value in net.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "conv1.weight": (3, 2, 5, 5), "conv2.weight": (4, 3, 5, 5), "fc1.weight": (6, 64), "fc2.weight": (5, 6),
    }  # fmt: skip
    for widths in ((3, 4), (3, 4, 0)):
        with pytest.raises(ValueError, match="widths: expected three numbers >= 1"):
            LeNet(1, widths)


@pytest.mark.parametrize("size", [(16, 16), (17, 40), (27, 29), (32, 32), (40, 40)])
def test_other_sizes_are_pooled_to_as_many_features(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = LeNet(num_classes=3).double()
    images = torch.rand(2, 1, *size, dtype=torch.float64)
    maps = net.conv2(F.relu(F.max_pool2d(net.conv1(images), 2)))
    height, width = maps.shape[-2:]
    # Each of 4×4 cells holds the largest value of its part, parts overlap where the division has a rest.
    pooled = torch.stack(
        [
            torch.stack(
                [
                    maps[..., y * height // 4 : -(-(y + 1) * height // 4), x * width // 4 : -(-(x + 1) * width // 4)]
                    .flatten(2)
                    .amax(2)
                    for x in range(4)
                ],
                2,
            )
            for y in range(4)
        ],
        2,
    )
    expected = net.fc2(F.relu(net.fc1(F.relu(pooled).flatten(1))))
    torch.testing.assert_close(net(images), expected)


@pytest.mark.parametrize("size", [(15, 28), (28, 8)])
def test_smaller_images_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"images: lenet needs 16 pixels a side, got \[\d+, \d+\]"):
        LeNet()(torch.rand(1, 1, *size))


def test_as_an_embedder() -> None:
    torch.manual_seed(0)
    model = build_embedder("lenet", channels=1, embedding_dim=6, unit_length=False).eval()
    images = torch.rand(3, 1, 28, 28)
    assert (model.classifier, model.feature_dim, model.fused) == ("fc2", 50, False)
    plain = LeNet(1, num_classes=6)
    plain.load_state_dict(model.export().state_dict(), strict=True)
    torch.testing.assert_close(plain(images), model(images))
    assert build_embedder("lenet", channels=3, embedding_dim=6, widths=(3, 4, 9)).feature_dim == 9
    with pytest.raises(ValueError, match="lenet has no batch norm layers to keep distributions apart by"):
        build_embedder("lenet", channels=1, distributions=2)
