"""Dropout of the learned similarity from a seed, in plain PyTorch: the mask that the kernels recompute, bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

_LENGTH = 16  # bits of a drop probability
_UNITS = 32  # hidden units of a mask word
_LOW = 0xFFFFFFFF


def dropped_share(dropout: float) -> int:
    """The drop probability as the kernels take it: in units of 2^-16, rounded to the nearest."""
    units: int = 2**_LENGTH
    return min(round(dropout * units), units - 1)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 (Salmon et al. 2011) on int64 tensors that hold 32-bit words, under a 64-bit key `[]`."""
    a, b, c, d = counter
    low, high = key & _LOW, key >> 32 & _LOW
    for _ in range(10):
        # Products wrap modulo 2^64, so their two halves come out right.
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (second >> 32 & _LOW) ^ b ^ low, second & _LOW, (first >> 32 & _LOW) ^ d ^ high, first & _LOW
        low, high = low + 0x9E3779B9 & _LOW, high + 0xBB67AE85 & _LOW
    return a, b, c, d


def _mix(x: Tensor) -> Tensor:
    """The finalizer of MurmurHash3: a bijection of 32-bit words under which every bit depends on every other."""
    x = x ^ x >> 16
    x = x * 0x85EBCA6B & _LOW
    x = x ^ x >> 13
    x = x * 0xC2B2AE35 & _LOW
    return x ^ x >> 16


def _draws(key: Tensor, side: int, rows: int, words: int, count: int) -> Tensor:
    """The random words of one side's rows (0: embeddings, 1: prototypes), `[count, rows, words]`."""
    row = torch.arange(rows, device=key.device)[:, None].expand(rows, words)
    word = torch.arange(words, device=key.device)[None, :].expand(rows, words)
    drawn: list[Tensor] = []
    for block in range(-(-count // 4)):
        drawn += philox((row, word, torch.full_like(row, block), torch.full_like(row, side)), key)
    return torch.stack(drawn[:count])


def keep_mask(seed: Tensor, embeddings: int, prototypes: int, hidden: int, dropped: int) -> Tensor:
    """Which hidden unit of which pair is kept: bool `[B, C, H]`, of probability 1 − dropped / 2^16.

    Each row of either side has random words of its own (Philox4x32-10 at the counter (row, h // 32, draw // 4, side)
    under the seed), and a pair's word is a mix of the sum of its sides' words. Draw i gives bit i of the numbers of 32
    hidden units (unit h in bit 31 − h mod 32), and a unit is kept where its number is at least `dropped`.
    """
    threshold, count = dropped, _LENGTH
    while threshold and threshold % 2 == 0:
        threshold, count = threshold // 2, count - 1
    words = -(-hidden // _UNITS)
    key = seed.reshape(())
    kept = torch.full((embeddings, prototypes, words), _LOW, dtype=torch.int64, device=seed.device)
    if threshold:
        of_embeddings, of_prototypes = (
            _draws(key, side, n, words, count) for side, n in enumerate((embeddings, prototypes))
        )
        for i in range(count):
            random = _mix(of_embeddings[i][:, None] + of_prototypes[i][None] & _LOW)
            kept = kept & random if threshold >> i & 1 else kept | random
    bits = kept[..., None] >> torch.arange(_UNITS - 1, -1, -1, device=seed.device) & 1
    return bits.flatten(2)[..., :hidden].bool()
