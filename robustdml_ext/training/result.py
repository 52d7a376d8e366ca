"""The end of a run: judge the network on unseen classes, clean and attacked, and write down everything."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from robustdml_ext.data import DataSplits, LabeledImages, choose_evenly
from robustdml_ext.evaluation import ATTACKS, ThreatModel, embed, evaluate, judge_threats
from robustdml_ext.evaluation.score import json_ready
from robustdml_ext.evaluation.threats import standard_threat
from robustdml_ext.methods import Method, Prototypes
from robustdml_ext.models import Embedder, EmbedderEnsemble
from robustdml_ext.recipes import Published, Recipe
from robustdml_ext.training import folder as names
from robustdml_ext.training.batches import judging_batches
from robustdml_ext.training.checkpoint import load_checkpoint, write_atomically, write_classifier
from robustdml_ext.training.environment import describe_environment
from robustdml_ext.training.precision import Precision
from robustdml_ext.training.state import describe_recipe, load_weights
from robustdml_ext.training.summary import TrainingSummary
from robustdml_ext.training.task_result import judge_prototypes


def evaluate_clean(
    network: nn.Module,
    images: LabeledImages,
    recipe: Recipe,
    precision: Precision,
    gallery: LabeledImages | None = None,
    chosen: Sequence[int] | None = None,
) -> dict[str, float]:
    """Return the clean figures of a network on ``images``, searched in ``gallery`` if there is one, as fractions.

    Of the ``images`` those at ``chosen`` alone, where that is given.

    In float32, whatever the training's arithmetic is, so that figures of different machines are comparable.
    """
    embeddings, labels = embed(network, judging_batches(images, recipe, precision, chosen), precision.device)
    items, item_labels = None, None
    if gallery is not None:
        items, item_labels = embed(network, judging_batches(gallery, recipe, precision), precision.device)
    return evaluate(
        embeddings,
        labels,
        gallery=items,
        gallery_labels=item_labels,
        recall_at=recipe.recall_at,
        seed=recipe.seed,
        device=precision.device,
        voters=getattr(network, "voters", None),
    )


def evaluate_seen(network: nn.Module, train: LabeledImages, recipe: Recipe, precision: Precision) -> dict[str, float]:
    """Return the clean figures on the images trained on, without augmentation, each searched among the others.

    On at most ``recipe.evaluate_seen_images`` of them, as many of each class, the same ones every time.
    """
    return evaluate_clean(network, train, recipe, precision, chosen=_seen(train, recipe))


def _seen(train: LabeledImages, recipe: Recipe) -> list[int]:
    return choose_evenly(train.labels, recipe.evaluate_seen_images, recipe.seed)


def threat_models(recipe: Recipe) -> list[ThreatModel]:
    """Return the attacks to be judged under, by default STAX and MTAX at each ε, white-box PGD in float32.

    Then those of the first ε with other numbers of steps.
    """
    radii, counts = recipe.attack_epsilons, [n for n in recipe.eval_sweep_steps if n != recipe.eval_steps]
    cases = [(epsilon, recipe.eval_steps) for epsilon in radii] + [
        (epsilon, n) for epsilon in radii[:1] for n in counts
    ]
    return [_threat(recipe, name, epsilon, steps) for name in recipe.eval_attacks for epsilon, steps in cases]


def _threat(recipe: Recipe, name: str, epsilon: float, steps: int) -> ThreatModel:
    fields: dict[str, Any] = {
        "norm": recipe.eval_norm,
        "restarts": recipe.eval_restarts,
        "route": "every" if recipe.eval_route == "every" and not ATTACKS[name].black_box else "whole",
    }
    if recipe.eval_random_start > 0:
        fields["random_start"] = recipe.eval_random_start
    if ATTACKS[name].algorithm == "pgd":
        fields |= {"step_size": recipe.eval_step_size, "keep_best": recipe.eval_keep_best}
    if name == "mtax":
        fields["targets"] = recipe.eval_mtax_targets
    return standard_threat(name, epsilon, steps=steps, **fields)


def judge(
    network: nn.Module, splits: DataSplits, recipe: Recipe, precision: Precision, console: Console
) -> list[dict[str, Any]]:
    """Return what `evaluation.judge_threats` gives for the test images: clean figures, and those under every attack."""
    gallery = None if splits.gallery is None else judging_batches(splits.gallery, recipe, precision)
    with console.status("judging") as status:
        return judge_threats(
            network,
            judging_batches(splits.test, recipe, precision),
            threat_models(recipe),
            gallery=gallery,
            seed=recipe.seed,
            recall_at=recipe.recall_at,
            device=precision.device,
            progress=lambda what, number, total: status.update(f"judging under attack {number} of {total}: {what}"),
        )


def finish_run(
    method: Method,
    splits: DataSplits,
    recipe: Recipe,
    published: Published | None,
    folder: Path,
    precision: Precision,
    summary: TrainingSummary,
    console: Console,
) -> dict[str, Any]:
    """Judge the chosen weights and write ``result.json`` and ``backbone.pt``.

    The weights are those of the last step, or, unless ``select_on`` is last, those of ``best.pt``.

    Returns:
        The content of ``result.json``.
    """
    if recipe.selects:
        best = folder / names.BEST
        load_weights(method, load_checkpoint(best)["method"], str(best))
    network = method.embedder
    network.eval()
    if isinstance(method, Prototypes):
        save_classifier(method, splits, recipe, precision, summary, folder)
        found = judge_prototypes(method, splits, recipe, precision, console)
    else:
        found = judge(network, splits, recipe, precision, console)
    result: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "published": None if published is None else published.model_dump(mode="json"),
        "data": {"protocol": splits.protocol, "zero_shot": splits.zero_shot},
        "results": json_ready(found),
        **_seen_entry(network, splits.train, recipe, precision),
        **_members(network, splits, recipe, precision, console),
        "weights": {
            "chosen": "best" if recipe.selects else "last",
            "selected_on": recipe.select_on if recipe.selects else None,
            "best": summary.best,
        },
        "seeds": {"training": recipe.seed, "attacks": recipe.seed, "clustering": recipe.seed},
        "precision": precision.name,
        "device": str(precision.device),
        "timing": summary.timing(),
        "backbone": save_backbone(network, recipe, folder),
        "environment": describe_environment(),
    }
    judged = [result["results"], *result.get("members", [])]
    judged += [[result["seen"]]] if "seen" in result else []
    result["timing"]["judging_seconds"] = sum(entry["seconds"] for entries in judged for entry in entries)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / names.RESULT, lambda file: file.write(text.encode()))
    return result


def _seen_entry(network: nn.Module, train: LabeledImages, recipe: Recipe, precision: Precision) -> dict[str, Any]:
    """The clean figures of the images trained on, where they are asked for, and of how many images they are."""
    if not recipe.evaluate_seen:
        return {}
    began = time.perf_counter()
    metrics, chosen = evaluate_seen(network, train, recipe, precision), _seen(train, recipe)
    entry: dict[str, Any] = {"threat": None, "metrics": metrics, "images": len(chosen), "of_images": len(train)}
    entry |= {"classes": len(train.labels[chosen].unique()), "seconds": time.perf_counter() - began}
    return {"seen": json_ready(entry)}


def _members(
    network: nn.Module, splits: DataSplits, recipe: Recipe, precision: Precision, console: Console
) -> dict[str, Any]:
    """Each member of an ensemble by itself (figure 4 of EAT), where that is asked for."""
    if not recipe.judge_members or not isinstance(network, EmbedderEnsemble):
        return {}
    return {"members": [json_ready(judge(one, splits, recipe, precision, console)) for one in network.embedders]}


def save_backbone(network: Embedder | EmbedderEnsemble, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Write the plain network's state dict as ``backbone.pt``, or each member's; return what its user must know."""
    plain = network.export()
    files = [names.BACKBONE] if isinstance(network, Embedder) else _member_files(network)
    for name, one in zip(files, plain if isinstance(plain, list) else [plain], strict=True):
        state = {key: value.cpu().contiguous() for key, value in one.state_dict().items()}
        write_atomically(folder / name, lambda file, state=state: torch.save(state, file))  # type: ignore[misc]
    return {
        **({"file": files[0]} if isinstance(network, Embedder) else {"files": files, "inference": network.inference}),
        "arch": recipe.arch,
        "num_classes": network.embedding_dim,
        "mean": network.mean.flatten().tolist(),
        "std": network.std.flatten().tolist(),
        "use": "load into the plain architecture with num_classes outputs (aux_logits and transform_input False, where "
        "it has these options); normalize pixels of [0, 1] by mean and std; scale the outputs to unit length",
    }


