"""Backbones by name and starting weights."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from robustdml_ext.models import build_embedder


@pytest.mark.parametrize(
    ("arch", "classifier", "features"),
    [
        ("resnet18", "fc", 512), ("mobilenet_v2", "classifier.1", 1280),
        ("mobilenet_v3_small", "classifier.3", 1024),
        ("densenet121", "classifier", 1024), ("shufflenet_v2_x0_5", "fc", 1024),
        ("regnet_y_400mf", "fc", 440),
        ("efficientnet_b0", "classifier.1", 1280), ("mnasnet0_5", "classifier.1", 1280),
    ],
)  # fmt: skip
def test_any_classification_network_with_batch_norm(arch: str, classifier: str, features: int) -> None:
    model = build_embedder(arch, embedding_dim=8, distributions=2).eval()
    assert (model.classifier, model.feature_dim, model.distributions) == (classifier, features, 2)
    with torch.no_grad():
        embeddings = model(torch.rand(2, 3, 32, 32), segments=[1, 1])
    assert embeddings.shape == (2, 8) and embeddings.isfinite().all()
    torchvision.models.get_model(arch, num_classes=8).load_state_dict(model.export().state_dict(), strict=True)


@pytest.mark.parametrize("arch", ["vgg11", "convnext_tiny", "alexnet", "squeezenet1_0"])
def test_no_batch_norm_is_said(arch: str) -> None:
    with pytest.raises(ValueError, match=f"{arch} has no batch norm layers to keep distributions apart by"):
        build_embedder(arch, distributions=2)


def test_one_distribution_needs_no_batch_norm() -> None:
    torch.manual_seed(0)
    model = build_embedder("convnext_tiny", embedding_dim=8).train()
    images = torch.rand(2, 3, 32, 32)
    assert (model.distributions, model.fused, model.classifier) == (1, False, "classifier.2")
    assert list(model.norms()) == [] and model(images, segments=[2]).shape == (2, 8)
    plain = torchvision.models.convnext_tiny(num_classes=8).eval()
    plain.load_state_dict(model.export().state_dict(), strict=True)
    normalized = (images - model.mean) / model.std
    torch.testing.assert_close(nn.functional.normalize(plain(normalized)), model.eval()(images))
    with pytest.raises(ValueError, match="squeezenet1_0 has no linear classifier"):
        build_embedder("squeezenet1_0")


def test_unknown_names_are_said() -> None:
    with pytest.raises(ValueError, match=r"'resnet81'.*did you mean resnet18"):
        build_embedder("resnet81")
    with pytest.raises(ValueError, match="channels: resnet18"):
        build_embedder("resnet18", channels=1)
    with pytest.raises(ValueError, match="widths"):
        build_embedder("small", widths=())


def test_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = torchvision.models.resnet18(num_classes=10)
    for name, state in {
        "plain": source.state_dict(),
        "wrapped": {"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}},
        "older": {k: v for k, v in source.state_dict().items() if "num_batches_tracked" not in k},
    }.items():
        torch.save(state, tmp_path / name)
        model = build_embedder("resnet18", embedding_dim=8, distributions=2, weights=str(tmp_path / name))
        for k in range(2):
            exported = model.export(k).state_dict()
            for key, value in source.state_dict().items():
                if not key.startswith("fc."):
                    assert torch.equal(exported[key], value), key
    same = build_embedder("resnet18", embedding_dim=10, weights=str(tmp_path / "plain"))
    assert torch.equal(same.head.weight, source.fc.weight)
    assert not torch.equal(
        build_embedder("resnet18", embedding_dim=8, weights=str(tmp_path / "plain")).head.weight,
        source.fc.weight[:8],
    )


def test_small_weights_round_trip(tmp_path: Path) -> None:
    model = build_embedder("small", channels=1, embedding_dim=8)
    torch.save(model.export().state_dict(), tmp_path / "small.pt")
    again = build_embedder("small", channels=1, embedding_dim=8, weights=str(tmp_path / "small.pt")).eval()
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(x), model.eval()(x))


def test_old_densenet_keys_load(tmp_path: Path) -> None:
    source = torchvision.models.densenet121(num_classes=8).state_dict()
    renamed = {"norm1.": "norm.1.", "norm2.": "norm.2.", "conv1.": "conv.1."}
    old = {}
    for key, value in source.items():
        for new, name in renamed.items():
            key = key.replace(new, name) if "denselayer" in key else key
        old[key] = value
    assert old.keys() != source.keys()
    torch.save(old, tmp_path / "old.pth")
    exported = build_embedder("densenet121", embedding_dim=8, weights=str(tmp_path / "old.pth")).export().state_dict()
    assert all(torch.equal(exported[key], value) for key, value in source.items())


def test_files_that_do_not_fit_are_explained(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    wrong = {k: v for k, v in state.items() if k != "bn1.weight"} | {"extra.weight": torch.ones(1)}
    wrong["conv1.weight"] = torch.ones(2, 2)
    torch.save(wrong, tmp_path / "wrong")
    with pytest.raises(
        ValueError, match=r"missing: bn1\.weight; not of this network: extra\.weight; of another shape: conv1"
    ):
        build_embedder("resnet18", weights=str(tmp_path / "wrong"))
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(ValueError, match="holds no state dict"):
        build_embedder("resnet18", weights=str(tmp_path / "list"))
    (tmp_path / "text").write_text("not a tensor file")
    with pytest.raises(ValueError, match="cannot be read"):
        build_embedder("resnet18", weights=str(tmp_path / "text"))
    torch.save(nn.Linear(1, 1), tmp_path / "code")
    with pytest.raises(ValueError, match="cannot be read"):
        build_embedder("resnet18", weights=str(tmp_path / "code"))
    with pytest.raises(FileNotFoundError, match=r"no file 'IMAGENET1K_V9'.*IMAGENET1K_V1"):
        build_embedder("resnet50", weights="IMAGENET1K_V9")
    with pytest.raises(FileNotFoundError, match="no file 'imagenet'"):
        build_embedder("small", weights="imagenet")


@pytest.mark.parametrize("weights", ["imagenet", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"])
def test_named_weights_come_from_torchvision(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    state = torchvision.models.resnet18().state_dict()
    asked: list[str] = []

    def fetch(url: str, **options: Any) -> Any:
        asked.append(url)
        return state

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fetch)
    model = build_embedder("resnet18", weights=weights, distributions=2)
    assert asked == [torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url]
    assert torch.equal(model.backbone.conv1.weight, state["conv1.weight"])

    def offline(url: str, **options: Any) -> Any:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    with pytest.raises(FileNotFoundError) as caught:
        build_embedder("resnet18", weights=weights)
    for part in (asked[0], str(tmp_path / "checkpoints"), "no route to host"):
        assert part in str(caught.value)


def test_freeze_norm_and_noise_are_passed_on() -> None:
    generator = torch.Generator().manual_seed(0)
    model = build_embedder("small", distributions=2, norm_noise=0.1, generator=generator, freeze_norm=True)
    for norm in model.norms():
        assert norm.frozen and not torch.equal(norm.weight[0], norm.weight[1])
