"""Names that recipes know: methods, attacks of evaluation, and what sets some of them apart."""

from __future__ import annotations

import re
from typing import Literal

MethodName = Literal[
    "standard", "adversarial", "advprop", "mdprop", "pal", "at", "mixup", "iat", "trades", "ensemble", "eat", "ecaml",
    "daml", "contrastive", "triplet", "lifted", "npair", "binomial", "angular", "prototypes",
]  # fmt: skip

METHODS: dict[str, str] = {
    "standard": "Standard training (ST): the metric loss on clean images.",
    "adversarial": "Adversarial training (AT): clean and targeted adversarial images, sharing their norms.",
    "advprop": "AdvProp-D (AP'): clean and single-targeted adversarial images, each with its own norms.",
    "mdprop": "MDProp (MP): clean, single- and multi-targeted adversarial images, each with its own norms.",
    "pal": "The plain baseline of the EAT paper (PAL): the Proxy-Anchor loss on clean images.",
    "at": "Untargeted adversarial training (PAL + AT): images pushed away from their clean embeddings.",
    "mixup": "Mix-Up (PAL + Mix-Up): mixtures of two images against mixtures of their embeddings.",
    "iat": "Interpolated adversarial training (PAL + IAT): Mix-Up of clean and of adversarial images.",
    "trades": "TRADES (PAL + TRADES): the loss on clean images, and how far attacked ones move.",
    "ensemble": "The naive ensemble: several networks, each trained by itself, that vote.",
    "eat": "Ensemble adversarial training (PAL + EAT): networks on parts of the data, attacked together, that vote.",
    "ecaml": "Energy confused adversarial metric learning: a metric loss against energy confusion, at the head.",
    "daml": "Deep adversarial metric learning: a metric loss on generated hard negatives, in turn against it.",
    "contrastive": "The contrastive loss on clean images, set up as ECAML and DAML are.",
    "triplet": "The triplet loss, likewise.",
    "lifted": "The lifted structure loss, likewise.",
    "npair": "The N-pair loss, likewise.",
    "binomial": "Binomial deviance, likewise.",
    "angular": "The angular loss, likewise.",
    "prototypes": "Prototypical classifiers with a learned similarity: classify, verify, retrieve, and take in new "
    "classes.",
}

# Baselines of the ECAML and DAML papers, each of which trains with the loss of its name.
BASELINES = ("contrastive", "triplet", "lifted", "npair", "binomial", "angular")

# Methods that train on clean images alone.
CLEAN = ("standard", "ecaml", "daml", *BASELINES)

# Those of the EAT paper; none of them aims at targets.
DEFENSES = ("pal", "at", "mixup", "iat", "trades", "ensemble", "eat")

# The attacks that evaluation knows; a test holds this list to its table.
EVAL_ATTACKS = (
    "stax", "mtax", "away", "both", "loss", "out", "candidate-raise", "candidate-lower", "gallery-raise",
    "gallery-lower", "square", "transfer",
)  # fmt: skip

# Those that it knows of classifiers, for prototypes; likewise.
CLASS_EVAL_ATTACKS = (
    "fgsm", "pgd", "pgd-probabilities", "fgsm-probabilities", "apgd", "apgd-margin", "square-margin",
)  # fmt: skip

# Losses that compare the images of a batch with each other, and so need two of a class.
PAIR_LOSSES = ("multisimilarity", "contrastive", "triplet", "lifted", "npair", "binomial", "angular", "prototypical")


def is_untrained(arch: str) -> bool:
    """Whether nobody publishes ImageNet weights of an architecture: those of this package for small images."""
    found = re.fullmatch(r"wide_resnet(\d+)_\d+", arch)
    depth = 0 if found is None else int(found[1])
    return arch in ("small", "lenet", "xvector") or (depth >= 10 and (depth - 4) % 6 == 0)
