"""The x-vector network: its layers, its pooling, and its way through the embedder."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustdml_ext.models import XVector, build_embedder
from robustdml_ext.models.xvector import CONTEXT, pool_statistics

WIDTHS = (12, 10, 8, 8, 16, 9, 7)


def written_out(network: XVector, features: Tensor) -> Tensor:
    """Table 1 of Snyder et al. 2018 in float64 by the network's running statistics, frame by frame in its context."""
    state = {name: value.double() for name, value in network.state_dict().items()}

    def rectified(values: Tensor, norm: str) -> Tensor:
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return (values.relu() - mean) / (variance + 1e-5).sqrt() * state[f"{norm}.weight"] + state[f"{norm}.bias"]

    frames = features.double().transpose(1, 2)  # [B, T, bins]
    for layer, context in enumerate([(-2, -1, 0, 1, 2), (-2, 0, 2), (-3, 0, 3), (0,), (0,)]):
        weight, bias = state[f"frames.{3 * layer}.weight"], state[f"frames.{3 * layer}.bias"]
        reach = context[-1]
        seen = [
            sum(frames[:, t + offset] @ weight[:, :, place].T for place, offset in enumerate(context)) + bias
            for t in range(reach, frames.shape[1] - reach)
        ]
        frames = rectified(torch.stack(seen, dim=1), f"frames.{3 * layer + 2}")
    mean = frames.mean(1)
    whole = torch.cat([mean, ((frames - mean[:, None]) ** 2).mean(1).sqrt()], dim=1)
    for layer in (0, 1):
        weight, bias = state[f"segments.{3 * layer}.weight"], state[f"segments.{3 * layer}.bias"]
        whole = rectified(whole @ weight.T + bias, f"segments.{3 * layer + 2}")
    return whole @ state["fc.weight"].T + state["fc.bias"]


def trained_a_little(network: XVector, frames: int = 40) -> XVector:
    """Running statistics of some batches, and γ and β that are not 1 and 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.5, 0.5, generator=generator)
        for _ in range(20):
            network(torch.randn(8, network.bins, frames, generator=generator))
    return network.eval()


@pytest.mark.parametrize(("bins", "frames"), [(6, 15), (6, 40), (1, 23)])
def test_layers_are_those_of_the_table(bins: int, frames: int) -> None:
    torch.manual_seed(0)
    network = trained_a_little(XVector(bins, 5, WIDTHS))
    features = torch.randn(3, bins, frames)
    with torch.no_grad():
        logits = network(features)
        assert torch.equal(network(features[:, None]), logits)
    assert (logits - written_out(network, features)).abs().max() < 1e-5


def test_the_published_sizes() -> None:
    network = XVector(24, 1_000)
    sizes = [tuple(p.shape) for name, p in network.named_parameters() if name.endswith("weight") and p.dim() > 1]
    assert sizes == [
        (512, 24, 5), (512, 512, 3), (512, 512, 3), (512, 512, 1), (1500, 512, 1), (512, 3000), (512, 512), (1000, 512),
    ]  # fmt: skip
    assert CONTEXT == 15


@settings(deadline=None, max_examples=30)
@given(frames=st.integers(1, 20), offset=st.floats(-100, 100), seed=st.integers(0, 9))
def test_statistics_are_of_all_frames(frames: int, offset: float, seed: int) -> None:
    values = torch.randn(2, 3, frames, generator=torch.Generator().manual_seed(seed)) + offset
    wide = values.double()
    mean = wide.mean(-1)
    deviation = ((wide - mean[..., None]) ** 2).mean(-1).sqrt()
    assert (pool_statistics(values) - torch.cat([mean, deviation.clamp(min=1e-5)], 1)).abs().max() < 1e-4


def test_frames_that_are_all_alike_have_a_gradient() -> None:
    values = torch.full((2, 3, 4), 0.7, requires_grad=True)
    pool_statistics(values).sum().backward()
    assert values.grad is not None and values.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(2, 6, 14), (2, 5, 40), (2, 3, 6, 40), (6, 40), (2, 1, 5, 40)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"features: expected \[B, 1, 6, frames\] of at least 15 frames, got \["):
        XVector(6, widths=WIDTHS)(torch.randn(shape))


def test_wrong_arguments_are_named() -> None:
    for widths in ((8, 8, 8), (*WIDTHS[:6], 0)):
        with pytest.raises(ValueError, match="widths: expected 7 numbers >= 1"):
            XVector(6, widths=widths)
    with pytest.raises(ValueError, match="bins: expected a number >= 1, got 0"):
        XVector(0)
    with pytest.raises(ValueError, match="channels: xvector takes sound, of 1 channel, got 3"):
        build_embedder("xvector", widths=WIDTHS)


def test_the_embedder_is_the_plain_network_in_training_and_after() -> None:
    """Two distributions in one pass are two plain networks', and what is exported is one."""
    torch.manual_seed(0)
    model = build_embedder("xvector", channels=1, embedding_dim=5, distributions=2, widths=WIDTHS, unit_length=False)
    assert (model.classifier, model.feature_dim, model.distributions) == ("fc", WIDTHS[-1], 2)
    assert model.mean.tolist() == [[[[0.0]]]] and model.std.tolist() == [[[[1.0]]]]
    plain = [copy.deepcopy(model.export(k)).train() for k in range(2)]
    sound = torch.randn(12, 1, 30, 40) * 3
    for _ in range(3):
        joint = model(sound, [5, 7])
        apart = torch.cat([plain[0](sound[:5]), plain[1](sound[5:])])
        assert torch.allclose(joint, apart, atol=1e-4)
    joint.square().sum().backward()
    apart.square().sum().backward()
    own, parts = model.backbone.frames[0].weight.grad, [network.frames[0].weight.grad for network in plain]
    assert (own - parts[0] - parts[1]).abs().max() < 1e-3 * own.abs().max()
    model.eval()
    for k in range(2):
        exported = model.export(k).eval()
        assert isinstance(exported, XVector)
        with torch.no_grad():
            assert torch.allclose(exported(sound), model(sound, distribution=k), atol=1e-4)
            assert torch.allclose(plain[k].eval()(sound), exported(sound), atol=1e-4)
    XVector(30, 5, WIDTHS).load_state_dict(model.export().state_dict(), strict=True)


def test_any_length_and_compiled_alike() -> None:
    torch.manual_seed(0)
    model = build_embedder("xvector", channels=1, embedding_dim=5, widths=WIDTHS).eval()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        for frames in (20, 33):
            sound = torch.randn(2, 1, 30, frames)
            assert torch.allclose(compiled(sound), model(sound), atol=1e-5)
            assert torch.allclose(model(sound).norm(dim=1), torch.ones(2), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_statistics_in_single_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    large = (torch.randn(2, 4, 50) * 600).to(dtype)  # whose squares have no half-precision number
    with torch.autocast("cpu", dtype=dtype):
        pooled = pool_statistics(large)
    assert pooled.dtype == torch.float32
    assert torch.allclose(pooled[:, 4:], large.double().std(-1, correction=0).float(), rtol=1e-4)
    model = build_embedder("xvector", channels=1, embedding_dim=5, widths=WIDTHS).eval()
    sound = torch.randn(3, 1, 30, 40)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        low = model(sound)
    assert low.dtype == torch.float32 and F.cosine_similarity(low, model(sound)).min() > 0.99
