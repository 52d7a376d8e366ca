"""The options of a run, in readable groups; :class:`~robustdml_ext.recipes.Recipe` is their sum.

Each description here is the text that ``--help`` prints, so it says what the value does and in which unit.
"""

from __future__ import annotations

from typing import Literal

from robustdml_ext.recipes.defense_options import DefenseOptions
from robustdml_ext.recipes.judging_options import EvaluationOptions, MachineOptions
from robustdml_ext.recipes.option_group import OptionGroup, option
from robustdml_ext.recipes.prototype_options import PrototypeOptions
from robustdml_ext.recipes.regularizer_options import RegularizerOptions
from robustdml_ext.recipes.sound_options import SoundOptions


class DataOptions(OptionGroup):
    """Which images, and how they are read."""

    dataset: str = option(
        "digits", "Data set: digits (built in), sop, cub200, cars196, inshop, folder, ... `list` describes them."
    )
    root: str | None = option(
        None, "Folder that holds the data set, in its official layout. digits needs none.", neutral=True
    )
    image_size: int | None = option(
        None,
        "Side of the square images that the network sees, in pixels. None: what the data set calls for.",
        ge=1,
    )
    channels: Literal[1, 3] | None = option(None, "1 for gray, 3 for color. None: what the data set has.")
    augment: str = option(
        "default",
        "Training augmentation: crop-flip (a random crop of 8 % to 100 % of the area, flipped half of the time), "
        "resize-crop-flip (of ECAML and DAML: the whole image resized to a square, 256 for 227 pixels, and a random "
        "crop of it, flipped half of the time; test images are resized likewise), none, or default: crop-flip from 64 "
        "pixels on, and never for digits. Of sound: crop (a random stretch), noise-reverb (and noise, music, babble or "
        "a room, from musan and rirs), none, or default: noise-reverb where a folder for it is given.",
    )
    train_classes: str | None = option(
        None,
        "For folder: a text file with one class name a line; these are trained on, the rest is tested. "
        "None: the first half of the sorted class names trains.",
    )
    protocol: str = option(
        "default",
        "How the data set is split, where there is more than one published way (in-shop's query-only, the domain that "
        "pacs tests on, ...). `list` names them; the default is the first.",
    )
    cache: str = option(
        "default",
        "Decoded images: FOLDER keeps them resized in a memory-mapped file there, so that two cores can feed a GPU "
        "(random crops are then taken from the resized image); memory; none; default: memory where they are small.",
    )
    download: bool = option(
        False, "Get a data set that is not under --root from its official address, where it has one.", neutral=True
    )
    on_broken: Literal["error", "skip"] = option(
        "error",
        "What a truncated image does: error names it and stops, skip names it and goes on without it.",
    )


class ModelOptions(OptionGroup):
    """The network that turns an image into an embedding."""

    arch: str = option(
        "resnet50",
        "small and lenet (for small images), wide_resnetDEPTH_WIDTH (as wide_resnet34_10), bn_inception, or xvector "
        "(for sound), or any torchvision network; one with batch norm for advprop and mdprop.",
    )
    weights: str = option(
        "imagenet",
        "Starting weights: imagenet (downloaded by torchvision), none, or a FILE. With --arch small, lenet or a wide "
        "ResNet: none, unless a recipe or --weights says otherwise.",
    )
    embedding_dim: int = option(128, "Length D of the embedding.", ge=1)
    norm_noise: float = option(
        0.0, "Standard deviation of the noise added to the auxiliary norms' γ and β at the start (γ^k).", ge=0
    )
    freeze_norm: bool = option(
        False, "Keep the batch-norm statistics of the starting weights (Roth et al. do, for their baselines)."
    )
    dropout: float | None = option(
        None,
        "Probability with which each feature is dropped before the head in training; the architecture's own dropout is "
        "then off. None: the architecture as it is.",
        ge=0,
        lt=1,
    )
    unit_length: Literal["auto", "yes", "no"] = option(
        "auto",
        "Whether embeddings are scaled to length 1 in training. auto: yes, but not for npair, whose exponents are "
        "inner products, and prototypes, whose paper does not.",
    )


