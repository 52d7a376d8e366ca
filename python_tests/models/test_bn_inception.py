"""BN-Inception: the published topology, keys and input convention, and all that an embedder does with it."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustdml_ext.attacks import folding
from robustdml_ext.models import architectures, build_embedder, fused_forward, plain_embedder
from robustdml_ext.models.bn_inception import BNInception, HalvingMaxPool
from robustdml_ext.models.build import check_arch, find_classifier
from robustdml_ext.models.norm import DistributionNorm

FILE = "bn_inception-52deb4733.pth"
BGR_MEAN = torch.tensor([104.0, 117.0, 128.0]).reshape(1, 3, 1, 1)
State = dict[str, Tensor]


def shake(network: nn.Module) -> None:
    """Norm layers whose statistics and parameters, and convolutions whose biases matter."""
    generator = torch.Generator().manual_seed(7)
    for name, values in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            values.copy_(torch.rand(values.shape, generator=generator) + 0.5)
        elif values.dim() == 1 and not name.endswith("_bn.weight"):
            values.copy_(torch.rand(values.shape, generator=generator) - 0.5)


@pytest.fixture(scope="module")
def published() -> State:
    """What stands for the published file: its keys, with other values."""
    torch.manual_seed(0)
    network = BNInception()
    shake(network)
    # Pixels of 0..255 shall not drown the biases.
    network.conv1_7x7_s2.weight.data.mul_(0.05)
    return network.state_dict()


def reference(state: State, bgr: Tensor, used: set[str] | None = None) -> Tensor:
    """The features by the published keys, step by step: blue, green, red in 0..255, less (104, 117, 128)."""
    used = set() if used is None else used

    def unit(name: str, maps: Tensor, stride: int = 1) -> Tensor:
        used.add(name)
        weight = state[f"{name}.weight"]
        maps = F.conv2d(maps, weight, state[f"{name}.bias"], stride, weight.shape[-1] // 2)
        norm = [state[f"{name}_bn.{of}"] for of in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(maps, *norm, eps=1e-5).clamp(min=0)

    def halved(maps: Tensor) -> Tensor:
        return F.max_pool2d(maps, 3, 2, ceil_mode=True)

    maps = halved(unit("conv1_7x7_s2", bgr, 2))
    maps = halved(unit("conv2_3x3", unit("conv2_3x3_reduce", maps)))
    for block in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        own = f"inception_{block}"
        stride = 2 if block in ("3c", "4e") else 1
        three = unit(f"{own}_3x3", unit(f"{own}_3x3_reduce", maps), stride)
        double = unit(f"{own}_double_3x3_1", unit(f"{own}_double_3x3_reduce", maps))
        double = unit(f"{own}_double_3x3_2", double, stride)
        if stride == 2:
            maps = torch.cat([three, double, halved(maps)], 1)
            continue
        pooled = F.max_pool2d(maps, 3, 1, 1) if block == "5b" else F.avg_pool2d(maps, 3, 1, 1, count_include_pad=True)
        maps = torch.cat([unit(f"{own}_1x1", maps), three, double, unit(f"{own}_pool_proj", pooled)], 1)
    return maps.mean((2, 3))


def test_size_and_shapes_of_all_stages() -> None:
    network = BNInception().eval()
    # As public tables of models have it.
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_295_240
    found: dict[str, tuple[int, ...]] = {}
    # A block's output is what the next one's first layer is given.
    after = {
        "inception_3a_1x1": "stem", "inception_3b_1x1": "3a", "inception_3c_3x3_reduce": "3b", "inception_4a_1x1": "3c",
        "inception_4b_1x1": "4a", "inception_4c_1x1": "4b", "inception_4d_1x1": "4c", "inception_4e_3x3_reduce": "4d",
        "inception_5a_1x1": "4e", "inception_5b_1x1": "5a", "global_pool": "5b",
    }  # fmt: skip

    def note(stage: str) -> Any:
        return lambda module, inputs: found.update({stage: tuple(inputs[0].shape[1:])})

    for name, stage in after.items():
        network.get_submodule(name).register_forward_pre_hook(note(stage))
    with torch.no_grad():
        assert network(torch.rand(1, 3, 224, 224)).shape == (1, 1000)
    assert found == {
        "stem": (192, 28, 28), "3a": (256, 28, 28), "3b": (320, 28, 28), "3c": (576, 14, 14), "4a": (576, 14, 14),
        "4b": (576, 14, 14), "4c": (608, 14, 14), "4d": (608, 14, 14), "4e": (1056, 7, 7), "5a": (1024, 7, 7),
        "5b": (1024, 7, 7),
    }  # fmt: skip


@pytest.mark.parametrize("size", [64, 224])
def test_pixels_come_to_the_published_weights_in_their_convention(size: int, published: State, tmp_path: Path) -> None:
    torch.save(published, tmp_path / "file.pth")
    embedder = build_embedder("bn_inception", weights=str(tmp_path / "file.pth"), fuse=size == 64).eval()
    plain = plain_embedder("bn_inception", str(tmp_path / "file.pth"), unit_length=False)
    rgb = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    rgb *= torch.tensor([1.0, 0.6, 0.2]).reshape(1, 3, 1, 1)
    bgr = torch.stack([rgb[:, 2], rgb[:, 1], rgb[:, 0]], 1) * 255 - BGR_MEAN
    used: set[str] = set()
    with torch.no_grad():
        expected = reference(published, bgr, used)
        scale = expected.abs().max().item()
        torch.testing.assert_close(embedder.features(rgb), expected, rtol=1e-4, atol=1e-4 * scale)
        torch.testing.assert_close(plain(rgb), expected, rtol=1e-4, atol=1e-4 * scale)
        swapped = embedder.features(rgb.flip(1))
    assert (swapped - expected).abs().max() > 0.05 * scale
    names = {f"{name}.{of}" for name in used for of in ("weight", "bias")} | {"last_linear.weight", "last_linear.bias"}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert set(published) == names | {f"{name}_bn.{of}" for name in used for of in norm}


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_halving_pool_against_windows(height: int, width: int, seed: int) -> None:
    maps = torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(seed)) - 2
    rows = [
        torch.stack([maps[:, :, i : i + 3, j : j + 3].amax((2, 3)) for j in range(0, width, 2)], -1)
        for i in range(0, height, 2)
    ]
    found = HalvingMaxPool()(maps)
    assert torch.equal(found, torch.stack(rows, -2))
    assert found.shape == F.conv2d(maps, torch.ones(1, 2, 3, 3), stride=2, padding=1).expand(1, 2, -1, -1).shape
    if height % 2 == 0 and width % 2 == 0:
        assert torch.equal(found, F.max_pool2d(maps, 3, 2, ceil_mode=True))


@pytest.mark.parametrize("size", [(7, 7), (28, 28), (61, 90)])
def test_any_image_size_fits(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        embeddings = plain_embedder("bn_inception", "none")(torch.rand(2, 3, *size))
    assert embeddings.shape == (2, 1024) and embeddings.isfinite().all()


def old(state: State) -> State:
    """As the first files were: another name of the classifier, and norm layers' vectors as rows."""
    renamed = {key.replace("last_linear.", "fc."): value for key, value in state.items() if "num_batches" not in key}
    return {key: value[None] if "_bn." in key else value for key, value in renamed.items()}


