"""DistributionNorm against `torch.nn.BatchNorm` on each segment, over everything BatchNorm can be set to."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robustdml_ext.models import DistributionNorm, NormContext

SHAPES = {nn.BatchNorm1d: (4,), nn.BatchNorm2d: (4, 3, 2), nn.BatchNorm3d: (4, 2, 3, 2)}


def trained(kind: type[nn.Module], seed: int = 0, **options: object) -> nn.Module:
    """A batch norm layer whose parameters and statistics are all different from their defaults."""
    torch.manual_seed(seed)
    norm = kind(4, dtype=torch.float64, **options)
    for value in [*norm.parameters(), *norm.buffers()]:
        if value.is_floating_point():
            value.data.uniform_(0.5, 2)
        else:
            value.fill_(3)
    return norm


@given(
    kind=st.sampled_from(list(SHAPES)),
    sizes=st.lists(st.sampled_from([0, 2, 3, 6]), min_size=1, max_size=4).filter(any),
    training=st.booleans(),
    momentum=st.sampled_from([0.1, 0.7, None]),
    affine=st.booleans(),
    tracking=st.booleans(),
    passes=st.integers(1, 3),
)
def test_equals_separate_batch_norms(
    kind: type[nn.Module], sizes: list[int], training: bool, momentum: float | None, affine: bool,
    tracking: bool,
    passes: int,
) -> None:  # fmt: skip
    norm = trained(kind, momentum=momentum, affine=affine, track_running_stats=tracking).train(training)
    context = NormContext(len(sizes))
    ours = DistributionNorm.from_plain(norm, context)
    plain = [copy.deepcopy(norm) for _ in sizes]
    for i in range(passes):
        torch.manual_seed(i)
        x = torch.randn(sum(sizes), *SHAPES[kind], dtype=torch.float64, requires_grad=True)
        cotangent = torch.randn_like(x)
        with context.use(sizes):
            actual = ours(x)
        parts = [p(v) if len(v) else v for p, v in zip(plain, x.split(sizes), strict=True)]
        expected = torch.cat(parts)
        torch.testing.assert_close(actual, expected)
        leaves = [x, *ours.parameters()]
        gradients = torch.autograd.grad(actual, leaves, cotangent)
        torch.testing.assert_close(gradients[0], torch.autograd.grad(expected, x, cotangent, retain_graph=True)[0])
        for name, gradient in zip(["weight", "bias"] if affine else [], gradients[1:], strict=True):
            for k, (p, part) in enumerate(zip(plain, parts, strict=True)):
                if len(part):
                    piece = cotangent.split(sizes)[k]
                    (own,) = torch.autograd.grad(part, getattr(p, name), piece, retain_graph=True)
                    torch.testing.assert_close(gradient[k], own)
                else:
                    assert gradient[k].abs().max() == 0
    for k, p in enumerate(plain):
        back = ours.plain(k)
        assert type(back) is kind and back.state_dict().keys() == p.state_dict().keys()
        for name, value in p.state_dict().items():
            torch.testing.assert_close(back.state_dict()[name], value)


def test_residual_and_relu_follow_the_normalization() -> None:
    norm = DistributionNorm.from_plain(trained(nn.BatchNorm2d), NormContext(2))
    x, residual = torch.randn(2, 5, 4, 3, 2, dtype=torch.float64).unbind()
    with norm.context.use([2, 3]):
        fused = norm(x, residual.float(), relu=True)
        torch.testing.assert_close(fused, (norm(x) + residual.float()).relu())


def test_outside_of_a_pass_all_rows_are_clean() -> None:
    norm = DistributionNorm.from_plain(trained(nn.BatchNorm2d), NormContext(3))
    before = norm.running_mean.clone()
    norm(torch.randn(5, 4, 2, 2, dtype=torch.float64))
    assert (norm.running_mean != before).any(1).tolist() == [True, False, False]
    assert norm.num_batches_tracked.tolist() == [4, 3, 3]


def test_frozen_keeps_statistics_and_trains_parameters() -> None:
    norm = DistributionNorm.from_plain(trained(nn.BatchNorm2d), NormContext(1)).train()
    norm.frozen = True
    x = torch.randn(5, 4, 2, 2, dtype=torch.float64)
    before = {name: value.clone() for name, value in norm.named_buffers()}
    trained_output = norm(x)
    trained_output.sum().backward()
    assert norm.weight.grad is not None
    torch.testing.assert_close(trained_output, norm.eval()(x))
    assert all(torch.equal(value, before[name]) for name, value in norm.named_buffers())


def test_context_is_restored_and_checked() -> None:
    context = NormContext(2)
    with pytest.raises(RuntimeError, match="inside"), context.use([1, 2]):
        assert context.segments == [1, 2]
        raise RuntimeError("inside")
    assert context.segments is None
    with pytest.raises(ValueError, match="expected 2 sizes"), context.use([3]):
        pass
    with pytest.raises(ValueError, match="distributions"):
        NormContext(0)


def test_copies_share_a_context_of_their_own() -> None:
    context = NormContext(2)
    context.group = object()  # type: ignore[assignment]
    pair = nn.ModuleList([DistributionNorm(3, context), DistributionNorm(3, context)])
    for made in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        assert made[0].context is made[1].context is not context
        assert made[0].context.distributions == 2 and made[0].context.group is None