class LossOptions(OptionGroup):
    """The metric loss and its constants."""

    loss: Literal[
        "multisimilarity",
        "arcface",
        "contrastive",
        "triplet",
        "lifted",
        "npair",
        "binomial",
        "angular",
        "proxyanchor",
        "normalizedsoftmax",
        "prototypical",
    ] = option("multisimilarity", "Metric loss; prototypical is that of prototypes alone.")
    multisimilarity_alpha: float = option(2.0, "α: sharpness over positive pairs.", gt=0)
    multisimilarity_beta: float = option(40.0, "β: sharpness over negative pairs.", gt=0)
    multisimilarity_base: float = option(0.5, "λ: the similarity that separates positive from negative.")
    multisimilarity_epsilon: float = option(0.1, "ε: slack of the pair mining, in cosine similarity.", ge=0)
    arcface_margin: float = option(0.5, "γ: additive angular margin, in radians.", ge=0)
    arcface_scale: float = option(16.0, "s: radius of the sphere that the logits live on.", gt=0)
    arcface_center_lr: float = option(5e-4, "Learning rate of the class centers.", gt=0)
    contrastive_positive_margin: float = option(0.0, "Distance up to which a positive pair costs nothing.", ge=0)
    contrastive_negative_margin: float = option(1.0, "Distance from which on a negative pair costs nothing.", ge=0)
    triplet_margin: float = option(0.1, "m: by how much squared distances to negatives should be larger.", ge=0)
    triplet_mining: Literal["all", "semihard", "hardest"] = option("all", "Which triplets of the batch count.")
    npair_scale: float | None = option(
        None,
        "Length that embeddings are scaled to for the N-pair loss: 10 for ecaml and npair, as in the published code of "
        "ECAML. None: they stay as they are.",
        gt=0,
    )
    lifted_margin: float = option(1.0, "α: distance that negatives are pushed to.", ge=0)
    binomial_alpha: float = option(2.0, "α: sharpness.", gt=0)
    binomial_beta: float = option(0.5, "β: the similarity that separates positive from negative.")
    binomial_eta: float = option(25.0, "η: weight of negatives in the exponent.", gt=0)
    angular_alpha: float = option(45.0, "α: largest angle at a negative, in degrees.", gt=0, lt=90)
    proxyanchor_alpha: float = option(32.0, "α: sharpness.", gt=0)
    proxyanchor_margin: float = option(0.1, "δ: margin, in cosine similarity.", ge=0)
    softmax_temperature: float = option(0.05, "Temperature of the normalized softmax.", gt=0)
    proxy_lr_scale: float | None = option(
        None,
        "Learning rate of the proxies over the network's. None: the loss's own, 100 for proxyanchor and 1 for "
        "normalizedsoftmax.",
        gt=0,
    )


class AttackOptions(OptionGroup):
    """The adversarial examples that are trained on."""

    targets: tuple[int, ...] = option(
        (1, 5),
        "How many targets each adversarial distribution aims at: 1 is AdvProp-D, 3 is MP', 1 5 is MP'', "
        "1 3 5 is MP'''. One auxiliary norm is made per number. For adversarial: one number.",
    )
    epsilon: float = option(
        0.01,
        "ε of the training attack: largest change of a pixel, pixels being in [0, 1]. May be a fraction: 8/255.",
        fraction=True,
        ge=0,
    )
    attack_steps: int = option(1, "Gradient steps of the training attack.", ge=1)
    attack_step_size: float | None = option(None, "Size of one step, in pixels. None: ε / steps.", fraction=True, gt=0)
    random_start: float = option(
        5e-4,
        "Half width of the uniform noise that the training attack starts from, in pixels. The MDProp paper does not "
        "say; 5e-4 is its published code's. An attack away from the clean embedding needs one above 0.",
        fraction=True,
        ge=0,
    )
    targets_from: Literal["start", "clean"] = option(
        "start",
        "Where the targets are embedded: start, by the attack's own first pass, at no cost; clean, by a pass "
        "of its own over the images without the random start.",
    )
    joint_loss: bool = option(
        False,
        "One loss over the clean and adversarial batches put together, as the published code has it, "
        "in place of one loss per distribution, as the paper has it (equation 5).",
    )


class TrainingOptions(OptionGroup):
    """The optimization."""

    batch_size: int = option(112, "Images in a batch, over all processes together.", ge=2)
    samples_per_class: int = option(2, "Images of each class in a batch (K of P×K).", ge=1)
    epochs: int = option(
        150,
        "Passes over the training images. A finished run resumes with more, but for one with a cosine schedule, which "
        "ends with them.",
        neutral=True,
        ge=0,
    )
    iterations: int | None = option(
        None,
        "Optimizer steps in all, in place of epochs, where papers count in them; the last epoch is then cut short. A "
        "finished run resumes with more, as with epochs. None: as many as epochs make.",
        neutral=True,
        ge=1,
    )
    learning_rate: float = option(1e-5, "Learning rate, from which the schedule starts.", gt=0)
    head_lr_scale: float = option(
        1.0, "Learning rate of the embedding head over the network's. 10 in the ECAML and DAML papers.", gt=0
    )
    schedule: Literal["none", "cosine", "step"] = option(
        "none",
        "How the learning rates fall: none, they stay; cosine, along half a cosine to 0 at the last epoch; step, by "
        "schedule_gamma every schedule_step epochs.",
    )
    schedule_step: int = option(60, "Epochs between two steps of the schedule.", ge=1)
    schedule_gamma: float = option(0.3, "Factor that a step of the schedule multiplies by.", gt=0, le=1)
    weight_decay: float = option(4e-4, "Weight decay.", ge=0)
    optimizer: Literal["adam", "adamw", "sgd"] = option("adam", "Optimizer. sgd has momentum 0.9.")
    seed: int = option(0, "Seed of everything drawn: weights, batches, augmentation, targets.", ge=0)
    select_on: Literal["validation", "test", "last"] = option(
        "validation",
        "Which weights are judged: those with the best clean Recall@1 on validation classes, held out of the training "
        "classes (validation); on the TEST classes (test: optimistic, and recorded in the result); or, of all training "
        "classes, those of the last step (last).",
    )
    validation_share: float = option(
        0.15,
        "Share of the training classes that validation holds out, at least 2; where train and test have the same "
        "classes, of each class's images. A data set's own validation split goes first.",
        gt=0,
        lt=1,
    )


GROUPS: tuple[type[OptionGroup], ...] = (
    DataOptions,
    SoundOptions,
    ModelOptions,
    LossOptions,
    RegularizerOptions,
    AttackOptions,
    DefenseOptions,
    PrototypeOptions,
    TrainingOptions,
    EvaluationOptions,
    MachineOptions,
)
