"""Somebody else's networks as embedders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from robustdml_ext.models import PlainEmbedder, build_embedder, plain_embedder


@pytest.mark.parametrize(("arch", "channels", "size"), [("small", 1, 8), ("resnet18", 3, 64), ("googlenet", 3, 64)])
def test_a_deployed_backbone_embeds_as_the_embedder_it_came_from(
    tmp_path: Path, arch: str, channels: int, size: int
) -> None:
    torch.manual_seed(0)
    embedder = build_embedder(arch, embedding_dim=24, channels=channels).eval()
    torch.save(embedder.export().state_dict(), tmp_path / "backbone.pt")
    model = plain_embedder(arch, str(tmp_path / "backbone.pt"), channels=channels)
    images = torch.rand(3, channels, size, size)
    with torch.no_grad():
        torch.testing.assert_close(model(images), embedder(images), rtol=1e-5, atol=1e-6)
        features = plain_embedder(arch, str(tmp_path / "backbone.pt"), channels=channels, embedding="features")(images)
    assert features.shape == (3, embedder.feature_dim)
    assert not model.training


def test_classifiers_of_imagenet_give_their_features() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert plain_embedder("resnet18", "none")(images).shape == (2, 512)
        output = plain_embedder("resnet18", "none", embedding="output", unit_length=False)(images)
    assert output.shape == (2, 1000) and (output.norm(dim=1) - 1).abs().max() > 0.1


def test_networks_without_batch_norm() -> None:
    with torch.no_grad():
        embeddings = plain_embedder("vit_b_16", "none")(torch.rand(1, 3, 224, 224))
    assert embeddings.shape == (1, 768)
    assert embeddings.norm(dim=1).item() == pytest.approx(1, abs=1e-5)


def test_normalization_is_inside() -> None:
    model = PlainEmbedder(nn.Flatten(), mean=(0.5,), std=(0.25,), unit_length=False)
    images = torch.rand(2, 1, 2, 2)
    assert torch.equal(model(images), ((images - 0.5) / 0.25).flatten(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "resnet19"}, "did you mean resnet18"),
        ({"arch": "resnet18", "channels": 1}, "3 channels, got 1"),
        ({"arch": "small"}, "no ImageNet weights"),
        ({"arch": "resnet18", "weights": "none", "embedding": "logits"}, "auto, features, output"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain_embedder(**options)  # type: ignore[arg-type]


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        plain_embedder("resnet18", str(tmp_path / "nowhere.pt"))
    torch.save({"head.weight": torch.zeros(3, 3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"holds no fc\.weight"):
        plain_embedder("resnet18", str(tmp_path / "other.pt"))
    torch.save({"fc.weight": torch.zeros(3, 512), "fc.bias": torch.zeros(3)}, tmp_path / "half.pt")
    with pytest.raises(ValueError, match="missing"):
        plain_embedder("resnet18", str(tmp_path / "half.pt"))