def test_old_files_load(published: State, tmp_path: Path) -> None:
    torch.save(old(published), tmp_path / "old.pth")
    embedder = build_embedder("bn_inception", embedding_dim=1000, distributions=2, weights=str(tmp_path / "old.pth"))
    exported = embedder.export(1).state_dict()
    assert exported.keys() == published.keys()
    for key, value in published.items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(exported[key], value), key
    # The classifier of one output is a matrix of one row as well, and stays one.
    single = BNInception(1).state_dict()
    torch.save(old(single), tmp_path / "single.pth")
    found = build_embedder("bn_inception", embedding_dim=1, weights=str(tmp_path / "single.pth")).head.weight
    assert torch.equal(found, single["last_linear.weight"])
    torch.save({key: value for key, value in published.items() if "4c_3x3.bias" not in key}, tmp_path / "less.pth")
    with pytest.raises(ValueError, match=r"does not fit bn_inception; missing: inception_4c_3x3\.bias"):
        build_embedder("bn_inception", weights=str(tmp_path / "less.pth"))


def test_imagenet_is_the_published_file(published: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "checkpoints"
    asked: list[str] = []

    def offline(url: str, *arguments: Any, **options: Any) -> None:
        asked.append(url)
        raise OSError("no route to host")

    download = torch.hub.download_url_to_file
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    for build in (build_embedder, plain_embedder):
        with pytest.raises(FileNotFoundError) as caught:
            build("bn_inception", weights="imagenet")
        for part in (f"http://data.lip6.fr/cadene/pretrainedmodels/{FILE}", str(folder), "no route to host"):
            assert part in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"no file 'imagenet1k'; imagenet stands for"):
        build_embedder("bn_inception", weights="imagenet1k")
    assert len(asked) == 2
    torch.save(old(published), folder / FILE)
    embedder = build_embedder("bn_inception", weights="imagenet")
    plain = plain_embedder("bn_inception", "imagenet")
    for network in (embedder.backbone, plain.network):
        assert torch.equal(network.get_submodule("conv2_3x3").weight, published["conv2_3x3.weight"])
    assert isinstance(plain.network.last_linear, nn.Identity) and len(asked) == 2

    # What is downloaded must be what the file's name says.
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    digest = hashlib.sha256((folder / FILE).read_bytes()).hexdigest()
    source = folder / FILE
    for name, fits in ((f"net-{digest[:9]}.pth", True), ("net-000000000.pth", False)):
        source = source.rename(tmp_path / name)
        entry = dataclasses.replace(architectures.OWN["bn_inception"], url=source.as_uri())
        monkeypatch.setitem(architectures.OWN, "bn_inception", entry)
        if fits:
            build_embedder("bn_inception", weights="imagenet")
        else:
            with pytest.raises(FileNotFoundError, match="invalid hash"):
                build_embedder("bn_inception", weights="imagenet")
        assert (folder / name).is_file() == fits


