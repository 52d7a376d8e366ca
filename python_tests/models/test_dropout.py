"""Dropout of the features, and of them alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustdml_ext.models import Embedder, build_embedder


def frozen(arch: str, dropout: float | None) -> Embedder:
    """One whose norms are the same in training and in evaluation, so that dropout is all that differs."""
    torch.manual_seed(0)
    return build_embedder(arch, embedding_dim=8, freeze_norm=True, dropout=dropout)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([0.1, 0.25, 0.4]), st.integers(0, 1000))
def test_features_are_dropped_in_training_and_the_others_grow(dropout: float, seed: int) -> None:
    model = build_embedder("small", embedding_dim=8, freeze_norm=True, dropout=dropout)
    images = torch.rand(40, 3, 8, 8)
    whole = model.eval().features(images)
    torch.manual_seed(seed)
    features = model.train().features(images)
    kept = features != 0
    torch.testing.assert_close(features[kept], whole[kept] / (1 - dropout))
    of_nonzero = kept[whole != 0].float()
    assert abs(of_nonzero.mean().item() - (1 - dropout)) < 5 * (dropout * (1 - dropout) / len(of_nonzero)) ** 0.5
    torch.manual_seed(seed)
    torch.testing.assert_close(model(images), nn.functional.normalize(model.head(features)))


def test_evaluation_and_keys_are_as_without() -> None:
    images = torch.rand(4, 3, 8, 8)
    with_it, without = frozen("small", 0.4).eval(), frozen("small", None).eval()
    assert torch.equal(with_it(images), without(images))
    assert list(with_it.state_dict()) == list(without.state_dict())


def in_training(model: Embedder, images: Tensor) -> Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        return model.train().features(images)


@pytest.mark.parametrize(("arch", "size"), [("mobilenet_v2", 32), ("googlenet", 64)])
def test_the_architecture_s_own_dropout_gives_way(arch: str, size: int) -> None:
    torch.manual_seed(2)
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        expected = frozen(arch, None).eval().features(images)
    torch.testing.assert_close(in_training(frozen(arch, 0.0), images), expected)
    own = in_training(frozen(arch, None), images)
    assert (own[expected != 0] == 0).any()
    # Two layers of dropout would divide by 1 − p twice.
    once = in_training(frozen(arch, 0.25), images)
    torch.testing.assert_close(once[once != 0], expected[once != 0] / 0.75)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_what_is_no_probability_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match="dropout: expected a probability from 0 to below 1"):
        build_embedder("small", dropout=dropout)
