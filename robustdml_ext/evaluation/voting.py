"""Inference by voting: an ensemble's embeddings taken apart again into those of its members, who answer one by one.

EAT decides by "an undifferentiable voting mechanism": each member predicts a label, and the label that comes up most
often is the answer. What a prediction is, in clustering and in retrieval, is said in `voting_clusters` and
`voting_retrieval`. An ensemble that votes embeds as its members side by side, `[N, D_1 + … + D_V]`, which is what an
attacker can differentiate; how wide each of the V members is makes it possible to count votes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robustdml_ext.evaluation.inputs import unit


def check_voters(voters: object, width: int) -> tuple[int, ...]:
    """The members' widths, D_1, …, D_V, of embeddings with `width` columns.

    Raises:
        TypeError: `voters` is no sequence of whole numbers.
        ValueError: there is none, one is below 1, or their sum is not `width`.
    """
    if not isinstance(voters, Sequence) or any(
        isinstance(number, bool) or not isinstance(number, int | np.integer) for number in voters
    ):
        raise TypeError(f"voters: expected a sequence of the members' widths, whole numbers; got {voters!r}")
    widths = tuple(int(number) for number in voters)
    if not widths or min(widths) < 1 or sum(widths) != width:
        raise ValueError(f"voters: expected widths of at least 1 that add up to {width} columns, got {list(widths)}")
    return widths


def members_of(embeddings: Tensor, voters: Sequence[int]) -> list[Tensor]:
    """Each member's own embeddings, of unit length, float64 `[N, D_i]` each.

    A row with a NaN or an infinity in any member's columns is NaN in all of them: an image that breaks one member has
    no say through the others, as everywhere in this suite a broken embedding is a miss.

    Args:
        embeddings: `[N, D]`, the members' side by side.
        voters: the members' widths.

    Raises:
        TypeError, ValueError: as `check_voters`.
    """
    widths = check_voters(voters, embeddings.shape[1])
    matrix = embeddings.detach().to(torch.float64)
    lost = ~matrix.isfinite().all(1)
    matrix = matrix.masked_fill(lost[:, None], torch.nan) if lost.any() else matrix
    return [unit(part) for part in matrix.split(list(widths), dim=1)]
