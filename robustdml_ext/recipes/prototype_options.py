"""Options of prototypical classifiers with a learned similarity, and of what they are judged by."""

from __future__ import annotations

from typing import Literal

from robustdml_ext.recipes.option_group import OptionGroup, option


class PrototypeOptions(OptionGroup):
    """prototypes: the similarity network, the prototypes, adversarial training, and the tasks they are judged by."""

    adversarial: Literal["none", "similarity", "dense", "both"] = option(
        "none",
        "Adversarial training, and which head it attacks: similarity (the learned similarity to prototypes), dense "
        "(the dense output layer of L_aux), or both, by the sum of their cross-entropies.",
    )
    adversarial_batch: Literal["alone", "joint"] = option(
        "alone",
        "With adversarial: what is trained on: adversarial images alone, or joint with the clean ones in one batch (as "
        "the published code does on MNIST).",
    )
    prototype_momentum: float = option(
        0.9, "λ of the prototypes' moving average: what is kept of the old one at each step.", ge=0, le=1
    )
    similarity_hidden: int = option(512, "Units of the similarity network's hidden layer.", ge=1)
    similarity_dropout: float = option(
        0.25, "Probability with which a hidden unit of the similarity network is dropped.", ge=0, lt=1
    )
    pair_weight: float = option(1.0, "Weight of L_pair (equation 3); 1 in the paper.", ge=0)
    auxiliary_weight: float = option(
        1.0, "Weight of L_aux, the dense output layer's cross-entropy; 1 in the paper, 0 leaves it out.", ge=0
    )
    label_smoothing: float = option(
        0.0, "Label smoothing of L_class and L_aux. The paper has none, its published code 0.2.", ge=0, lt=1
    )
    few_shot_ways: tuple[int, ...] = option(
        (5,),
        "Classes of a few-shot episode, each with each of few_shot_shots. Without any there are no episodes.",
        neutral=True,
    )
    few_shot_shots: tuple[int, ...] = option(
        (1, 5), "Examples of each class that a few-shot episode's prototypes are made of.", neutral=True
    )
    few_shot_episodes: int = option(600, "Few-shot episodes of a kind.", neutral=True, ge=2)
    verification_trials: int = option(
        100_000,
        "Random pairs of test images that verification is judged by, half of them of one class, unless the data set "
        "has lists of trials. 0: none.",
        neutral=True,
        ge=0,
    )


PROTOTYPE_READ_BY: dict[str, tuple[str, ...]] = dict.fromkeys(PrototypeOptions.model_fields, ("prototypes",))
"""All of them are read by one method."""
