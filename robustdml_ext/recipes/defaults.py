"""Defaults that depend on the method and on the data set. The schema's own are those of the MDProp paper.

Precedence, weakest first: schema, method, data set, method on that data set, recipe file, explicit flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustdml_ext.recipes.names import BASELINES, DEFENSES
from robustdml_ext.recipes.regularizer_options import published_confusion

# Section "Implementation details" of the EAT paper; its code is based on that of Roth et al., which the schema's batch,
# weight decay and samples of a class are of.
_EAT: dict[str, Any] = {
    "targets": (),
    "loss": "proxyanchor",
    "arch": "mobilenet_v2",
    "embedding_dim": 512,
    "optimizer": "adamw",
    "learning_rate": 1e-4,
    "schedule": "cosine",
    "epochs": 200,
    "epsilon": 16 / 255,
    "attack_steps": 10,
    # The gradient of the distance from the clean embedding is 0 at the clean image.
    "random_start": 1.6 / 255,
    "eval_attacks": ("away",),
    "attack_epsilons": (8 / 255,),
    "eval_steps": 10,
}

# "Implementation details" of the ECAML paper. DAML's are the same but for the optimizer, which it does not print, and
# the number of iterations.
_ECAML: dict[str, Any] = {
    "targets": (),
    "arch": "googlenet",
    "embedding_dim": 512,
    "weight_decay": 2e-4,
    "head_lr_scale": 10.0,
    "batch_size": 128,
    "select_on": "last",
}

# ResNet-50, as section 4 has it for photographs. The paper's text leaves the optimization to its appendix; these are
# the published code's for retrieval: Adam, rate and decay 1e-4, 5 images of a class.
_PROTOTYPES: dict[str, Any] = {
    "targets": (),
    "loss": "prototypical",
    "arch": "resnet50",
    "embedding_dim": 512,
    "learning_rate": 1e-4,
    "weight_decay": 1e-4,
    "batch_size": 120,
    "samples_per_class": 5,
    "eval_attacks": (),
}

# Of networks without pretrained weights. The published weights of S2SD are for pretrained features;
# where these are still to be learned, distillation of 50 times the loss is what they follow (README).
FROM_SCRATCH: dict[str, Any] = {"s2sd_weight": 1.0, "s2sd_feature_weight": 1.0}

METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    "standard": {"targets": ()},
    "adversarial": {"targets": (1,)},
    "advprop": {"targets": (1,)},
    "mdprop": {"targets": (1, 5)},
    **dict.fromkeys(DEFENSES, _EAT),
    # All embeddings of length 10 in N-pair losses, as in ECAML's published code: energy confusion shortens the head's
    # output, which must not be what the exponents are made of.
    "ecaml": {**_ECAML, "loss": "binomial", "npair_scale": 10.0},
    "daml": {**_ECAML, "loss": "npair", "hard_negatives": True, "triplet_margin": 1.0},
    **{name: {**_ECAML, "loss": name} for name in BASELINES},
    "npair": {**_ECAML, "loss": "npair", "npair_scale": 10.0},
    "prototypes": _PROTOTYPES,
}

# A head that starts as the rest of its network does, from scratch, learns at the network's rate.
_SMALL: dict[str, Any] = {
    "arch": "small", "weights": "none", "embedding_dim": 64, "learning_rate": 1e-3, "head_lr_scale": 1.0
}  # fmt: skip

DATASET_DEFAULTS: dict[str, dict[str, Any]] = {
    # A job that teaches, and ends within two minutes on two slow cores with every attack of its evaluation.
    "digits": {
        **_SMALL,
        "batch_size": 60,
        "samples_per_class": 12,
        "epochs": 30,
        "epsilon": 0.2,
        "attack_epsilons": (0.1, 0.2, 0.3),
        # Five seen classes have none to spare for validation.
        "select_on": "last",
        "evaluate_every": 0,
        # Of 450 steps as of the published code's 1,000 of 7,800 on CUB200.
        "s2sd_feature_delay": 60,
    },
    # Appendix C of the MDProp paper: CUB200 and CARS196 150 epochs; SOP, 100.
    "folder": {"epochs": 150},
    "sop": {"epochs": 100},
    # Small images, for a small network from scratch on any machine. ε is MNIST's and CIFAR-10's usual one.
    "mnist": {**_SMALL, "batch_size": 120, "samples_per_class": 12, "epochs": 10, "epsilon": 0.1},
    "fashion-mnist": {**_SMALL, "batch_size": 120, "samples_per_class": 12, "epochs": 10, "epsilon": 0.1},
    "cifar10": {**_SMALL, "batch_size": 120, "samples_per_class": 12, "epochs": 30, "epsilon": 8 / 255},
    "omniglot": {**_SMALL, "batch_size": 112, "samples_per_class": 4, "epochs": 30, "epsilon": 0.1},
    # Seven classes.
    "pacs": {"samples_per_class": 16, "epochs": 50},
}
for _name in ("mnist", "fashion-mnist", "cifar10", "omniglot"):
    DATASET_DEFAULTS[_name]["attack_epsilons"] = (DATASET_DEFAULTS[_name]["epsilon"],)

# Sound, which has no pixels to attack. The rate is for a network from scratch.
for _name in ("voxceleb", "voxceleb2"):
    DATASET_DEFAULTS[_name] = {
        "arch": "xvector", "weights": "none", "learning_rate": 1e-3, "eval_attacks": (), "few_shot_ways": (),
    }  # fmt: skip

# Five classes train, of which validation takes two.
ZERO_SHOT_DEFAULTS: dict[str, dict[str, Any]] = {
    name: {"batch_size": 120, "samples_per_class": 40} for name in ("mnist", "fashion-mnist", "cifar10")
}

METHOD_ON_DATASET_DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    # A start of a tenth of ε, as in _EAT, wherever the data set has an ε of its own.
    (method, name): {"random_start": fields["epsilon"] / 10}
    for method in DEFENSES
    for name, fields in DATASET_DEFAULTS.items()
    if "epsilon" in fields
}

# Table 1. Small images: attacks as the published code has them, in training and, by FoolBox, in testing, whose steps
# are ε/30 from anywhere in the ball.
_MNIST: dict[str, Any] = {
    "arch": "lenet",
    "weights": "none",
    "embedding_dim": 50,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "epochs": 20,
    "epsilon": 0.3,
    "attack_steps": 40,
    "attack_step_size": 0.01,
    "random_start": 0.3,
    "adversarial_batch": "joint",
    "eval_attacks": ("pgd", "fgsm"),
    "attack_epsilons": (0.3,),
    "eval_steps": 40,
    "eval_sweep_steps": (100,),
    "eval_step_size": 0.01,
    "select_on": "last",
}
METHOD_ON_DATASET_DEFAULTS |= {
    ("prototypes", "mnist"): _MNIST,
    ("prototypes", "fashion-mnist"): _MNIST
    | {
        "epsilon": 0.1, "attack_step_size": 0.1 / 30, "random_start": 0.1, "attack_epsilons": (0.1,),
        "eval_step_size": 0.1 / 30,
    },
    ("prototypes", "cifar10"): {
        "arch": "wide_resnet34_10",
        "weights": "none",
        "embedding_dim": 640,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "epochs": 100,
        "epsilon": 20 / 255,
        "attack_steps": 10,
        "attack_step_size": 2 / 255,
        "random_start": 20 / 255,
        "eval_attacks": ("pgd", "fgsm"),
        "attack_epsilons": (8 / 255,),
        "eval_steps": 7,
        "eval_sweep_steps": (20,),
        "eval_step_size": 8 / 255 / 30,
        "select_on": "last",
    },
    ("prototypes", "pacs"): {"batch_size": 112},
    ("prototypes", "digits"): {"weight_decay": 0.0, "few_shot_ways": (5,), "verification_trials": 20_000},
}  # fmt: skip

# Both papers: images of 256 pixels, crops of 227; iterations instead of epochs.
_ITERATIONS = {"cub200": 5_000, "cub200-2010": 5_000, "cars196": 10_000, "sop": 20_000, "inshop": 20_000}
METHOD_ON_DATASET_DEFAULTS |= {
    (method, name): {
        "image_size": 227,
        "augment": "resize-crop-flip",
        "iterations": 20_000 if method == "daml" else iterations,
    }
    for method in ("ecaml", "daml", *BASELINES)
    for name, iterations in _ITERATIONS.items()
}


def defaults_for(
    method: str, dataset: str, protocol: str = "default", loss: str | None = None
) -> Mapping[str, Any]:  # fmt: skip
    """Return the defaults of a method on a data set under a protocol, over those of the schema.

    Args:
        method, dataset, protocol: as in the recipe.
        loss: the recipe's, where it is not the method's own.
    """
    chosen = loss or METHOD_DEFAULTS.get(method, {}).get("loss")
    confusion = {"energy_confusion": published_confusion(chosen, dataset)} if method == "ecaml" and chosen else {}
    return {
        **METHOD_DEFAULTS.get(method, {}),
        **DATASET_DEFAULTS.get(dataset, {}),
        **(ZERO_SHOT_DEFAULTS.get(dataset, {}) if protocol == "zero-shot" else {}),
        **METHOD_ON_DATASET_DEFAULTS.get((method, dataset), {}),
        **confusion,
    }
