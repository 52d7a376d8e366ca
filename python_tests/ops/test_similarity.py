"""`similarity`: scores and gradients against the written-out network, in all dtypes, layouts, modes, with dropout."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from strategies import DEVICES, devices, dtypes, in_layout, seeds, values
from tolerance import assert_as_good_as
from torch import Tensor

from python_tests.memory import PEAK_KIB
from robustdml_ext.ops._similarity_dropout import dropped_share, keep_mask
from robustdml_ext.ops.similarity import (
    similarity,
    similarity_backward_reference,
    similarity_reference,
)

NAMES = ["scores", "to embeddings", "to prototypes", "to weight"]
# Off and around the vectors, the register blocks, the words of 32 units, a block of threads and the chunk of rows.
counts = st.sampled_from([0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 63, 65, 129, 130])
widths = st.sampled_from([0, 1, 2, 7, 16, 31, 32, 33, 64, 65, 100])
shares = st.sampled_from([0, 1, 6554, 16384, 32768, 49152, 65535])


def exact_scores(e: Tensor, p: Tensor, weight: Tensor, bias: Tensor, slope: float, kept: Tensor | float) -> Tensor:
    """Σ_h w_h · kept · leaky_relu(E_bh + P_ch) + bias, by the [B, C, H] tensor that the operator never makes."""
    return (F.leaky_relu(e[:, None] + p[None], slope) * kept * weight).sum(2) + bias


def kernels(
    e: Tensor, p: Tensor, weight: Tensor, bias: Tensor, seed: Tensor, slope: float, dropped: int, grad: Tensor
) -> list[Tensor]:
    namespace = torch.ops.robustdml
    scores = namespace.similarity(e, p, weight, bias, seed, slope, dropped)
    return [scores, *namespace.similarity_backward(grad, e, p, weight, seed, slope, dropped)]


@given(
    counts, counts, widths, shares, st.sampled_from([0.0, 0.1, 1.0]), dtypes(), devices(),
    st.sampled_from(["contiguous", "sliced", "transposed", "expanded"]), seeds(), st.sampled_from([1e-20, 1.0, 1e15]),
)  # fmt: skip
def test_scores_and_gradients_are_the_network(
    batch: int, classes: int, hidden: int, dropped: int, slope: float, dtype: torch.dtype, device: str, layout: str,
    seed: int, spread: float,
) -> None:  # fmt: skip
    if dtype == torch.float16:
        spread = 1.0
    compute = torch.promote_types(dtype, torch.float32)
    e = in_layout(values((batch, hidden), dtype, device, seed, spread), layout)
    p = in_layout(values((classes, hidden), dtype, device, seed + 1, spread), layout)
    weight = in_layout(values((hidden,), compute, device, seed + 2), "sliced" if layout == "sliced" else "contiguous")
    bias = values((1,), compute, device, seed + 3)
    grad = in_layout(values((batch, classes), compute, device, seed + 4), layout)
    key = torch.tensor([seed * 2**31 + seed], device=device)
    actual = kernels(e, p, weight, bias, key, slope, dropped, grad)

    plain = [
        similarity_reference(e, p, weight, bias, key, slope, dropped),
        *similarity_backward_reference(grad, e, p, weight, key, slope, dropped),
    ]
    kept = keep_mask(key, batch, classes, hidden, dropped) * (2**16 / (2**16 - dropped))
    arguments = [tensor.double().detach().requires_grad_() for tensor in (e, p, weight)]
    truth = exact_scores(*arguments, bias.double(), slope, kept.double())
    exact = [truth.detach(), *torch.autograd.grad(truth, arguments, grad.double())]
    for name, a, b, c in zip(NAMES, actual, plain, exact, strict=True):
        assert a.dtype == b.dtype and a.is_contiguous()
        # Few terms may happen to be added without an error; the sums' terms bound what another order may lose.
        terms = {"scores": spread * 65536 / (65536 - dropped), "to weight": spread * 65536 / (65536 - dropped)}
        assert_as_good_as(a, b, c, what=name, terms=terms.get(name, 65536 / (65536 - dropped)))


@pytest.mark.parametrize("dropout", [0.0, 0.25, 0.1])
@pytest.mark.parametrize("shape", [(3, 5, 7), (6, 2, 34)])
@pytest.mark.parametrize("device", DEVICES)
def test_derivatives(shape: tuple[int, int, int], dropout: float, device: str) -> None:
    batch, classes, hidden = shape
    arguments = [
        values(size, torch.float64, device, i).requires_grad_()
        for i, size in enumerate([(batch, hidden), (classes, hidden), (1, hidden), (1,)])
    ]
    seed = torch.tensor([11], device=device)

    def scores(e: Tensor, p: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return similarity(e, p, weight, bias, dropout=dropout, seed=seed)

    assert torch.autograd.gradcheck(scores, arguments)
    gradient = torch.autograd.grad(scores(*arguments).sum(), arguments[0], create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="similarity: no second derivatives"):
        gradient.sum().backward()


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_that_nobody_needs_are_not_made(device: str) -> None:
    e, p = values((4, 9), torch.float32, device, 0).requires_grad_(), values((3, 9), torch.float32, device, 1)
    weight, bias = torch.ones(9, device=device), torch.zeros((), device=device, requires_grad=True)
    similarity(e, p, weight, bias).sum().backward()
    assert e.grad is not None and bias.grad is not None and bias.grad.item() == 12 and bias.grad.shape == ()
    assert p.grad is None and weight.grad is None


@pytest.mark.parametrize("device", DEVICES)
def test_kink_nan_infinity_and_identical_items(device: str) -> None:
    e = torch.tensor([[1.0, 2.0], [torch.nan, 0.0], [torch.inf, 0.0]], device=device)
    p = torch.tensor([[-1.0, -2.0], [0.0, 1.0]], device=device)
    weight, bias = torch.tensor([1.0, 2.0], device=device), torch.zeros(1, device=device)
    scores = similarity(e, p, weight, bias, negative_slope=0.0)
    assert scores[0, 0] == 0 and scores[1].isnan().all() and scores[2].isinf().all()
    kink = e[:1].clone().requires_grad_()
    similarity(kink, p[:1], weight, bias, negative_slope=0.1).backward()
    assert kink.grad is not None and torch.allclose(kink.grad, 0.1 * weight)  # as torch's leaky_relu at 0
    same = torch.ones(5, 40, device=device)
    scores = similarity(same, same, torch.ones(40, device=device), bias)
    assert (scores == 80).all()


@pytest.mark.parametrize("device", DEVICES)
def test_large_counts_lose_no_digits(device: str) -> None:
    """Past every block: strips of 1,024 lanes, chunks of 128 rows; sums of thousands of like terms."""
    for batch, classes in ((2100, 9), (9, 2100), (300, 1100)):
        e, p = values((batch, 40), torch.float32, device, 0).abs(), values((classes, 40), torch.float32, device, 1)
        weight, bias = values((40,), torch.float32, device, 2).abs(), torch.zeros(1, device=device)
        grad, key = torch.ones(batch, classes, device=device), torch.tensor([5], device=device)
        for dropped in (0, 16384):
            actual = kernels(e, p, weight, bias, key, 0.1, dropped, grad)
            double = [tensor.double() for tensor in (e, p, weight, bias)]
            exact = [
                similarity_reference(*double, key, 0.1, dropped),
                *similarity_backward_reference(grad.double(), *double[:3], key, 0.1, dropped),
            ]
            for name, a, b in zip(NAMES, actual, exact, strict=True):
                error = (a.double() - b).abs().max() / b.abs().max()
                assert error < 1e-6, f"{name}: {error:.1e}"


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("device", DEVICES)
def test_opcheck_compile_autocast_threads(device: str, dropout: float) -> None:
    e, p = values((6, 33), torch.float32, device, 0).requires_grad_(), values((8, 33), torch.float32, device, 1)
    weight, bias = values((33,), torch.float32, device, 2).requires_grad_(), torch.zeros(1, device=device)
    seed, dropped = torch.tensor([3], device=device), dropped_share(dropout)
    arguments = (e, p, weight, bias, seed if dropped else None, 0.1, dropped)
    torch.library.opcheck(torch.ops.robustdml.similarity.default, arguments)
    detached = (torch.ones(6, 8, device=device), e.detach(), p, weight.detach(), *arguments[4:])
    torch.library.opcheck(torch.ops.robustdml.similarity_backward.default, detached)

    def loss(e: Tensor) -> Tensor:
        return similarity(e * 2, p, weight, bias, dropout=dropout).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    results = []
    for function in (loss, compiled):
        torch.manual_seed(4)
        results.append(torch.autograd.grad(function(e), e)[0])
    assert torch.equal(*results)
    layer = torch.nn.Linear(33, 16).to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        embeddings = layer(e)
        value = similarity(embeddings, layer(p), weight[:16], bias, dropout=dropout)
    assert embeddings.dtype == torch.bfloat16 and value.dtype == torch.float32
    value.sum().backward()
    before, runs = torch.get_num_threads(), []
    wide = [values(shape, torch.float32, device, 5) for shape in ((150, 100), (1200, 100), (100,), (1,))]
    grad = values((150, 1200), torch.float32, device, 6)
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            runs.append(kernels(*wide, seed, 0.1, dropped, grad))
    finally:
        torch.set_num_threads(before)
    for name, one, two, five in zip(NAMES, *runs, strict=True):
        assert torch.equal(one, two) and torch.equal(one, five), name


@pytest.mark.parametrize("device", DEVICES)
def test_a_pairs_score_does_not_depend_on_its_company(device: str) -> None:
    """The mask is a function of seed, b, c and h: a part of a batch has the scores of the whole, whatever its shape."""
    e, p = values((70, 50), torch.float64, device, 0), values((90, 50), torch.float64, device, 1)
    weight, bias = values((50,), torch.float64, device, 2), torch.zeros(1, dtype=torch.float64, device=device)
    seed = torch.tensor([8], device=device)
    whole = similarity(e, p, weight, bias, dropout=0.25, seed=seed)
    for rows, columns in ((70, 3), (5, 90), (1, 1)):
        part = similarity(e[:rows], p[:columns], weight, bias, dropout=0.25, seed=seed)
        assert torch.allclose(part, whole[:rows, :columns], rtol=1e-12)
    masks = keep_mask(seed, 70, 90, 50, 16384)
    assert torch.equal(masks[:5, :7, :33], keep_mask(seed, 5, 7, 33, 16384))


@pytest.mark.parametrize("device", DEVICES)
def test_seeds_come_from_the_default_generator(device: str) -> None:
    e, p, weight = torch.ones(4, 64, device=device), torch.ones(5, 64, device=device), torch.ones(64, device=device)

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return similarity(e, p, weight, torch.zeros(1, device=device), dropout=0.5)

    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))
    state = torch.get_rng_state()
    similarity(e, p, weight, torch.zeros(1, device=device))
    assert torch.equal(state, torch.get_rng_state()), "no dropout, but a random number drawn"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak as Linux counts it")
def test_memory_is_that_of_the_scores() -> None:
    """64 × 20,000 pairs of 512 units: 5 MB of scores, where the activations would take 2.6 GB and the pairs as much."""
    program = (
        PEAK_KIB
        + """
