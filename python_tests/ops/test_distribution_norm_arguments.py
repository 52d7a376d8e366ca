"""`distribution_norm` as an operator: compiled, autocast, threads, wrong arguments."""

from __future__ import annotations

import pytest
import torch
from strategies import DEVICES, values
from torch import Tensor, nn

from robustdml_ext import ops
from robustdml_ext.ops import _distribution_norm_operators as operators


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(8, 5), (8, 5, 3, 3), (8, 4, 8, 8)])
def test_opcheck(shape: tuple[int, ...], device: str) -> None:
    x, residual, grad = (values(shape, torch.float32, device, s).requires_grad_() for s in range(3))
    weight, bias = (values((2, shape[1]), torch.float32, device, s).requires_grad_() for s in (3, 4))
    mean, variance = torch.zeros(2, shape[1], device=device), torch.ones(2, shape[1], device=device)
    segments = [5, 3]
    library = torch.ops.robustdml
    torch.library.opcheck(library.distribution_norm.default, (x, residual, weight, bias, segments, 1e-5, True))
    torch.library.opcheck(
        library.distribution_norm_apply.default, (x, None, weight, bias, mean, variance, segments, 1e-5, False)
    )
    plain = [t.detach() for t in (grad, x, weight)]
    torch.library.opcheck(library.distribution_norm_statistics.default, (plain[1], segments))
    torch.library.opcheck(
        library.distribution_norm_sums.default, (plain[0], plain[1], None, mean, variance, segments, 1e-5)
    )
    counts = operators.values_per_channel(x, segments)
    torch.library.opcheck(
        library.distribution_norm_backward.default,
        (plain[0], plain[1], None, plain[2], mean, variance, None, counts, segments, 1e-5, True, True),
    )
    torch.library.opcheck(
        library.distribution_norm_update_.default, (mean, variance, mean + 1, variance + 1, counts, 0.1)
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("training", [True, False])
def test_compiles_whole(training: bool, device: str) -> None:
    x = values((9, 4, 6, 6), torch.float32, device, 0).requires_grad_()
    weight, bias = torch.ones(2, 4, device=device), torch.zeros(2, 4, device=device)

    def block(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return ops.distribution_norm(
            x * 2, weight, bias, mean, variance, [5, 4], training=training, relu=True, residual=x
        ).square().sum()  # fmt: skip

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    results = []
    for function in (block, compiled):
        mean, variance = torch.zeros(2, 4, device=device), torch.ones(2, 4, device=device)
        results.append([*torch.autograd.grad(function(x, mean, variance), x), mean, variance])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("shape", [(48, 40), (24, 64, 3, 3), (24, 20, 31, 33)])
def test_result_does_not_depend_on_threads(shape: tuple[int, ...]) -> None:
    before, results = torch.get_num_threads(), []
    x, grad = values(shape, torch.float32, "cpu", 0), values(shape, torch.float32, "cpu", 1)
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            leaf = x.clone().requires_grad_()
            weight = torch.ones(2, shape[1], requires_grad=True)
            segments = [shape[0] // 3, shape[0] - shape[0] // 3]
            output = ops.distribution_norm(leaf, weight, weight * 0, None, None, segments, training=True)
            output.backward(grad)
            results.append((output.detach(), leaf.grad, weight.grad))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("device", DEVICES)
def test_takes_the_bfloat16_of_autocast(device: str) -> None:
    convolution = nn.Conv2d(3, 8, 3).to(device)
    weight, bias = torch.ones(2, 8, device=device), torch.zeros(2, 8, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        features = convolution(values((6, 3, 9, 9), torch.float32, device, 0))
        output = ops.distribution_norm(features, weight, bias, None, None, [4, 2], training=True)
    assert features.dtype == torch.bfloat16 and output.dtype == torch.bfloat16
    exact = nn.functional.batch_norm(features[:4].double(), None, None, training=True)
    assert torch.allclose(output[:4].double(), exact, atol=2e-2)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"input": torch.rand(4)}, ValueError, r"input: expected \[N, C\]"),
        ({"input": torch.ones(4, 3, dtype=torch.int64)}, TypeError, "input: expected dtype"),
        ({"weight": torch.ones(1, 3)}, ValueError, r"weight: expected shape \[K, C\], K = len\(segments\) = \[2, 3\]"),
        ({"bias": torch.ones(2, 3).double()}, TypeError, "bias: expected dtype float32"),
        ({"segments": [2, 1]}, ValueError, "segments: expected sizes >= 0 that add up to the batch, 4; got"),
        ({"segments": [5, -1]}, ValueError, "segments: expected sizes >= 0"),
        ({"running_var": None}, ValueError, "give both or neither"),
        ({"running_mean": None, "running_var": None, "training": False}, ValueError, "needed where training is False"),
        ({"residual": torch.rand(4, 2)}, ValueError, "residual: expected it like input"),
        ({"segments": [3, 1]}, ValueError, "segment 1 has one value per channel"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {
        "input": torch.rand(4, 3), "weight": torch.ones(2, 3), "bias": torch.zeros(2, 3),
        "running_mean": torch.zeros(2, 3), "running_var": torch.ones(2, 3), "segments": [2, 2], "training": True,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        ops.distribution_norm(**{**arguments, **changes})  # type: ignore[arg-type]
