"""Angular loss against its equations, written as loops, against pytorch-metric-learning, and in any blocks."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from memory import PEAK_KIB
from strategies import DEVICES, devices, seeds, values
from tolerance import assert_as_good_as
from torch import Tensor
from written_out import Batch, assert_is, batches, distance, hinge, mean_of

from robustdml_ext.losses import AngularLoss, angular_blocks


def in_rows(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(angular_blocks, "_FEWEST", 1)
    monkeypatch.setattr(angular_blocks, "_MOST", rows)


@settings(max_examples=150)
@given(
    batches(), st.sampled_from([15.0, 45.0, 65.0, 82.0]), st.sampled_from(["npair", "triplet"]), st.booleans(),
    st.sampled_from(["mean", "sum"]), st.sampled_from([1, 2, 128]),
)  # fmt: skip
def test_is_its_equation(batch: Batch, alpha: float, form: str, normalize: bool, reduction: str, rows: int) -> None:
    # On a line all is at one place, and every hinge at its edge.
    assume(batch.embeddings.shape[1] > 1 or not normalize)
    t = math.tan(math.radians(alpha)) ** 2

    def equation(batch: Batch) -> Tensor:
        x, y = batch.points(normalize)
        terms = []
        for i, positives, negatives in batch.anchors():
            for p in positives:
                if form == "triplet":
                    center = (x[i] + y[p]) / 2
                    of_pair = distance(x[i], y[p], True)
                    terms += [hinge(of_pair - 4 * t * distance(y[n], center, True)) for n in negatives]
                    continue
                exponents = [4 * t * (x[i] + y[p]) @ y[n] - 2 * (1 + t) * x[i] @ y[p] for n in negatives]
                terms.append(torch.logsumexp(torch.stack([torch.zeros_like(x[i][0]), *exponents]), 0))
        return mean_of(terms, reduction)

    with pytest.MonkeyPatch.context() as monkeypatch:
        in_rows(monkeypatch, rows)
        assert_is(AngularLoss(alpha, form, reduction, normalize), equation, batch)


def plain(loss: AngularLoss, x: Tensor, labels: Tensor) -> Tensor:
    """By the definition on all pairs at a time, in the precision of x, differentiated by autograd."""
    t = math.tan(math.radians(loss.alpha)) ** 2
    x = F.normalize(x, dim=1) if loss.normalize else x
    s, same = x @ x.T, labels[:, None] == labels
    i, p = (same & ~torch.eye(len(x), dtype=torch.bool, device=x.device)).nonzero(as_tuple=True)
    if loss.form == "npair":
        z = 4 * t * (s[i] + s[p]) - 2 * (1 + t) * s[i, p][:, None]
        z = torch.cat([torch.zeros_like(z[:, :1]), z.masked_fill(same[i], -math.inf)], 1)
        return z.logsumexp(1).sum() / (len(i) if loss.reduction == "mean" else 1)
    center = (x[i] + x[p]) / 2
    far = x.square().sum(1) - 2 * center @ x.T + center.square().sum(1, keepdim=True)
    v = ((x[i] - x[p]).square().sum(1, keepdim=True) - 4 * t * far).relu().masked_fill(same[i], 0)
    return v.sum() / ((~same[i]).sum() if loss.reduction == "mean" else 1)


@settings(max_examples=60)
@given(
    st.sampled_from([9, 64, 130, 193]), st.sampled_from([3, 32, 65]), st.sampled_from([2, 3, 4, 9, 40]), seeds(),
    st.sampled_from([(45.0, "npair"), (68.0, "npair"), (80.0, "npair"), (20.0, "triplet")]), devices(),
)  # fmt: skip
def test_float32_is_as_good_as_plain_pytorch(
    size: int, dim: int, of_class: int, seed: int, kind: tuple[float, str], device: str
) -> None:
    loss = AngularLoss(*kind)
    labels = torch.randperm(size, generator=torch.Generator().manual_seed(seed)) // of_class
    assume(labels.max() > 0)
    exact = values((size, dim), torch.float64, "cpu", seed).requires_grad_()
    results = []
    for x, function in (
        (exact.detach().to(device, torch.float32), loss),
        (exact.detach().float(), lambda x, y: plain(loss, x, y)),
        (exact, lambda x, y: plain(loss, x, y)),
    ):
        x = x.requires_grad_()
        value = function(x, labels.to(x.device))
        results.append((value.detach(), torch.autograd.grad(value, x)[0]))
    # What cancels in a hinge, and what an exponent's rounding is a share of.
    scale = 8 * math.tan(math.radians(loss.alpha)) ** 2
    assert_as_good_as(results[0][0], results[1][0], results[2][0], terms=scale, what="loss")
    largest = results[2][1].abs().max().item()
    assert_as_good_as(*(each[1] for each in results), terms=largest * max(scale, 1), what="gradient")


@pytest.mark.parametrize("alpha", [30.0, 60.0])
@pytest.mark.parametrize("compared", ["batch", "memory", "gathered"])
def test_products_of_exponentials_are_the_pairs_sums(
    alpha: float, compared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways, at classes of every size, in blocks that some classes fill and others share."""
    torch.manual_seed(0)
    labels = torch.cat([torch.full((k,), k) for k in (1, 2, 3, 11, 40, 1, 6)])[torch.randperm(64)]
    x = torch.randn(64, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randn(90, 5, dtype=torch.float64, requires_grad=True)
    other = torch.cat([labels, torch.randint(60, (26,))])
    more = {"batch": (), "memory": (y, other), "gathered": (y, other, 0)}[compared]
    inputs = [x] if compared == "batch" else [x, y]
    in_rows(monkeypatch, 8)
    found = []
    calls: list[int] = []
    factored = angular_blocks._Blocks._factored
    monkeypatch.setattr(
        angular_blocks._Blocks, "_factored", lambda self, *rest: (calls.append(1), factored(self, *rest))[0]
    )
    for force in (True, False):
        monkeypatch.setattr(angular_blocks._Blocks, "_factors", lambda self, force=force: force)
        before = len(calls)
        value = AngularLoss(alpha)(x, labels, *more)
        assert (len(calls) > before) == force
        found.append((value, *torch.autograd.grad(value, inputs)))
    for one, same in zip(*found, strict=True):
        torch.testing.assert_close(one, same, rtol=1e-10, atol=1e-12)


def test_large_classes_take_products_and_pairs_take_rows() -> None:
    x = F.normalize(torch.randn(16, 4), dim=1)

    def factors(alpha: float, of_class: int, form: str = "npair", normalize: bool = True) -> bool:
        made = angular_blocks.Settings(math.tan(math.radians(alpha)) ** 2, form == "triplet", True, normalize)
        labels = torch.arange(16) // of_class
        return angular_blocks._Blocks(x, None, labels, None, -1, made, (True, False))._factors()

    assert factors(45, 8) and factors(70, 4)
    # Sums of exponentials would not fit in float32, or there is no bound on them, or less to gain.
    assert not factors(75, 8) and not factors(45, 8, normalize=False) and not factors(45, 8, "triplet")
    assert not factors(45, 2)


@given(batches(), st.sampled_from([30.0, 45.0, 60.0]))
def test_is_the_library_s(batch: Batch, alpha: float) -> None:
    """Of unit vectors: pytorch-metric-learning scales anchors and positives to length 1, and negatives not."""
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.losses import AngularLoss as Library

    assume(batch.embeddings.shape[1] > 1 and batch.self_offset is None)
    columns = batch.labels if batch.reference_labels is None else batch.reference_labels
    # Where a batch has no negatives the library takes no pairs.
    assume(len(columns) > 1 and all(positives == [] or negatives for _, positives, negatives in batch.anchors()))
    library = Library(alpha=alpha)
    library.alpha = library.alpha.double()

    def value(batch: Batch) -> Tensor:
        x, *rest = (F.normalize(each, dim=1) for each in batch.inputs)
        keywords = {"ref_emb": rest[0], "ref_labels": batch.reference_labels} if rest else {}
        result: Tensor = library(x, batch.labels, **keywords)
        return result

    loss = AngularLoss(alpha)
    found = loss(batch.embeddings, batch.labels, batch.reference, batch.reference_labels)
    expected = value(batch)
    torch.testing.assert_close(found, expected.detach().double(), rtol=1e-6, atol=1e-9)
    ours = torch.autograd.grad(found, batch.inputs, materialize_grads=True)
    if expected.requires_grad:
        theirs = torch.autograd.grad(expected, batch.inputs, materialize_grads=True)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


@given(st.floats(5, 85), seeds())
def test_forms_differ_by_a_constant_inside(alpha: float, seed: int) -> None:
    """One pair and one negative: the N-pair form's exponent is the hinge's content less 2 − 6 tan²α."""
    t = math.tan(math.radians(alpha)) ** 2
    x, labels = values((3, 4), torch.float64, "cpu", seed), torch.tensor([0, 0, 1])
    exponent = torch.expm1(AngularLoss(alpha, "npair")(x, labels)).log()
    assume(-30 < exponent < 30)
    expected = (exponent + 2 - 6 * t).clamp(min=0)
    torch.testing.assert_close(AngularLoss(alpha, "triplet")(x, labels), expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("form", ["npair", "triplet"])
@pytest.mark.parametrize("of_class", [2, 4])
@pytest.mark.parametrize("normalize", [True, False])
def test_gradient(form: str, of_class: int, normalize: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    labels, other = torch.arange(8) // of_class, torch.arange(9) // 3
    loss = AngularLoss(50, form, normalize=normalize)
    assert torch.autograd.gradcheck(loss, (x, labels))
    assert torch.autograd.gradcheck(lambda x, y: loss(x, labels, y, other), (x, y))
    gathered = torch.cat([torch.ones(1, 3, dtype=torch.float64), x.detach()]).requires_grad_()
    of_all = torch.cat([torch.zeros(1, dtype=torch.int64), labels])
    assert torch.autograd.gradcheck(lambda x, y: loss(x, labels, y, of_all, 1), (x, gathered))


def test_second_derivatives_are_refused() -> None:
    x = torch.randn(6, 3, requires_grad=True)
    value = AngularLoss()(x, torch.arange(6) // 2)
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    assert gradient.abs().max() > 0
    with pytest.raises(RuntimeError, match="AngularLoss: differentiable once"):
        (gradient.square().sum() + x.sum()).backward()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", ["npair", "triplet"])
def test_nothing_to_compare_costs_nothing(form: str, device: str) -> None:
    loss = AngularLoss(form=form)
    for labels in (torch.arange(5), torch.zeros(5, dtype=torch.int64)):
        x = torch.randn(5, 3, device=device, requires_grad=True)
        value = loss(x, labels.to(device))
        value.backward()
        assert value.item() == 0 and x.grad is not None and not x.grad.any()
    x = torch.randn(2, 3, device=device, requires_grad=True)
    value = loss(x, torch.arange(2, device=device), x.new_zeros((0, 3)), torch.arange(0, device=device))
    assert value.item() == 0 and not torch.autograd.grad(value, x)[0].any()
    assert loss(x.detach(), torch.arange(2, device=device)).item() == 0


@given(st.sampled_from(["npair", "triplet"]), st.integers(0, 7), st.sampled_from([1, 2, 4, 8]), st.booleans())
def test_nan_is_told(form: str, row: int, of_class: int, normalize: bool) -> None:
    x = torch.randn(8, 3)
    x[row, 1] = math.nan
    labels = torch.arange(8) // of_class
    assert AngularLoss(form=form, normalize=normalize)(x, labels).isnan()
    assert AngularLoss(form=form, normalize=normalize)(torch.randn(8, 3), labels, x, labels).isnan()


def test_a_row_of_zeros_stays() -> None:
    x = torch.randn(8, 3)
    x[3] = 0
    x.requires_grad_()
    for of_class in (2, 4):
        value = AngularLoss()(x, torch.arange(8) // of_class)
        (gradient,) = torch.autograd.grad(value, x)
        assert value.isfinite() and not gradient[3].any() and gradient[2].any() and gradient.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("of_class", [2, 5])
def test_half_precision_and_autocast_compute_in_float32(device: str, of_class: int) -> None:
    torch.manual_seed(0)
    labels = (torch.arange(20) // of_class).to(device)
    half = torch.randn(20, 16, device=device).bfloat16().requires_grad_()
    wide = half.detach().float().requires_grad_()
    with torch.autocast(device, torch.bfloat16):
        value, gradient = (v := AngularLoss()(half, labels)).detach(), torch.autograd.grad(v, half)[0]
    expected = AngularLoss()(wide, labels)
    assert value.dtype == torch.float32 and gradient.dtype == torch.bfloat16
    assert value == expected
    assert torch.equal(gradient, torch.autograd.grad(expected, wide)[0].bfloat16())
    memory = torch.randn(9, 16, device=device)
    mixed = AngularLoss()(half, labels, memory, labels[:9])
    torch.testing.assert_close(mixed, AngularLoss()(wide, labels, memory, labels[:9]))


def test_wrong_arguments_are_refused() -> None:
    for alpha in (0, 90, -1, math.nan):
        with pytest.raises(ValueError, match="alpha: expected an angle between 0 and 90 degrees"):
            AngularLoss(alpha)
    with pytest.raises(ValueError, match="form: expected one of npair, triplet; got 'pair'"):
        AngularLoss(form="pair")
    with pytest.raises(ValueError, match="reduction: expected mean or sum, got 'nonzero'"):
        AngularLoss(reduction="nonzero")
    loss, x, labels = AngularLoss(30), torch.randn(4, 3), torch.arange(4)
    assert "alpha=30, form='npair'" in repr(loss) and loss.parameter_groups(0.1) == []
    with pytest.raises(ValueError, match="reference_labels: expected with reference"):
        loss(x, labels, x)
    with pytest.raises(ValueError, match="self_offset: expected 0 to M − B = 0"):
        loss(x, labels, x, labels, 1)
    with pytest.raises(TypeError, match="labels"):
        loss(x, labels.float())


PEAK = (
    PEAK_KIB
    + """
import sys, torch
from robustdml_ext.losses import AngularLoss
torch.set_num_threads(1)
form, alpha = sys.argv[1], float(sys.argv[2])
def step(size, of_class):
    x = torch.randn(size, 8, requires_grad=True)
    AngularLoss(alpha, form)(x, torch.arange(size) // of_class).backward()
    return peak_kib()
before = step(256, 8)
print((step(2048, 64) - before) // 1024)
"""
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak as Linux counts it")
@pytest.mark.slow
@pytest.mark.parametrize(("form", "alpha"), [("npair", 45), ("npair", 80), ("triplet", 45)])
def test_memory_does_not_grow_with_pairs_times_embeddings(form: str, alpha: float) -> None:
    """2,048 embeddings in classes of 64 have 129,024 pairs: a tensor of pairs × embeddings takes 1,008 MiB."""
    finished = subprocess.run(
        [sys.executable, "-c", PEAK, form, str(alpha)], capture_output=True, text=True, check=True
    )
    assert int(finished.stdout) < 64, f"{finished.stdout.strip()} MiB"
