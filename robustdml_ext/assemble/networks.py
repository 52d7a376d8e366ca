"""Networks as recipes describe them."""

from __future__ import annotations

from robustdml_ext.assemble.methods import ENSEMBLES
from robustdml_ext.models import Embedder, EmbedderEnsemble, build_embedder
from robustdml_ext.recipes import Recipe


def build_network(recipe: Recipe, channels: int) -> Embedder | EmbedderEnsemble:
    """Build the embedder, or the ensemble of them that the method trains."""
    if recipe.method in ENSEMBLES:
        return EmbedderEnsemble((build_member(recipe, channels) for _ in range(recipe.members)), recipe.inference)
    return build_member(recipe, channels)


def build_member(recipe: Recipe, channels: int) -> Embedder:
    """One distribution for clean images, one for each auxiliary norm of the method."""
    auxiliary = len(recipe.targets) if recipe.method in ("advprop", "mdprop") else 0
    return build_embedder(
        recipe.arch,
        embedding_dim=recipe.embedding_dim,
        weights=recipe.weights,
        channels=channels,
        distributions=1 + auxiliary,
        norm_noise=recipe.norm_noise,
        freeze_norm=recipe.freeze_norm,
        # The exponents of npair are inner products, too narrow between unit vectors.
        unit_length=recipe.unit_embeddings,
        dropout=recipe.dropout,
        bins=recipe.bins,
    )
