"""The embedder: joint passes, what comes out, what is deployed."""

from __future__ import annotations

import copy
import io
import time

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import ResNet, VisionTransformer
from torchvision.models.resnet import BasicBlock

from robustdml_ext.models import IMAGENET_MEAN, IMAGENET_STD, Embedder, build_embedder, to_plain


def small(distributions: int = 3, seed: int = 0, **options: object) -> Embedder:
    """A float64 network whose distributions differ in parameters and statistics."""
    torch.manual_seed(seed)
    model = build_embedder("small", channels=2, embedding_dim=8, distributions=distributions, **options).double()
    for norm in model.norms():
        for value in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            value.uniform_(0.5, 1.5)
    return model


def state_after(model: Embedder, outputs: list[Tensor], x: Tensor) -> dict[str, Tensor]:
    cotangent = torch.linspace(-1, 1, sum(o.numel() for o in outputs), dtype=torch.float64)
    joined = torch.cat(outputs)
    joined.backward(cotangent.reshape(joined.shape))
    gradients = {f"{n}.grad": torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    return {"output": joined.detach(), "x.grad": x.grad, **gradients, **dict(model.named_buffers())}


@settings(max_examples=15)
@given(
    sizes=st.lists(st.sampled_from([0, 2, 3, 5]), min_size=3, max_size=3).filter(any),
    training=st.booleans(),
    fuse=st.booleans(),
)
def test_joint_pass_equals_separate_ones(sizes: list[int], training: bool, fuse: bool) -> None:
    torch.manual_seed(1)
    x = torch.rand(sum(sizes), 2, 8, 8, dtype=torch.float64)
    joint = small(fuse=fuse).train(training)
    separate = copy.deepcopy(joint)
    x1, x2 = (x.clone().requires_grad_() for _ in range(2))
    actual = state_after(joint, [joint(x1, segments=sizes)], x1)
    parts = [separate(part, distribution=k) for k, part in enumerate(x2.split(sizes)) if len(part)]
    expected = state_after(separate, parts, x2)
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, msg=key)


def test_joint_pass_equals_separate_ones_on_resnet() -> None:
    torch.manual_seed(0)
    backbone = ResNet(BasicBlock, [2, 1, 1, 1], num_classes=16)
    joint = Embedder(backbone, 16, 8, distributions=2, norm_noise=0.1).double().train()
    separate = copy.deepcopy(joint)
    x = torch.rand(6, 3, 64, 64, dtype=torch.float64)
    x1, x2 = (x.clone().requires_grad_() for _ in range(2))
    actual = state_after(joint, [joint(x1, segments=[4, 2])], x1)
    expected = state_after(separate, [separate(x2[:4]), separate(x2[4:], distribution=1)], x2)
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, rtol=1e-6, atol=1e-9, msg=key)


def test_unit_length_float32_under_autocast() -> None:
    model = build_embedder("small", channels=1, embedding_dim=16)
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = model(torch.rand(5, 1, 8, 8))
    assert embeddings.dtype == torch.float32 and embeddings.shape == (5, 16)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(5))
    free = build_embedder("small", channels=1, embedding_dim=16, unit_length=False)
    assert (free(torch.rand(5, 1, 8, 8)).norm(dim=1) - 1).abs().min() > 1e-3


@pytest.mark.parametrize("side", [8, 9, 28, 64])
def test_small_takes_small_images(side: int) -> None:
    model = build_embedder("small", channels=1, widths=(4, 6))
    assert model(torch.rand(2, 1, side, side)).shape == (2, 128)
    assert model.features(torch.rand(2, 1, side, side)).shape == (2, 6) and model.feature_dim == 6


def test_small_is_quick() -> None:
    model = build_embedder("small", channels=1, embedding_dim=64)
    x = torch.rand(112, 1, 8, 8)
    model(x).sum().backward()
    times = []
    for _ in range(10):
        start = time.process_time()
        model(x).sum().backward()
        times.append(time.process_time() - start)
    # Several times what a slow core takes (7 ms), as other programs take their share of its caches.
    assert min(times) < 0.04


def test_exported_network_is_torchvisions_own() -> None:
    torch.manual_seed(0)
    model = build_embedder("resnet18", embedding_dim=8, distributions=2, norm_noise=0.3).eval()
    x = torch.rand(2, 3, 32, 32)
    for distribution in (0, 1):
        plain = torchvision.models.resnet18(num_classes=8).eval()
        plain.load_state_dict(model.export(distribution).state_dict(), strict=True)
        normalized = torchvision.transforms.functional.normalize(x, IMAGENET_MEAN, IMAGENET_STD)
        with torch.no_grad():
            expected = nn.functional.normalize(plain(normalized), dim=1)
            torch.testing.assert_close(model(x, distribution=distribution), expected, rtol=1e-3, atol=1e-4)
    assert isinstance(model.backbone.fc, nn.Identity)


def test_copies_and_plain_copies_stand_alone() -> None:
    model = small().eval()
    x = torch.rand(4, 2, 8, 8, dtype=torch.float64)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    expected = model(x, distribution=1)
    for made in (copy.deepcopy(model), torch.load(stream, weights_only=False)):
        assert made.fused and torch.equal(made(x, distribution=1), expected)
        for parameter in made.parameters():
            parameter.data.zero_()
        torch.testing.assert_close(model(x, distribution=1), expected)
    plain = to_plain(model, 1)
    assert isinstance(plain, Embedder) and plain.distributions == 1 and not plain.fused
    torch.testing.assert_close(plain(x), expected)
    assert list(model.state_dict()) == list(plain.state_dict())


def test_state_dict_holds_each_layer_once() -> None:
    model = small()
    assert model.fused and all(name.split(".")[0] in ("backbone", "head", "mean", "std") for name in model.state_dict())
    assert len(list(model.parameters())) == len({id(p) for p in model.parameters()}) == 3 * 3 + 2


def test_refuses_what_does_not_fit() -> None:
    model = small()
    x = torch.rand(4, 2, 8, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match="add up to 4"):
        model(x, segments=[1, 1, 1])
    with pytest.raises(ValueError, match="expected 3 sizes"):
        model(x, segments=[2, 2])
    with pytest.raises(IndexError, match="0 to 2, got 3"):
        model(x, distribution=3)
    with pytest.raises(ValueError, match="no batch norm"):
        Embedder(nn.Linear(3, 3), 3, distributions=2)
    with pytest.raises(ValueError, match="std"):
        Embedder(nn.Sequential(nn.BatchNorm1d(3)), 3, mean=(0.0, 1.0), std=(1.0,))
    with pytest.raises(ValueError, match="to export"):
        Embedder(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3)), 3).export()


def test_a_vision_transformer_has_no_batch_norm_and_trains() -> None:
    torch.manual_seed(0)
    network = VisionTransformer(image_size=16, patch_size=8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16)
    network.heads = nn.Identity()
    model = Embedder(network, 8, 4, classifier="heads").train()
    assert model.distributions == 1 and not model.fused
    images, optimizer = torch.rand(6, 3, 16, 16), torch.optim.SGD(model.parameters(), 0.1)
    before, weights = model(images), {name: value.clone() for name, value in model.named_parameters()}
    nn.functional.cross_entropy(before, torch.arange(6) % 4).backward()
    optimizer.step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, weights[name])}
    assert {"head.weight", "backbone.conv_proj.weight", "backbone.class_token"} <= moved
    losses = [nn.functional.cross_entropy(embeddings, torch.arange(6) % 4) for embeddings in (before, model(images))]
    assert losses[1] < losses[0]
