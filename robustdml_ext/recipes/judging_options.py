"""How a run is judged, where it is written, and what it runs on."""

from __future__ import annotations

from typing import Literal

from robustdml_ext.recipes.option_group import OptionGroup, option


class MachineOptions(OptionGroup):
    """Where the run is written and what it runs on. A resumed run may change these."""

    out: str | None = option(
        None,
        "Folder of the run. None: runs/DATASET-METHOD-LOSS-seedN, in the working directory.",
        neutral=True,
    )
    device: str = option("auto", "auto, cpu, cuda, or cuda:N.", neutral=True)
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto",
        "Arithmetic of training. auto: bfloat16 autocast on CUDA, float32 on the CPU. Judged is always in float32.",
    )
    workers: int = option(0, "Processes that read images ahead. 0: read in the training process.", neutral=True, ge=0)
    threads: int | None = option(None, "CPU threads of PyTorch. None: PyTorch's choice.", neutral=True, ge=1)
    save_every: int | None = option(
        None, "Steps between checkpoints. None: one at the end of each epoch.", neutral=True, ge=1
    )
    keep: int = option(0, "Older checkpoints to keep, as step-N.pt, beside last.pt.", neutral=True, ge=0)
    log_every: int = option(
        10, "Steps between lines of metrics.jsonl; each is the mean since the last.", neutral=True, ge=1
    )
    report: bool = option(False, "Write OUT/report.html at the end; `report` does so later.", neutral=True)
    tensorboard: bool = option(True, "Write the curves for TensorBoard too, in OUT/tensorboard.", neutral=True)


class EvaluationOptions(OptionGroup):
    """How the trained network is judged, on classes that it has not seen."""

    eval_attacks: tuple[str, ...] = option(
        ("stax", "mtax"),
        "The test attacks: stax (towards one target), mtax (towards several), away (from the clean embedding), or any "
        "other that `evaluate --help` names. For prototypes those of a classifier, each through each head: fgsm, pgd, "
        "apgd, apgd-margin, square-margin.",
        neutral=True,
    )
    attack_epsilons: tuple[float, ...] = option(
        (0.01,), "ε of the test attacks, in pixels. Each attack is run with each.", neutral=True, fraction=True
    )
    eval_steps: int = option(20, "Gradient steps of the test attacks (20: PGD-20).", neutral=True, ge=1)
    eval_sweep_steps: tuple[int, ...] = option(
        (), "Further numbers of gradient steps, each run at the first of attack_epsilons.", neutral=True
    )
    eval_step_size: float | None = option(
        None,
        "Size of one step of the test attacks, in pixels. None: ε / steps, as in the MDProp paper. Of prototypes: at "
        "the first ε, and in proportion at others; None: the larger of ε/30 and 2.5 ε / steps.",
        neutral=True,
        fraction=True,
        gt=0,
    )
    eval_random_start: float = option(
        0.0,
        "Radius of the noise that the test attacks start from, in pixels. 0: from the image, but for attacks that "
        "need a start, which then have their own, and for those on prototypes, which start anywhere in the ball.",
        neutral=True,
        fraction=True,
        ge=0,
    )
    eval_restarts: int = option(
        1, "Starts of the test attacks, the best of which counts; above 1 needs a random start.", neutral=True, ge=1
    )
    eval_keep_best: bool = option(
        False, "Judge each image's best iterate of the test attacks, in place of the last one.", neutral=True
    )
    eval_norm: Literal["linf", "l2"] = option("linf", "Norm that ε of the test attacks is measured in.", neutral=True)
    eval_mtax_targets: int = option(5, "Targets of the multi-targeted test attack (MTAX).", neutral=True, ge=1)
    eval_route: Literal["whole", "every"] = option(
        "whole",
        "How gradients of the test attacks reach an ensemble: whole, the sum of all members' gradients; every, also "
        "their average and each member's own, the worst of which counts for each query.",
        neutral=True,
    )
    judge_members: bool = option(False, "Judge each member of an ensemble by itself as well.", neutral=True)
    recall_at: tuple[int, ...] = option((1, 2, 4, 8), "The k of Recall@k.", neutral=True)
    evaluate_every: int = option(
        5,
        "Epochs between clean evaluations while training, of the classes that select_on names (of the test classes, "
        "for the curves alone, with last). What selects, and a run of so many iterations, is evaluated at the end "
        "too. 0: none.",
        neutral=True,
        ge=0,
    )
    evaluate_seen: bool = option(
        False,
        "Judge the training images too, clean and without augmentation, each searched among the others: at each "
        "evaluation while training (`seen` in metrics.jsonl) and at the end.",
        neutral=True,
    )
    evaluate_seen_images: int = option(
        10_000, "With evaluate_seen: how many training images at most, as many of each class.", neutral=True, ge=2
    )
    eval_batch_size: int = option(256, "Images in a batch of the evaluation.", neutral=True, ge=1)