import torch
from robustdml_ext.ops.similarity import similarity
torch.set_num_threads(1)
e, p = torch.randn(64, 512, requires_grad=True), torch.randn(20_000, 512, requires_grad=True)
weight, bias = torch.randn(512, requires_grad=True), torch.zeros(1)
similarity(e[:4], p[:4], weight, bias, dropout=0.25).sum().backward()
before = peak_kib()
similarity(e, p, weight, bias, dropout=0.25).sum().backward()
print((peak_kib() - before) // 1024)
"""
    )
    from robustdml_ext import _load

    if not _load.status()["cpu"]["live"]:
        pytest.skip("the reference makes the activations")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # Gradients of the prototypes (40 MB, twice while autograd adds them up), scores and their gradient, packed.
    assert int(run.stdout) < 200, f"{run.stdout.strip()} MB"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"embeddings": torch.rand(3)}, ValueError, "embeddings: expected 2 dimension"),
        ({"embeddings": torch.zeros(3, 4, dtype=torch.int64)}, TypeError, "embeddings: expected dtype float32"),
        ({"prototypes": torch.rand(5, 5)}, ValueError, r"prototypes: expected \[C, H\] with H = 4"),
        ({"prototypes": torch.rand(5, 4).double()}, TypeError, "prototypes: expected dtype float32"),
        ({"weight": torch.rand(5)}, ValueError, r"weight: expected shape \[4\] or \[1, 4\]"),
        ({"bias": torch.rand(2)}, ValueError, r"bias: expected shape \[\] or \[1\]"),
        ({"bias": 1.0}, TypeError, "bias: expected a tensor, got 1.0"),
        ({"negative_slope": -0.5}, ValueError, "negative_slope: expected a number from 0 to 1, got -0.5"),
        ({"dropout": 1.0}, ValueError, "dropout: expected a probability, 0 <= p < 1, got 1.0"),
        ({"dropout": 0.5, "seed": torch.zeros(2, dtype=torch.int64)}, ValueError, "seed: expected one number"),
        ({"dropout": 0.5, "seed": torch.zeros(1)}, TypeError, "seed: expected dtype int64"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {
        "embeddings": torch.rand(3, 4), "prototypes": torch.rand(5, 4), "weight": torch.rand(4), "bias": torch.rand(1),
    }  # fmt: skip
    with pytest.raises(error, match=message):
        similarity(**{**arguments, **changes})  # type: ignore[arg-type]


def test_the_kernels_themselves_guard_memory() -> None:
    e, p, weight, bias, seed = torch.rand(2, 4), torch.rand(3, 4), torch.rand(4), torch.rand(1), torch.tensor([1])
    namespace = torch.ops.robustdml
    for wrong in (
        (e, p[:, :3], weight, bias, seed, 0.1, 0), (e, p, weight[:3], bias, seed, 0.1, 0),
        (e, p, weight, bias, None, 0.1, 5),
    ):  # fmt: skip
        with pytest.raises((RuntimeError, AssertionError)):
            namespace.similarity(*wrong)
    with pytest.raises(RuntimeError):
        namespace.similarity_backward(torch.rand(3, 2), e, p, weight, seed, 0.1, 0)
