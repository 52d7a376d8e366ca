"""How far norms have grown apart, against differences written out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from robustdml_ext.evaluation import norm_differences
from robustdml_ext.models import Embedder, EmbedderEnsemble, build_embedder
from robustdml_ext.models.norm import DistributionNorm


def _embedder(arch: str = "small", distributions: int = 3, **options: float) -> Embedder:
    return build_embedder(
        arch, embedding_dim=8, weights="none", channels=3, distributions=distributions, fuse=False, **options
    )


def _norms(embedder: Embedder) -> Iterator[tuple[str, DistributionNorm]]:
    return ((name, one) for name, one in embedder.backbone.named_modules() if isinstance(one, DistributionNorm))


@pytest.mark.parametrize("distributions", [2, 3, 4])
def test_differences_are_exactly_zero_before_training_and_without_noise(distributions: int) -> None:
    found = norm_differences(_embedder(distributions=distributions))
    assert found.pairs == tuple(itertools.combinations(range(distributions), 2))
    assert not found.gamma.any() and not found.beta.any() and found.gamma.dtype == torch.float32
    assert found.spread("gamma", 0).mean_absolute == 0 == found.spread("beta", len(found.pairs) - 1, 1).std


def test_differences_are_those_of_the_parameters_channel_by_channel() -> None:
    torch.manual_seed(0)
    embedder = _embedder(norm_noise=0.1)
    with torch.no_grad():
        for _, norm in _norms(embedder):
            assert norm.weight is not None
            norm.weight.add_(torch.randn_like(norm.weight))
    found = norm_differences(embedder)
    layers = dict(_norms(embedder))
    assert found.layers == tuple(layers) and found.gamma.shape == (3, sum(n.num_features for n in layers.values()))
    for place, norm in enumerate(layers.values()):
        assert norm.weight is not None and norm.bias is not None
        here = found.layer == place
        gamma, beta = norm.weight.detach().double().numpy(), norm.bias.detach().double().numpy()
        for pair, (i, j) in enumerate(found.pairs):
            np.testing.assert_allclose(found.gamma[pair, here].numpy(), gamma[i] - gamma[j], atol=1e-6)
            np.testing.assert_allclose(found.beta[pair, here].numpy(), beta[i] - beta[j], atol=1e-6)
            values = found.gamma[pair, here].double().numpy()
            spread = found.spread("gamma", pair, place)
            assert spread.mean == pytest.approx(values.mean()) and spread.std == pytest.approx(values.std())
            assert spread.mean_absolute == pytest.approx(np.abs(values).mean())
            np.testing.assert_allclose(spread.quantiles, np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95)))
    every = found.beta[1].double().numpy()
    assert found.spread("beta", 1).mean_absolute == pytest.approx(np.abs(every).mean())


@pytest.mark.parametrize("arch", ["small", "resnet18", "googlenet"])
def test_layers_come_in_the_order_in_which_they_run(arch: str) -> None:
    embedder, ran = _embedder(arch, 2).eval(), []
    for name, norm in _norms(embedder):
        norm.register_forward_hook(lambda *_, name=name: ran.append(name))
    with torch.no_grad():
        embedder(torch.rand(2, 3, 64, 64))
    assert list(norm_differences(embedder).layers) == ran and len(ran) > 2


def test_what_has_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="several distributions"):
        norm_differences(_embedder(distributions=1))
    with pytest.raises(TypeError, match="expected an Embedder, got EmbedderEnsemble"):
        norm_differences(EmbedderEnsemble([_embedder(distributions=1)]))
    plain = Embedder(nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)), 4, distributions=2)
    with pytest.raises(ValueError, match="norm layers with γ and β"):
        norm_differences(plain)
    found = norm_differences(_embedder())
    with pytest.raises(ValueError, match="'gamma' or 'beta'"):
        found.spread("delta", 0)
    for pair, layer in ((3, None), (-1, None), (0, len(found.layers))):
        with pytest.raises(IndexError, match="expected 0 to"):
            found.spread("gamma", pair, layer)
