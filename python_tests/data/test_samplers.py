from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustdml_ext.data import PKSampler


@st.composite
def plans(draw: st.DrawFn) -> tuple[np.ndarray, int, int, int, int | None]:
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    labels = np.repeat(draw(st.permutations(range(-3, len(sizes) - 3))), sizes)
    labels = np.random.default_rng(draw(st.integers(0, 9))).permutation(labels)
    per_class = draw(st.integers(1, 5))
    return (
        labels,
        draw(st.integers(1, len(sizes))) * per_class,
        per_class,
        draw(st.integers(0, 2**63)),
        draw(st.none() | st.integers(1, 30)),
    )


@given(plans(), st.integers(0, 1000))
def test_every_batch_is_p_classes_of_k_images(plan: tuple, epoch: int) -> None:
    labels, batch_size, k, seed, batches = plan
    sampler = PKSampler(labels, batch_size, k, seed, batches)
    planned = sampler.epoch(epoch)
    assert len(planned) == (batches or max(1, len(labels) // batch_size)) == sampler.batches_per_epoch
    visits: dict[int, list[int]] = {int(c): [] for c in np.unique(labels)}
    for batch in planned:
        groups = np.asarray(batch).reshape(-1, k)
        classes = labels[groups]
        assert (classes == classes[:, :1]).all() and len(set(classes[:, 0])) == batch_size // k
        for group in groups:
            own = int((labels == labels[group[0]]).sum())
            assert len(set(group.tolist())) == min(k, own)
            visits[int(labels[group[0]])].extend(group.tolist())
    counts = [len(v) // k for v in visits.values()]
    # An exchange where a batch meets the next order can put a class off, but never more than a batch's worth.
    assert max(counts) - min(counts) <= 2
    for label, images in visits.items():
        times = np.bincount(images, minlength=len(labels))[labels == label]
        assert times.max() - times.min() <= 1
    assert planned == PKSampler(torch.as_tensor(labels), batch_size, k, seed, batches).epoch(epoch)


def test_balanced_classes_cover_every_image_once() -> None:
    labels = np.repeat(np.arange(30), 8)
    planned = PKSampler(labels, 20, 4, 0).epoch(0)
    assert sorted(index for batch in planned for index in batch) == list(range(240))


def test_epochs_and_seeds_differ_and_first_images_are_uniform() -> None:
    labels = np.repeat(np.arange(10), 5)
    sampler = PKSampler(labels, 10, 2, 0)
    assert sampler.epoch(0) != sampler.epoch(1) and sampler.epoch(0) != PKSampler(labels, 10, 2, 1).epoch(0)
    first = np.bincount([sampler.epoch(e)[0][0] for e in range(2000)], minlength=50)
    assert first.min() > 15 and first.max() < 75  # 40 expected, 6.3 standard deviation


@pytest.mark.parametrize(
    "arguments,message",
    [
        (([0, 1, 2], 3, 2, 0), "multiple of samples_per_class"),
        (([0, 1, 2], 8, 2, 0), "needs 4 classes, but there are only 3"),
        (([0, 1], 0, 1, 0), "positive"),
        (([0, 1], 2, 1, 0, 0), "batches_per_epoch"),
        (([0, 1], 2, 1, -1), "seed"),
        (([], 2, 1, 0), "non-empty"),
        (([0.5, 1.0], 2, 1, 0), "integers"),
    ],
)
def test_wrong_arguments(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PKSampler(*arguments)


def test_sixty_thousand_images_of_eleven_thousand_classes() -> None:
    labels = np.random.default_rng(0).integers(0, 11_000, 60_000)
    sampler = PKSampler(labels, 112, 4, 0)
    start = time.perf_counter()
    assert len(sampler.epoch(0)) == 535
    assert time.perf_counter() - start < 2
