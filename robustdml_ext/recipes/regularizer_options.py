"""Options of what any method's metric loss can be joined with: energy confusion, hard negatives, self-distillation."""

from __future__ import annotations

from typing import Literal

from robustdml_ext.recipes.option_group import OptionGroup, option


class RegularizerOptions(OptionGroup):
    """What joins the metric loss, of any method: energy confusion (ECAML), a generator of hard negatives (DAML), and
    self-distillation (S2SD)."""

    energy_confusion: float = option(
        0.0,
        "λ of energy confusion (ECAML, equation 11), which draws the batch's classes together at the head; 0: none. "
        "ecaml has the paper's for triplet, npair and binomial (0.02, 0.3, 0.13; a tenth on sop and inshop), and for "
        "any other loss binomial's.",
        ge=0,
    )
    energy_confusion_reduction: Literal["mean", "sum"] = option(
        "mean",
        "Over pairs of classes: mean, of the size of the losses' own means, or sum, as equation 11 is printed.",
    )
    energy_confusion_pairs: int | None = option(
        None,
        "Ordered pairs of classes that energy confusion draws at random at each step. None: all of the batch.",
        ge=1,
    )
    hard_negatives: bool = option(
        False,
        "Train on synthetic hard negatives (DAML) with the loss contrastive, triplet, lifted or npair. daml does.",
    )
    hard_negatives_pretrain: int = option(
        5,
        "Hard negatives: epochs of the metric alone at first, on observed negatives, by the loss with its own margin "
        "and mining.",
        ge=0,
    )
    hard_negatives_alone: int = option(
        0, "Hard negatives: epochs of the generator alone after that, before both are trained.", ge=0
    )
    hard_negatives_count: int | None = option(
        None,
        "Hard negatives: synthetic ones of each anchor and positive, from observed ones at random; the time of a step "
        "and its memory grow with them. None: as the paper's inputs have, 1 for contrastive and triplet, one of every "
        "image of another class for lifted, C - 1 for npair.",
        ge=1,
    )
    hard_negatives_mining: Literal["all", "semihard", "hardest"] = option(
        "all", "Hard negatives: which of the synthetic ones the metric is trained on."
    )
    hard_negatives_margin: float | None = option(
        None, "Hard negatives: γ of equations 6, 8, 9 and 10. None: the loss's own margin; 1 for npair.", ge=0
    )
    hard_negatives_lr_scale: float | None = option(
        None, "Hard negatives: learning rate of the generator over the network's. None: as the head's.", gt=0
    )
    hard_negatives_regularization: float = option(
        1.0, "Hard negatives: λ1 of equation 6, staying close to the observed negative.", ge=0
    )
    hard_negatives_adversary: float = option(
        50.0, "Hard negatives: λ2 of equation 6, being misclassified by the metric.", ge=0
    )
    hard_negatives_weight: float = option(1.0, "Hard negatives: λ of equation 7, weight of the metric's loss.", ge=0)
    hard_negatives_hidden: int | None = option(
        None, "Hard negatives: width of the generator's two hidden layers. None: that of the features.", ge=1
    )
    hard_negatives_gradients: Literal["players", "through", "literal"] = option(
        "players",
        "Hard negatives: what each term trains. players: the generator's its own parameters, the metric's the network, "
        "which takes synthetic negatives as data; through: the latter also through the generator; literal: all terms "
        "both, as equation 7 to the letter has it.",
    )
    s2sd: bool = option(
        False,
        "Distill what auxiliary heads of more dimensions, trained beside the embedding, find alike in a batch into the "
        "embedding (S2SD, Roth et al. 2021).",
    )
    s2sd_dims: tuple[int, ...] = option(
        (),
        "S2SD: dimensions of the auxiliary heads. None given: 4, 8, 12 and 16 times those of the embedding; with 128 "
        "these are the published 512, 1024, 1536 and 2048.",
    )
    s2sd_weight: float = option(
        50.0,
        "S2SD: γ, weight of the distillation from the heads. Networks that start from scratch have 1 unless told "
        "otherwise, as have the features.",
        ge=0,
    )
    s2sd_feature_weight: float = option(
        50.0, "S2SD: weight of the distillation from the features; 0 leaves them out.", ge=0
    )
    s2sd_feature_delay: int = option(1000, "S2SD: steps of training before the features teach.", ge=0)
    s2sd_temperature: float = option(1.0, "S2SD: T, of the softmax over similarities.", gt=0)


SYNTHETIC_LOSSES = ("contrastive", "triplet", "lifted", "npair")
"""Losses that the paper states for synthetic negatives."""

# The paper's λ, tables 3 to 6; a tenth on the two large data sets.
_CONFUSION = {"triplet": 0.02, "npair": 0.3, "binomial": 0.13}
_LARGE = ("sop", "inshop")


def published_confusion(loss: str, dataset: str) -> float:
    """ECAML's λ for a loss on a data set; for a loss that the paper does not have, that of binomial."""
    found = _CONFUSION.get(loss, _CONFUSION["binomial"])
    return found / 10 if dataset in _LARGE else found


READ_WITH: dict[str, tuple[str, ...]] = {
    "energy_confusion": ("energy_confusion_reduction", "energy_confusion_pairs"),
    **{
        switch: tuple(name for name in RegularizerOptions.model_fields if name.startswith(f"{switch}_"))
        for switch in ("hard_negatives", "s2sd")
    },
}
"""Options that are read only where another one is on."""
