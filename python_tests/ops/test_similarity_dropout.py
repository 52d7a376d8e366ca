"""The generator behind `similarity`'s dropout: Philox's published answers, and the statistics of the masks."""

from __future__ import annotations

import pytest
import torch
from strategies import DEVICES
from torch import Tensor

from robustdml_ext.ops._similarity_dropout import dropped_share, keep_mask, philox


def kernel_mask(seed: Tensor, batch: int, classes: int, hidden: int, dropped: int) -> Tensor:
    """The kernel's mask bool `[B, C, H]`: with E = 0, P = 1 and w one-hot, scores spell it unit by unit."""
    device = seed.device
    e, p = torch.zeros(batch, hidden, device=device), torch.ones(classes, hidden, device=device)
    units = []
    for h in range(hidden):
        weight = torch.zeros(hidden, device=device)
        weight[h] = 1
        units.append(
            torch.ops.robustdml.similarity(e, p, weight, torch.zeros(1, device=device), seed, 0.1, dropped) > 0
        )
    return torch.stack(units, 2)


def gradient_mask(seed: Tensor, batch: int, classes: int, hidden: int, dropped: int) -> Tensor:
    """The same from the backward kernel: the gradient of one score at a time."""
    device = seed.device
    e, p = torch.zeros(batch, hidden, device=device), torch.ones(classes, hidden, device=device)
    mask = torch.zeros(batch, classes, hidden, dtype=torch.bool, device=device)
    for c in range(classes):
        grad = torch.zeros(batch, classes, device=device)
        grad[:, c] = 1
        weight = torch.ones(hidden, device=device)
        found = torch.ops.robustdml.similarity_backward(grad, e, p, weight, seed, 0.1, dropped)
        mask[:, c] = found[0] > 0
    return mask


@pytest.mark.parametrize("dropped", [16384, 32768, 49152, 6554, 1, 65535])
@pytest.mark.parametrize("shape", [(5, 37, 70), (37, 5, 33), (1, 1, 1)])
@pytest.mark.parametrize("device", DEVICES)
def test_kernels_and_reference_have_the_same_mask(shape: tuple[int, int, int], dropped: int, device: str) -> None:
    for seed in (0, 2**62 + 12345, -7):
        key = torch.tensor([seed], device=device)
        expected = keep_mask(key, *shape, dropped)
        assert torch.equal(kernel_mask(key, *shape, dropped), expected)
        assert torch.equal(gradient_mask(key, *shape, dropped), expected)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, -1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), 0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)  # fmt: skip
def test_philox_gives_its_published_answers(counter: tuple[int, ...], key: int, answer: tuple[int, ...]) -> None:
    words = philox(tuple(torch.tensor(word) for word in counter), torch.tensor(key))  # type: ignore[arg-type]
    assert tuple(int(word) for word in words) == answer


def test_probabilities_are_rounded_to_the_nearest() -> None:
    assert [dropped_share(p) for p in (0.0, 0.25, 0.1, 0.5, 1e-6, 0.999999)] == [0, 16384, 6554, 32768, 0, 65535]


def deviations(mask: Tensor, probability: float, *, pairs: bool = True) -> dict[str, float]:
    """z-scores of a mask's counts, each of which is standard normal for independent units."""
    kept = 1 - probability
    deviation = (kept * probability) ** 0.5
    z = (mask.double() - kept) / deviation
    found = {"kept": (z.sum() / z.numel() ** 0.5).item()}
    if pairs:
        for dim, name in enumerate(("embedding", "prototype", "unit")):
            for step in (1, 2, 8, 16, 31, 32):
                if step < z.shape[dim]:
                    product = z.narrow(dim, 0, z.shape[dim] - step) * z.narrow(dim, step, z.shape[dim] - step)
                    found[f"{name} + {step}"] = (product.sum() / product.numel() ** 0.5).item()
        # What only the mix makes independent: pairs that close a cycle of two embeddings and two prototypes.
        for b, c in ((1, 1), (1, 7), (5, 3), (16, 32)):
            cycle = z[:-b, :-c] * z[b:, :-c] * z[:-b, c:] * z[b:, c:]
            found[f"cycle {b}, {c}"] = (cycle.sum() / cycle.numel() ** 0.5).item()
    return found


@pytest.mark.parametrize("dropped", [16384, 6554, 32768])
def test_units_pairs_neighbors_cycles_and_seeds_are_independent(dropped: int) -> None:
    batch, classes, hidden, probability = 64, 256, 512, dropped / 65536
    masks = [keep_mask(torch.tensor([seed]), batch, classes, hidden, dropped) for seed in (1, 2)]
    found = {f"seed {i}: {k}": v for i, m in enumerate(masks) for k, v in deviations(m, probability).items()}
    # Neighboring seeds, and an embedding against the prototype of the same index, share nothing.
    kept, deviation = 1 - probability, (probability * (1 - probability)) ** 0.5
    z = [(mask.double() - kept) / deviation for mask in masks]
    found["seeds"] = ((z[0] * z[1]).sum() / z[0].numel() ** 0.5).item()
    square = z[0][:, :batch]
    upper = torch.triu_indices(batch, batch, 1)
    mirrored = square[upper[0], upper[1]] * square[upper[1], upper[0]]
    found["mirrored"] = (mirrored.sum() / mirrored.numel() ** 0.5).item()
    # Some 50 standard normals: past 4.5 once in 3,000 masks. The masks are fixed, so this never flickers.
    assert not {name: value for name, value in found.items() if abs(value) > 4.5}


def test_counts_have_the_spread_of_independent_units() -> None:
    """χ² of how many units each pair, embedding, prototype and hidden unit keeps: neither too even nor too uneven."""
    dropped, probability = 16384, 0.25
    mask = keep_mask(torch.tensor([99]), 96, 192, 512, dropped).double()
    for dims in ((2,), (1, 2), (0, 2), (0, 1), (0,), (1,)):
        counts = mask.sum(dims)
        terms = mask.numel() / counts.numel()
        chi = ((counts - terms * (1 - probability)) ** 2 / (terms * probability * (1 - probability))).sum()
        z = (chi - counts.numel()) / (2 * counts.numel()) ** 0.5
        assert abs(z) < 4.5, f"{dims}: {z:.2f}"


def test_the_32_units_of_a_word_are_independent() -> None:
    """All 496 pairs of units of a word, and all runs of 8 units as bytes."""
    mask = keep_mask(torch.tensor([123]), 128, 512, 32, 32768).reshape(-1, 32)
    z = mask.double() * 2 - 1
    upper = torch.triu_indices(32, 32, 1)
    pairs = (z.T @ z / len(z) ** 0.5)[upper[0], upper[1]]
    assert pairs.abs().max() < 4.8
    for first in range(0, 32, 8):
        byte = (mask[:, first : first + 8].long() << torch.arange(8)).sum(1).bincount(minlength=256).double()
        expected = len(mask) / 256
        chi = ((byte - expected) ** 2 / expected).sum().item()
        assert abs(chi - 255) / (2 * 255) ** 0.5 < 4.5
