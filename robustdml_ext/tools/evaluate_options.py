"""The options of `run evaluate`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import tyro

from robustdml_ext.evaluation import ATTACKS, CLASS_ATTACKS, CORRUPTIONS, GROUPS, STANDARD
from robustdml_ext.evaluation.class_threats import STRONG

Words = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """What is judged."""

    model: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(
            help="A run's folder or checkpoint; a torchvision architecture (with --weights); or "
            "package.module:factory, which returns an nn.Module from pixels of [0, 1] to embeddings."
        ),
    ]
    weights: Annotated[
        str | None, tyro.conf.arg(help="Of an architecture: imagenet (the default), none, or a state dict's FILE.")
    ] = None
    embedding: Annotated[
        Literal["auto", "features", "output"],
        tyro.conf.arg(help="Of an architecture: what is the embedding. auto: features of an ImageNet classifier."),
    ] = "auto"
    others: Annotated[
        Words, tyro.conf.arg(help="More models, named as the first, which answer together with it as one ensemble.")
    ] = ()
    inference: Annotated[
        Literal["vote", "average", "concatenate"] | None,
        tyro.conf.arg(help="How an ensemble answers. None: as it was trained, or by vote with --others."),
    ] = None
    surrogate: Annotated[
        str | None, tyro.conf.arg(help="Another model, named as the first, whose attacks are transferred.")
    ] = None


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """On which images."""

    dataset: Annotated[str | None, tyro.conf.arg(help="See `list`. None: what the checkpoint was trained on.")] = None
    root: Annotated[str | None, tyro.conf.arg(help="Folder of the data set. None: the checkpoint's.")] = None
    protocol: Annotated[str | None, tyro.conf.arg(help="How the data set is split, see `list`.")] = None
    split: Annotated[Literal["test", "validation", "train"], tyro.conf.arg(help="Which images are judged.")] = "test"
    limit: Annotated[int | None, tyro.conf.arg(help="Judge this many images only, taken evenly.")] = None
    image_size: Annotated[int | None, tyro.conf.arg(help="Side in pixels. None: the checkpoint's or data set's.")] = (
        None
    )
    channels: Annotated[Literal[1, 3] | None, tyro.conf.arg(help="None: the model's or the data set's.")] = None
    train_classes: Annotated[str | None, tyro.conf.arg(help="Of folder, as in training.")] = None
    on_broken: Annotated[Literal["error", "skip"], tyro.conf.arg(help="What a broken image does.")] = "error"
    cache: Annotated[str, tyro.conf.arg(help="Decoded images: default, memory, none, or a FOLDER.")] = "default"
    download: Annotated[bool, tyro.conf.arg(help="Get the data set, where it has an official address.")] = False


@dataclasses.dataclass(frozen=True)
class JudgmentOptions:
    """By which figures, and under what."""

    recall_at: Annotated[tuple[int, ...], tyro.conf.arg(help="The k of Recall@k.")] = (1, 2, 4, 8)
    metrics: Annotated[
        Words,
        tyro.conf.arg(
            help=f"Groups of figures, of images that are clean, corrupted, or attacked on both sides: all, default, or "
            f"some of {', '.join(GROUPS)}."
        ),
    ] = ("all",)
    attacks: Annotated[
        Words,
        tyro.conf.arg(
            help=f"standard ({', '.join(STANDARD)}), none, or some of {', '.join(ATTACKS)}. Of the task "
            f"classification: standard (fgsm, pgd), strong ({', '.join(STRONG)}), none, or some of "
            f"{', '.join(CLASS_ATTACKS)}."
        ),
    ] = ("standard",)
    epsilons: Annotated[
        Words | None,
        tyro.conf.arg(
            help="ε in pixels of [0, 1], as 0.03 or 8/255. None: the checkpoint's test attacks', or 8/255 (in l2 0.25 "
            "0.5 1)."
        ),
    ] = None
    norm: Annotated[
        Literal["linf", "l2"] | None, tyro.conf.arg(help="Norm of ε. None: the checkpoint's test attacks', or linf.")
    ] = None
    steps: Annotated[
        int, tyro.conf.arg(help="Gradient steps of an attack; square attacks make 200 queries instead.")
    ] = 20
    restarts: Annotated[int, tyro.conf.arg(help="Random starts of an attack, the best of which counts.")] = 1
    corruptions: Annotated[
        Words,
        tyro.conf.arg(help=f"Common corruptions at 5 severities: none, all, or some of {', '.join(CORRUPTIONS)}."),
    ] = ("none",)
    checks: Annotated[
        bool, tyro.conf.arg(help="Look for masked gradients: black box, more steps, larger ε, finite losses.")
    ] = True
    seed: Annotated[int, tyro.conf.arg(help="Of targets, starts, candidates, clusters and noise.")] = 0


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """What the model is asked to do, other than the suite's retrieval under attack."""

    task: Annotated[
        tuple[Literal["suite", "classification", "few-shot", "verification", "retrieval"], ...],
        tyro.conf.arg(
            help="suite: retrieval by the embeddings, with every option above. classification: of a checkpoint of "
            "prototypes, each head clean and attacked through itself. few-shot, verification, retrieval: by the "
            "scorers below, of any model."
        ),
    ] = ("suite",)
    scorers: Annotated[
        Words | None,
        tyro.conf.arg(
            help="How two embeddings are compared: similarity (learned), cosine, sum (of both), published-sum. None: "
            "the first three of a checkpoint of prototypes, and cosine of any other model."
        ),
    ] = None
    heads: Annotated[
        tuple[Literal["similarity", "dense"], ...] | None,
        tyro.conf.arg(help="Of classification: which heads. None: those that were trained."),
    ] = None
    step_size: Annotated[
        str | None,
        tyro.conf.arg(
            help="Of classification's pgd, in pixels, as 0.01 or 2/255. None: the larger of ε/30 and 2.5 ε / steps."
        ),
    ] = None
    ways: Annotated[tuple[int, ...], tyro.conf.arg(help="Of few-shot: how many classes an episode has.")] = (5,)
    shots: Annotated[tuple[int, ...], tyro.conf.arg(help="Of few-shot: how many examples of each class.")] = (1, 5)
    queries: Annotated[int, tyro.conf.arg(help="Of few-shot: how many images of each class are classified.")] = 15
    episodes: Annotated[int, tyro.conf.arg(help="Of few-shot: how many episodes of a kind.")] = 600
    trials: Annotated[
        Words,
        tyro.conf.arg(
            help="Of verification: how many random pairs, half of them of one class; all; or some of the data set's "
            "lists of trials. None named: its lists, where it has any, or else 100000."
        ),
    ] = ()
    symmetric: Annotated[
        bool, tyro.conf.arg(help="Of verification: score each pair in both orders, and take their mean.")
    ] = False


