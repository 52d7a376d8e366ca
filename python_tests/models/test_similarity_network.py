"""`SimilarityNetwork`: scores and gradients against the plain network on concatenated pairs, state dicts, modes."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DEVICES, devices, seeds, values
from tolerance import assert_as_good_as
from torch import Tensor, nn

from robustdml_ext.models.similarity import SimilarityNetwork


def plain_network(dim: int, hidden: int = 512, slope: float = 0.1, dropout: float = 0.25) -> nn.Sequential:
    """The network as the paper's published code writes it."""
    return nn.Sequential(nn.Linear(2 * dim, hidden), nn.LeakyReLU(slope), nn.Dropout(dropout), nn.Linear(hidden, 1))


def plain_scores(network: nn.Module, embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """S over the `[B · C, 2d]` pairs, the way the network's own forward pass avoids."""
    b, c = len(embeddings), len(prototypes)
    pairs = torch.cat([prototypes[None].expand(b, c, -1), embeddings[:, None].expand(b, c, -1)], dim=2)
    scores: Tensor = network(pairs.reshape(b * c, pairs.shape[2])).reshape(b, c)
    return scores


@given(
    st.integers(0, 9), st.integers(0, 40), st.sampled_from([1, 2, 7, 16, 33]), st.sampled_from([1, 5, 31, 32, 33, 65]),
    st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([torch.float32, torch.float64]), devices(), seeds(),
)  # fmt: skip
def test_evaluation_mode_is_the_plain_network(
    batch: int, classes: int, dim: int, hidden: int, slope: float, dtype: torch.dtype, device: str, seed: int
) -> None:
    torch.manual_seed(seed)
    network = SimilarityNetwork(dim, hidden, negative_slope=slope).to(device, dtype).eval()
    plain = plain_network(dim, hidden, slope).to(device, dtype).eval()
    plain.load_state_dict(network.state_dict())
    exact = copy.deepcopy(plain).double()
    embeddings = values((batch, dim), dtype, device, seed)
    prototypes = values((classes, dim), dtype, device, seed + 1)
    weight = values((batch, classes), torch.float64, device, seed + 2)

    results = []
    for scores, module, kind in (
        (lambda e, p: network(e, p), network, dtype),
        (lambda e, p: plain_scores(plain, e, p), plain, dtype),
        (lambda e, p: plain_scores(exact, e, p), exact, torch.float64),
    ):
        e, p = embeddings.to(kind).requires_grad_(), prototypes.to(kind).requires_grad_()
        out = scores(e, p)
        gradients = torch.autograd.grad(out, [e, p, *module.parameters()], weight.to(kind))
        results.append([out.detach(), *gradients])
    names = ["scores", "embeddings", "prototypes", *dict(network.named_parameters())]
    for name, actual, expected, truth in zip(names, *results, strict=True):
        assert actual.dtype == dtype
        assert_as_good_as(actual, expected, truth, what=name, terms=float(batch + classes))


@pytest.mark.parametrize("device", DEVICES)
def test_training_mode_drops_as_often_and_keeps_the_mean(device: str) -> None:
    torch.manual_seed(0)
    network = SimilarityNetwork(8, 64, dropout=0.25).to(device)
    embeddings, prototypes = torch.randn(20, 8, device=device), torch.randn(30, 8, device=device)
    with torch.no_grad():
        scores = torch.stack([network(embeddings, prototypes) for _ in range(2000)]).double()
        plain = torch.stack(
            [plain_scores(nn.Sequential(*network), embeddings, prototypes) for _ in range(2000)]
        ).double()
        exact = plain_scores(nn.Sequential(*network).eval(), embeddings, prototypes).double()
        network.train()
    deviation = plain.std(0)
    # 600 means and 600 deviations: five standard errors are passed by chance once in a thousand such tests.
    assert ((scores.mean(0) - exact).abs() < 5 * deviation / 2000**0.5).all()
    assert ((scores.std(0) / deviation - 1).abs() < 5 * 2 / 4000**0.5).all()


@pytest.mark.parametrize("device", DEVICES)
def test_seed_repeats_training_and_modes_follow_the_module(device: str) -> None:
    network = SimilarityNetwork(4, 40).to(device)
    embeddings, prototypes = torch.randn(3, 4, device=device), torch.randn(5, 4, device=device)

    def seeded() -> Tensor:
        torch.manual_seed(7)
        return network(embeddings, prototypes).detach()  # type: ignore[no-any-return]

    first = seeded()
    assert torch.equal(first, seeded()) and not torch.equal(first, network(embeddings, prototypes))
    network.eval()
    assert torch.equal(network(embeddings, prototypes), network(embeddings, prototypes))
    assert not torch.allclose(first, network(embeddings, prototypes))


def test_state_dict_goes_both_ways() -> None:
    network, plain = SimilarityNetwork(6, 10), plain_network(6, 10)
    network.load_state_dict(plain.state_dict())
    assert list(network.state_dict()) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    plain.load_state_dict(network.state_dict())
    pairs = torch.randn(4, 12)
    network.eval()
    plain.eval()
    expected = plain(pairs)
    assert torch.equal(nn.Sequential.forward(network, pairs), expected)
    diagonal = network(pairs[:, 6:], pairs[:, :6]).diagonal()
    assert torch.allclose(diagonal, expected[:, 0], atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_all_pairs_of_a_batch_take_gradients_from_both_sides(device: str) -> None:
    network = SimilarityNetwork(5, 33).to(device, torch.float64).eval()
    embeddings = values((7, 5), torch.float64, device, 0).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: network(e, e), (embeddings,))


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_computes_in_float32_and_compiles(device: str) -> None:
    network = SimilarityNetwork(8, 32).to(device).eval()
    embeddings, prototypes = torch.randn(3, 8, device=device), torch.randn(4, 8, device=device)
    expected = network(embeddings, prototypes)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(network(embeddings, prototypes), expected)
        half = network(embeddings.bfloat16(), prototypes)
    assert half.dtype == torch.float32 and torch.allclose(half, expected, atol=0.05)
    network.train()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.manual_seed(1)
    eager = network(embeddings, prototypes)
    torch.manual_seed(1)
    assert torch.equal(compiled(embeddings, prototypes), eager)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(2, 4), torch.zeros(3, 5)), ValueError, r"prototypes: expected \[N, 4\], got \[3, 5\]"),
        ((torch.zeros(4), torch.zeros(3, 4)), ValueError, r"embeddings: expected \[N, 4\], got \[4\]"),
        ((torch.zeros(2, 4), torch.zeros(3, 4, dtype=torch.int64)), TypeError, "prototypes: expected a floating-point"),
        ((None, torch.zeros(3, 4)), TypeError, "embeddings: expected a floating-point tensor, got NoneType"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[Tensor, Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SimilarityNetwork(4)(*arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_dim": 0}, "embedding_dim, hidden: expected >= 1, got 0, 512"),
        ({"embedding_dim": 2, "negative_slope": 1.5}, "negative_slope: expected a number from 0 to 1, got 1.5"),
        ({"embedding_dim": 2, "dropout": 1.0}, "dropout: expected a probability, 0 <= p < 1, got 1.0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimilarityNetwork(**settings)  # type: ignore[arg-type]
