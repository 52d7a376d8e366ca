"""Clusters by voting: each member's k-means, named alike, then the cluster that most members put an image into."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from robustdml_ext.evaluation.inputs import Array, as_matrix
from robustdml_ext.evaluation.kmeans import fit_kmeans
from robustdml_ext.evaluation.voting import members_of

Clusters = npt.NDArray[np.int64]
# Float64 differences held at a time.
_DIFFERENCES_AT_ONCE = 2**22


def voted_clusters(embeddings: Array, voters: Sequence[int], clusters: int, *, seed: int) -> Clusters:
    """Which cluster each image is in by the vote of an ensemble's members: int64 `[N]`.

    What a member predicts of an image is its cluster, which is a number without a meaning: members must first be
    brought to call the same cluster by the same name, by `aligned`. Then each image is in the cluster that most members
    put it into, by `voted`.

    Each member's unit embeddings are clustered by this package's k-means with the protocol's settings and one seed, so
    that all begin at the same images. One member's vote is its k-means; members that are all alike vote as one.

    Args:
        embeddings: `[N, D_1 + … + D_V]`, the members' side by side, finite, on the device where k-means is to run.
        voters: their widths D_1, …, D_V.
        clusters: K, as many as there are classes.
        seed: of every member's k-means.

    Raises:
        TypeError, ValueError: as `voting.check_voters` and `fit_kmeans`.
    """
    named, distances = [], []
    for member in members_of(as_matrix(embeddings), voters):
        fit = fit_kmeans(member, clusters, seed=seed)
        named.append(fit.assignment.cpu().numpy())
        distances.append(_distances(member, fit.centroids, fit.assignment).cpu().numpy())
    return voted(aligned(np.stack(named)), np.stack(distances))


def aligned(named: Clusters) -> Clusters:
    """The members' clusters `[V, N]` under common names: int64 `[V, N]`, numbers from 0.

    The reference is the member whose clusters overlap most with those of the others: two members overlap in as many
    images as can be given equal names in both, and the largest sum over the other members wins, the first of several.
    Each other member's clusters take the reference's names, one each, by the assignment with which most images have
    equal names. Clusters that are then left over take the names left over, in order.

    The assignment is exact, over the pairs of clusters that share an image: a K x K table of SOP's 11,316 clusters
    would take a gigabyte, and minutes. Names are first given anew, in the order in which clusters come up among the
    images, so that the names which k-means happened to give change nothing, even where several assignments are
    equally good.
    """
    members = [_by_appearance(row) for row in named]
    if not members or not members[0].size:
        return np.stack(members) if members else named
    count = max(int(row.max()) for row in members) + 1
    partners: dict[tuple[int, int], Clusters] = {}
    overlap = np.zeros(len(members), dtype=np.int64)
    for i, j in itertools.combinations(range(len(members)), 2):
        partner, images = assignment(members[i], members[j], count)
        partners[i, j], partners[j, i] = partner, np.argsort(partner)
        overlap[[i, j]] += images
    reference = int(overlap.argmax())
    return np.stack([row if i == reference else partners[i, reference][row] for i, row in enumerate(members)])


def assignment(first: Clusters, second: Clusters, count: int) -> tuple[Clusters, int]:
    """The one-to-one map of `first`'s clusters to `second`'s with which most images have equal names, and how many.

    Args:
        first, second: int64 `[N]`, in 0 .. count - 1.
        count: names that there are.

    Returns:
        Each of `first`'s clusters' partner, a permutation int64 `[count]`; pairs without a common image, which the
        map is free in, go in order. And the number of images.
    """
    pairs, images = np.unique(first * count + second, return_counts=True)
    # A partner of its own for each cluster, so that a map of all of them exists; one is added to every weight, as zero
    # would be no pair. A map has `count` pairs whatever it is, so the best one stays the best, in exact integers.
    own = np.arange(count)
    weights = np.concatenate([images + 1, np.ones_like(own)]).astype(np.float64)
    rows = np.concatenate([pairs // count, own])
    columns = np.concatenate([pairs % count, count + own])
    table = csr_array(coo_array((weights, (rows, columns)), shape=(count, 2 * count)))
    matched, partner = min_weight_full_bipartite_matching(table, maximize=True)
    found = np.empty(count, dtype=np.int64)
    found[matched] = partner
    alone = found >= count
    found[alone] = np.setdiff1d(own, found[~alone])
    return found, int((found[first] == second).sum())


def voted(names: Clusters, distances: npt.NDArray[np.float64]) -> Clusters:
    """The name that most members give each image: int64 `[N]`.

    Where several names have as many votes, that of the member whose embedding is nearest to its centroid, among the
    members that give one of these names; the first member of several.

    Args:
        names: `[V, N]`, common to the members.
        distances: squared Euclidean distances of each member's unit embeddings to their centroids, `[V, N]`.
    """
    votes = np.stack([(names == row).sum(0) for row in names])
    chosen = np.where(votes == votes.max(0), distances, np.inf).argmin(0)
    answers: Clusters = np.take_along_axis(names, chosen[None], 0)[0]
    return answers


def _by_appearance(row: Clusters) -> Clusters:
    """The same clusters, numbered in the order in which they first come up."""
    _, first, inverse = np.unique(row, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _distances(points: Tensor, centroids: Tensor, assigned: Tensor) -> Tensor:
    """Squared, float64 `[N]`."""
    at_once = max(1, _DIFFERENCES_AT_ONCE // points.shape[1])
    return torch.cat(
        [
            (rows - centroids[own]).square().sum(1)
            for rows, own in zip(points.split(at_once), assigned.split(at_once), strict=True)
        ]
    )
