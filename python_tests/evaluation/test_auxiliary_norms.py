"""Figures with each distribution's norms at inference."""

from __future__ import annotations

import pytest
import torch
from toys import Projection, blobs

from robustdml_ext.evaluation import Subject, embed, evaluate, judge_norms
from robustdml_ext.evaluation.subject import Under
from robustdml_ext.models import Embedder, build_embedder


def _embedder(noise: float) -> Embedder:
    torch.manual_seed(0)
    return build_embedder(
        "small", embedding_dim=4, weights="none", channels=1, distributions=3, norm_noise=noise
    ).eval()


@pytest.mark.parametrize("separate", [False, True])
def test_each_norms_figures_are_those_of_the_embedder_under_it(separate: bool) -> None:
    embedder, images, gallery = _embedder(0.5), blobs(), blobs(48, seed=7)
    found = judge_norms(Subject(embedder, images, gallery if separate else None), recall_at=(1, 4), seed=3)
    assert len(found) == 3
    for k, figures in enumerate(found):
        queries, labels = embed(Under(embedder, k), images)
        items: dict = {}
        if separate:
            items = dict(zip(("gallery", "gallery_labels"), embed(Under(embedder, k), gallery), strict=True))
        assert figures == evaluate(queries, labels, **items, recall_at=(1, 4), seed=3)
    assert found[0]["pi_ratio"] != found[1]["pi_ratio"] != found[2]["pi_ratio"]


def test_norms_that_are_alike_have_the_same_figures() -> None:
    found = judge_norms(Subject(_embedder(0.0), blobs()), metrics="recall", recall_at=(2,))
    assert found[0] == found[1] == found[2] and set(found[0]) == {"recall@1", "recall@2"}


def test_a_model_without_distributions_is_refused() -> None:
    with pytest.raises(TypeError, match="expected an Embedder with distributions, got Projection"):
        judge_norms(Subject(Projection(), blobs()))
