"""googlenet and inception_v3: torchvision's weights want other pixels, and have auxiliary classifiers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from robustdml_ext.models import IMAGENET_MEAN, IMAGENET_STD, build_embedder, plain_embedder

SIZES = {"googlenet": 64, "inception_v3": 80}


def drawn(arch: str) -> nn.Module:
    """torchvision's network as its pretrained ones are made, with weights at which features depend on the images."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(arch, weights=None, init_weights=False, transform_input=True)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.02, 0.1)
    return network.eval()


def features_of(network: nn.Module, images: Tensor) -> Tensor:
    """What torchvision's own classifier is given, for pixels in [0, 1]."""
    found: list[Tensor] = []
    hook = network.fc.register_forward_pre_hook(lambda module, args: found.append(args[0]))
    with torch.no_grad():
        network(torchvision.transforms.functional.normalize(images, IMAGENET_MEAN, IMAGENET_STD))
    hook.remove()
    return found[0]


@pytest.fixture(params=["googlenet", "inception_v3"])
def arch(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(arch: str) -> nn.Module:
    return drawn(arch)


@pytest.fixture
def ways(arch: str, source: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], Any]]:
    """The embedders of the same weights: by torchvision's name, from a file of its keys, and from an export."""

    def fetch(url: str, **options: Any) -> Any:
        return source.state_dict()

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fetch)
    path, exported = tmp_path / "weights.pth", tmp_path / "backbone.pt"
    torch.save(source.state_dict(), path)
    torch.save(build_embedder(arch, embedding_dim=16, weights=str(path)).export().state_dict(), exported)
    return {
        "name": lambda: build_embedder(arch, embedding_dim=16, weights="imagenet"),
        "file": lambda: build_embedder(arch, embedding_dim=16, weights=str(path)),
        "export": lambda: build_embedder(arch, embedding_dim=16, weights=str(exported)),
    }


def test_features_are_torchvision_s_wherever_the_weights_are_from(
    arch: str, source: nn.Module, ways: dict[str, Callable[[], Any]], tmp_path: Path
) -> None:
    images = torch.rand(3, 3, SIZES[arch], SIZES[arch], dtype=torch.float64)
    expected = features_of(source.double(), images)
    # Without torchvision's `transform_input` they are others.
    source.transform_input = False
    assert (features_of(source, images) - expected).abs().max() > 0.01 * expected.abs().max()
    for name, make in ways.items():
        model = make().double().eval()
        with torch.no_grad():
            found = model.features(images)
        torch.testing.assert_close(found, expected, msg=lambda text, name=name: f"{name}: {text}")
        assert not any(key.startswith(("backbone.aux", "backbone.AuxLogits")) for key in model.state_dict())
        assert model.train().features(images).shape == expected.shape  # and no auxiliary outputs
    plain = plain_embedder(arch, str(tmp_path / "weights.pth"), unit_length=False).double()
    torch.testing.assert_close(plain(images), expected)
    plain = plain_embedder(arch, "imagenet", unit_length=False).double()
    torch.testing.assert_close(plain(images), expected)


def test_an_export_is_torchvision_s_network_that_needs_what_the_embedder_says(
    arch: str, ways: dict[str, Callable[[], Any]]
) -> None:
    model = ways["file"]().double().eval()
    assert model.fused
    network = (
        torchvision.models.get_model(
            arch, weights=None, num_classes=16, aux_logits=False, transform_input=False, init_weights=False
        )
        .double()
        .eval()
    )
    network.load_state_dict(model.export().state_dict(), strict=True)
    images = torch.rand(2, 3, SIZES[arch], SIZES[arch], dtype=torch.float64)
    with torch.no_grad():
        embeddings = nn.functional.normalize(network((images - model.mean) / model.std), dim=1)
        torch.testing.assert_close(model(images), embeddings)
        torch.testing.assert_close(model(images), nn.functional.normalize(model.export()((images - 0.5) / 0.5)))


def test_fused_and_unfused_train_alike() -> None:
    torch.manual_seed(0)
    images = torch.rand(6, 3, 64, 64, dtype=torch.float64)
    results = []
    state = None
    for fuse in (True, False):
        model = build_embedder("googlenet", embedding_dim=8, distributions=2, fuse=fuse, dropout=0.0).double().train()
        assert model.fused == fuse
        state = state or {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(state)
        x = images.clone().requires_grad_()
        embeddings = model(x, segments=[4, 2])
        embeddings[:, 0].sum().backward()
        results.append((embeddings.detach(), x.grad, *(value.clone() for value in model.buffers())))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
