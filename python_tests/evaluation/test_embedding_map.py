"""Maps of embeddings: what is near stays near, the same seed gives the same map, and odd input is taken."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustdml_ext.evaluation import embedding_map, map_rows


def _clusters(classes: int = 3, each: int = 8, dim: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    centers = torch.eye(dim)[:classes].repeat_interleave(each, 0)
    return centers + 0.1 * torch.randn(classes * each, dim, generator=generator), torch.arange(
        classes
    ).repeat_interleave(each)


def test_classes_stay_together_and_an_attack_is_seen_to_move_images() -> None:
    clean, labels = _clusters()
    attacked = clean.clone()
    attacked[:4] = clean[8:12] * 3  # the length is no matter
    found = embedding_map(clean, attacked, seed=1)
    assert found.clean.shape == found.attacked.shape == (24, 2) and found.clean.dtype == torch.float32
    everything = torch.cat([found.clean, found.attacked])
    owner = torch.cat([labels, labels])
    owner[24:28] = 1
    distances = torch.cdist(everything, everything).fill_diagonal_(torch.inf)
    assert bool((owner[distances.argmin(1)] == owner).all())
    assert found.perplexity == (2 * 24 - 1) / 3 and found.method.startswith("t-SNE (openTSNE ")


def test_the_same_seed_gives_the_same_map_and_leaves_the_global_generators_alone() -> None:
    clean, _ = _clusters(2)
    attacked = clean.flip(0)
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(1), np.random.rand(1)
    torch.manual_seed(0)
    np.random.seed(0)
    one, again, other = (embedding_map(clean, attacked, seed=seed, perplexity=4) for seed in (0, 0, 1))
    assert torch.equal(one.clean, again.clean) and torch.equal(one.attacked, again.attacked)
    assert not torch.equal(one.clean, other.clean) and one.perplexity == 4
    assert torch.equal(torch.rand(1), expected[0]) and np.random.rand(1) == expected[1]
    # NumPy's arrays, and half precision's scale of numbers.
    assert torch.equal(one.clean, embedding_map(clean.double().numpy(), attacked.double().numpy(), perplexity=4).clean)


def test_images_without_numbers_are_left_out() -> None:
    clean, _ = _clusters(2)
    attacked = clean.clone()
    whole = [i for i in range(16) if i not in (3, 5)]
    expected = embedding_map(clean[whole], attacked[whole])
    clean[3, 0], attacked[5, 1] = torch.nan, torch.inf
    found = embedding_map(clean, attacked)
    assert found.clean[[3, 5]].isnan().all() and found.attacked[[3, 5]].isnan().all()
    assert torch.equal(found.clean[whole], expected.clean) and torch.equal(found.attacked[whole], expected.attacked)


@settings(max_examples=8)
@given(count=st.integers(4, 7), dim=st.integers(1, 3), kind=st.sampled_from(["random", "alike", "zero", "one apart"]))
def test_few_images_and_odd_ones(count: int, dim: int, kind: str) -> None:
    clean = torch.randn(count, dim, generator=torch.Generator().manual_seed(count))
    if kind in ("alike", "one apart"):
        clean = clean[:1] * torch.arange(1, count + 1)[:, None]
    if kind == "one apart":
        clean[1] = -clean[1]
    if kind == "zero":
        clean = torch.zeros(count, dim)
    found = embedding_map(clean, clean)
    assert found.clean.isfinite().all() and found.attacked.isfinite().all() and found.perplexity >= 1
    if kind in ("alike", "zero"):
        assert not found.clean.any() and not found.attacked.any()
    else:
        assert found.clean.std() > 0 or dim == 1


def test_what_makes_no_map_is_refused() -> None:
    clean, _ = _clusters(1, 4)
    broken = clean.clone()
    broken[0] = torch.nan
    for before, after, options, message in (
        (clean[:3], clean[:3], {}, "at least 4 images with finite embeddings, got 3"),
        (clean, broken, {}, "finite embeddings, got 3"),
        (clean[:0], clean[:0], {}, "got 0"),
        (clean, clean[:3], {}, r"shape \[N, D\], got \[3, 6\] for \[4, 6\]"),
        (clean[0], clean[0], {}, r"shape \[N, D\]"),
        (clean, clean, {"perplexity": 0.5}, "at least 1"),
        (clean, clean, {"seed": -1}, "seed"),
    ):
        with pytest.raises(ValueError, match=message):
            embedding_map(before, after, **options)


def test_without_openTSNE_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    with pytest.raises(ImportError, match="pip install openTSNE"):
        embedding_map(*_clusters(1, 4)[:1] * 2)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=0, max_size=7),
    classes=st.integers(1, 5),
    each=st.integers(1, 6),
    seed=st.integers(0, 3),
)
def test_rows_of_a_map(sizes: list[int], classes: int, each: int, seed: int) -> None:
    labels = torch.cat([torch.full((size,), 3 * k) for k, size in enumerate(sizes)] or [torch.empty(0)]).long()
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    rows = map_rows(labels, classes, each, seed)
    assert torch.equal(rows, map_rows(labels.numpy(), classes, each, seed))
    assert rows.dtype == torch.int64 and torch.equal(rows, rows.unique())
    found, counts = labels[rows].unique(return_counts=True)
    assert len(found) == min(classes, len(sizes))
    for name, count in zip(found.tolist(), counts.tolist(), strict=True):
        assert count == min(each, int((labels == name).sum()))


def test_rows_are_drawn_by_the_seed() -> None:
    labels = torch.arange(40).repeat_interleave(20)
    drawn = [set(map_rows(labels, 5, 4, seed).tolist()) for seed in range(3)]
    assert drawn[0] != drawn[1] != drawn[2]
    for arguments, name in (((0, 1, 0), "classes"), ((1, 0, 0), "per_class"), ((1, 1, -1), "seed")):
        with pytest.raises(ValueError, match=name):
            map_rows(labels, *arguments)