def save_classifier(
    method: Prototypes,
    splits: DataSplits,
    recipe: Recipe,
    precision: Precision,
    summary: TrainingSummary,
    folder: Path,
) -> None:
    """Write ``classifier.pt``: encoder, similarity, prototypes and their classes' names; classes can be added to it."""
    state = {
        "recipe": describe_recipe(recipe, precision),
        "step": summary.steps,
        "method": {name: value.cpu() for name, value in method.state_dict().items()},
        "class_names": list(splits.train.class_names),
        "image_size": splits.image_size,
        "channels": splits.channels,
    }
    path = folder / names.CLASSIFIER
    if path.is_file():
        _keep_added_classes(state, load_checkpoint(path))
    write_classifier(path, state)


def _keep_added_classes(state: dict[str, Any], before: dict[str, Any]) -> None:
    """Take over the classes that were added to the same weights: a finished run that is judged again keeps them."""
    name, known = "loss.heads.prototypes", len(state["class_names"])
    prototypes, added = state["method"][name], before["method"].get(name)
    others = [key for key in state["method"] if key != name]
    if (
        before.get("class_names", [])[:known] == state["class_names"]
        and added is not None
        and torch.equal(added[:known], prototypes)
        and all(torch.equal(before["method"].get(key, prototypes), state["method"][key]) for key in others)
    ):
        state["method"][name], state["class_names"] = added, before["class_names"]


def _member_files(network: EmbedderEnsemble) -> list[str]:
    stem, _, ending = names.BACKBONE.rpartition(".")
    return [f"{stem}-{number}.{ending}" for number in range(1, len(network.members) + 1)]