def test_distributions_fusion_and_export(tmp_path: Path) -> None:
    torch.manual_seed(0)
    embedder = build_embedder("bn_inception", embedding_dim=8, distributions=2, norm_noise=0.2)
    assert (embedder.classifier, embedder.feature_dim, embedder.fused) == ("last_linear", 1024, True)
    norms = len(list(embedder.norms()))
    assert norms == 69 and sum(isinstance(module, nn.BatchNorm2d) for module in embedder.modules()) == 0
    graph = fused_forward(embedder.backbone)
    assert graph is not None
    targets = [node.kwargs for node in graph.__self__.graph.nodes if isinstance(called(graph, node), DistributionNorm)]
    assert targets == [{"relu": True}] * norms
    images = torch.rand(4, 3, 64, 64)
    embedder(images, segments=[2, 2])
    embedder.eval()
    with torch.no_grad():
        joint = embedder(images, segments=[2, 2])
        separate = [embedder(images[:2]), embedder(images[2:], distribution=1)]
        torch.testing.assert_close(joint, torch.cat(separate), rtol=1e-4, atol=1e-5)
        assert (embedder(images[2:]) - separate[1]).abs().max() > 1e-3
        exported = embedder.export()
        torch.save(exported.state_dict(), tmp_path / "backbone.pt")
        BNInception(8).load_state_dict(exported.state_dict(), strict=True)
        plain = plain_embedder("bn_inception", str(tmp_path / "backbone.pt"))
        assert torch.equal(plain.mean, embedder.mean) and torch.equal(plain.std, embedder.std)
        torch.testing.assert_close(plain(images[:2]), separate[0], rtol=1e-4, atol=1e-5)


def called(graph: Any, node: Any) -> nn.Module | None:
    return graph.__self__.get_submodule(node.target) if node.op == "call_module" else None


@pytest.mark.parametrize("kind", ["embedder", "plain"])
def test_attacks_fold_it(kind: str, published: State, tmp_path: Path) -> None:
    torch.save(published, tmp_path / "file.pth")
    build = build_embedder if kind == "embedder" else plain_embedder
    model = build("bn_inception", weights=str(tmp_path / "file.pth")).double().eval()
    images = torch.rand(2, 3, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = gradient(model, images)
    with folding.faster(model, images, passes=10) as victim:
        folded = model._forward if kind == "embedder" else model.network
        assert isinstance(folded, folding.Folded) and len(folded._convolutions) == 69
        for found, wanted in zip(gradient(victim, images), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9 * wanted.abs().max().item())
    assert expected[1].abs().max() > 0


def gradient(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    leaf = images.clone().requires_grad_()
    embeddings = model(leaf)
    direction = torch.linspace(-1, 1, embeddings.shape[1], dtype=images.dtype)
    return embeddings.detach(), torch.autograd.grad((embeddings * direction).sum(), leaf)[0]


def test_names() -> None:
    check_arch("bn_inception")
    assert find_classifier(BNInception(3), "bn_inception") == "last_linear"
    with pytest.raises(ValueError, match=r"'bninception' is neither .*bn_inception.*did you mean bn_inception"):
        build_embedder("bninception")
    with pytest.raises(ValueError, match="channels: bn_inception takes images of 3 channels, got 1"):
        build_embedder("bn_inception", channels=1)


def test_fresh_weights_train() -> None:
    torch.manual_seed(0)
    network = BNInception(4)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] < 4 and losses[-1] < 0.25 * losses[0]
