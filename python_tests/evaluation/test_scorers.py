from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scorer_cases import NAMES, Tilted, network, plain_scores, plane
from strategies import DEVICES
from torch import Tensor

from robustdml_ext.evaluation import SCORERS, cosine_scorer, scorers, similarity_scorer, sum_scorer
from robustdml_ext.evaluation.scorers import all_scores, scores_of_pairs


@given(
    st.sampled_from(NAMES),
    st.integers(0, 9),
    st.integers(0, 9),
    st.sampled_from([1, 3, 8]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.sampled_from(DEVICES),
    st.sampled_from([1, 2, 4, 100]),
    st.integers(0, 2**31),
)
def test_every_scorer_equals_its_formula(
    name: str, count: int, others: int, dim: int, dtype: torch.dtype, device: str, tile: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries, items = (torch.randn(n, dim, generator=generator).to(dtype) for n in (count, others))
    items[:1] = 0
    net = network(dim, seed % 7).to(device)
    expected = plain_scores(name, net.cpu(), queries.double().numpy(), items.double().numpy())
    net.to(device)
    scorer = SCORERS[name](net)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorers, "TILE", tile)
        patch.setattr(scorers, "GATHERED", 2 * dim * tile)
        scores = scorer(queries, items)
        assert scores.shape == (count, others) and scores.device == queries.device and not scores.requires_grad
        np.testing.assert_allclose(scores.double().numpy(), expected, atol=2e-5, rtol=2e-5)
        i, j = torch.randint(max(count, 1), (11,)), torch.randint(max(others, 1), (11,))
        if count and others:
            pairs = scores_of_pairs(scorer, queries[i], items[j])
            assert pairs.device == queries.device
            np.testing.assert_allclose(pairs.double().numpy(), expected[i, j], atol=2e-5, rtol=2e-5)
        assert len(scores_of_pairs(scorer, queries[:0], items[:0])) == 0


def test_the_cosine_is_of_float64() -> None:
    # Float32 cosines of embeddings this crowded are all rounding.
    queries = 1 + 1e-5 * torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    x = queries.double().numpy()
    expected = 1 - (x @ x.T) / np.linalg.norm(x, axis=1) / np.linalg.norm(x, axis=1)[:, None]
    np.testing.assert_allclose(1 - cosine_scorer()(queries, queries).numpy(), expected, atol=3e-14)
    assert np.abs(expected).max() < 1e-9


def test_modes_and_gradients() -> None:
    net = network(4)
    net[2].eval()  # type: ignore[union-attr]
    modes = [module.training for module in net.modules()]
    x = torch.randn(5, 4, requires_grad=True)
    scores = sum_scorer(net)(x, x)
    assert not scores.requires_grad and [module.training for module in net.modules()] == modes and modes[0]
    # Dropout would make two calls differ.
    net.train()
    assert torch.equal(similarity_scorer(net)(x, x), similarity_scorer(net)(x, x)) and net[2].training
    other = Tilted(4)
    similarity_scorer(other)(x, x)
    assert other.modes == [False] and other.training

    class Failing(Tilted):
        def forward(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
            raise RuntimeError("no")

    failing = Failing(4)
    with pytest.raises(RuntimeError, match="no"):
        similarity_scorer(failing)(x, x)
    assert failing.training


def test_pairs_of_other_networks_and_callables() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 150, 4, generator=generator).unbind()
    net = Tilted(4)
    expected = ((x @ net.form) * y).sum(1).detach()
    torch.testing.assert_close(scores_of_pairs(similarity_scorer(net), x, y), expected)
    whole = x.round(), y.round()
    assert torch.equal(scores_of_pairs(plane, *whole), plane(*whole).diagonal())


def test_no_more_is_asked_of_a_network_than_a_tile() -> None:
    asked: list[tuple[int, int]] = []

    class Counted(Tilted):
        def forward(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
            asked.append((len(embeddings), len(prototypes)))
            return super().forward(embeddings, prototypes)

    net = Counted(2)
    x = torch.randn(scorers.TILE + 3, 2)
    scores = similarity_scorer(net)(x, x)
    torch.testing.assert_close(scores, (x @ net.form @ x.T).detach())
    assert max(max(pair) for pair in asked) == scorers.TILE and len(asked) == 4


def test_autocast_changes_nothing() -> None:
    net, x = network(6), torch.randn(40, 6)
    for name in NAMES:
        scorer = SCORERS[name](net)
        plain = scorer(x, x), scores_of_pairs(scorer, x, x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(scorer(x, x), plain[0]) and torch.equal(scores_of_pairs(scorer, x, x), plain[1])


def test_wrong_scorers() -> None:
    x = torch.randn(3, 4)
    with pytest.raises(TypeError, match="network must be a torch module, got str"):
        similarity_scorer("net")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="scorer must be a callable"):
        scorers.as_scorer(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch.int64"):
        all_scores(lambda q, i: torch.zeros(3, 3, dtype=torch.int64), x, x)
    with pytest.raises(TypeError, match="floating-point tensor, got list"):
        all_scores(lambda q, i: [0.0], x, x)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match=r"shape \[3, 2\], got \[2, 3\]"):
        all_scores(lambda q, i: torch.zeros(2, 3), x, x[:2])
    broken = torch.zeros(3, 3)
    broken[1, 2] = torch.nan
    with pytest.raises(ValueError, match="finite scores; 1 of 9 are not"):
        all_scores(lambda q, i: broken, x, x)