@dataclasses.dataclass(frozen=True)
class PlaceOptions:
    """Where it runs, and what it writes."""

    out: Annotated[
        str | None,
        tyro.conf.arg(
            help="Folder of result.json. None: RUN/evaluation-DATASET-SPLIT, or evaluations/MODEL-DATASET-SPLIT."
        ),
    ] = None
    overwrite: Annotated[bool, tyro.conf.arg(help="Replace the result that is there.")] = False
    device: Annotated[str, tyro.conf.arg(help="auto, cpu, cuda, or cuda:N.")] = "auto"
    batch_size: Annotated[int, tyro.conf.arg(help="Images in a batch.")] = 256
    workers: Annotated[int, tyro.conf.arg(help="Processes that read images ahead.")] = 0
    threads: Annotated[int | None, tyro.conf.arg(help="CPU threads of PyTorch.")] = None
    debug: Annotated[bool, tyro.conf.arg(help="Show the traceback of an error.")] = False


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Judge a model as its users would be hurt: clean, corrupted, and under every attack of the suite.

    For example:

    python -m robustdml_ext.run evaluate runs/digits-mdprop-1-5-multisimilarity-seed0

    python -m robustdml_ext.run evaluate resnet50 --dataset cub200 --root DIR --attacks stax out --epsilons 8/255

    python -m robustdml_ext.run evaluate runs/mnist-prototypes-seed0 --task classification --attacks strong

    python -m robustdml_ext.run evaluate my_package.my_module:build --dataset folder --root DIR --corruptions all
    """

    subject: ModelOptions
    images: ImageOptions = ImageOptions()
    judgment: JudgmentOptions = JudgmentOptions()
    tasks: TaskOptions = TaskOptions()
    place: PlaceOptions = PlaceOptions()
