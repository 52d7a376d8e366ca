"""Lifted structure loss against its equation, written as loops, and against pytorch-metric-learning."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from written_out import Batch, assert_is, assert_is_the_library_s, batches, distance, hinge, mean_of

from robustdml_ext.losses.lifted import LiftedStructureLoss


@given(batches(), st.sampled_from([(1.0, 0.0), (0.4, 0.5)]), st.booleans(), st.sampled_from(["mean", "sum"]))
def test_is_its_equation(batch: Batch, margins: tuple[float, float], normalize: bool, reduction: str) -> None:
    assume(not (normalize and batch.embeddings.shape[1] == 1))
    neg_margin, pos_margin = margins
    columns = batch.labels if batch.reference_labels is None else batch.reference_labels

    def equation(batch: Batch) -> Tensor:
        x, y = batch.points(normalize)
        terms = []
        for i, positives, negatives in batch.anchors():
            for p in positives:
                of_p = [k for k in range(len(x)) if batch.labels[k] != columns[p]]
                pushes = [torch.exp(neg_margin - distance(x[i], y[n], False)) for n in negatives]
                pushes += [torch.exp(neg_margin - distance(x[k], y[p], False)) for k in of_p]
                if pushes:
                    pushed = torch.log(torch.stack(pushes).sum())
                    terms.append(hinge(pushed + distance(x[i], y[p], False) - pos_margin) ** 2 / 2)
                else:
                    terms.append(torch.zeros((), dtype=torch.float64))
        return mean_of(terms, reduction)

    assert_is(LiftedStructureLoss(neg_margin, pos_margin, normalize, reduction), equation, batch)


@given(batches(references=False), st.booleans())
def test_is_the_library_s(batch: Batch, normalize: bool) -> None:
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import LiftedStructureLoss as Library

    assume(batch.embeddings.shape[1] > 1 and len(batch.labels) > 2)
    # With a reference the library's second sum runs over other anchors than the paper's: it takes p for an anchor.
    assert_is_the_library_s(
        LiftedStructureLoss(0.8, 0.1, normalize),
        Library(0.8, 0.1, distance=LpDistance(normalize_embeddings=normalize)),
        batch,
    )


def test_gradient() -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(LiftedStructureLoss(), (embeddings, torch.arange(8) // 2))


def test_unordered_pairs_have_the_same_mean() -> None:
    """Song et al. count each pair once: the term is symmetric, so the mean over ordered pairs is the same."""
    torch.manual_seed(0)
    x, labels = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 2, 2])
    terms = []
    for i, j in ((0, 1), (2, 3), (4, 5)):
        pushes = [torch.exp(1 - (x[a] - x[b]).norm()) for a in (i, j) for b in range(6) if labels[b] != labels[a]]
        terms.append((torch.stack(pushes).sum().log() + (x[i] - x[j]).norm()).clamp(min=0) ** 2)
    expected = torch.stack(terms).sum() / (2 * 3)
    torch.testing.assert_close(LiftedStructureLoss(normalize=False)(x, labels), expected)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="mean or sum"):
        LiftedStructureLoss(reduction="nonzero")
    with pytest.raises(ValueError, match="neg_margin, pos_margin"):
        LiftedStructureLoss(neg_margin=float("nan"))
    assert "pos_margin=0.0" in repr(LiftedStructureLoss())
