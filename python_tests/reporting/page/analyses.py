"""Made-up analyses of runs, in the files that `run analyze` leaves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOP = 5
STAX = {"name": "stax", "epsilon": 0.1, "steps": 20, "step_size": 0.005, "norm": "linf", "targets": 1}


def arrays_of(
    images: NDArray[Any], labels: NDArray[Any], queries: int = 8, layers: int = 6, pairs: int = 3, seed: int = 0
) -> dict[str, NDArray[Any]]:
    """Arrays of all parts.

    Args:
        images: uint8 `[N, H, W, C]`.
        labels: int64 `[N]`, from 0.
        queries: half of them are drawn at random, half are broken by the attack.
        layers, pairs: of the norms; each layer has 8 channels.
        seed: of all that is made up.
    """
    random = np.random.default_rng(seed)
    rows = random.choice(len(images), queries, replace=False)
    signs = 0.1 * random.choice([-1.0, 1.0], images[rows].shape)
    clean = images[rows] / 255.0
    attacked = np.clip(clean + signs, 0, 1)
    same = np.stack([random.choice(np.flatnonzero(labels == labels[row]), TOP) for row in rows])
    other = np.stack([random.choice(np.flatnonzero(labels != labels[row]), TOP) for row in rows])
    other[:, 3] = same[:, 3]
    drawn = np.arange(queries) < queries // 2
    found = np.where(drawn[:, None] & (random.random((queries, 1)) < 0.6), same, other)
    similarity = -np.sort(-random.uniform(0.5, 1.0, (2, queries, TOP)))
    centers = random.normal(0, 12, (labels.max() + 1, 2))
    points = (centers[labels] + random.normal(0, 2, (len(labels), 2))).astype(np.float32)
    depth = np.repeat(np.arange(layers), 8)
    return {
        "map_clean": points,
        "map_attacked": points + random.normal(0, 5, points.shape).astype(np.float32),
        "map_class": labels.astype(np.int64),
        "sheet_query": images[rows],
        "sheet_attacked": (255 * attacked).round().astype(np.uint8),
        "sheet_perturbation": (attacked - clean).astype(np.float32),
        "sheet_query_class": labels[rows].astype(np.int64),
        "sheet_clean_top": images[same],
        "sheet_attacked_top": images[found],
        "sheet_clean_top_class": labels[same].astype(np.int64),
        "sheet_attacked_top_class": labels[found].astype(np.int64),
        "sheet_clean_similarity": similarity[0].astype(np.float32),
        "sheet_attacked_similarity": similarity[1].astype(np.float32),
        "sheet_random": drawn,
        "norm_layer": depth,
        "norm_gamma": random.normal(0.02, 0.05 * (1 + depth), (pairs, len(depth))).astype(np.float32),
        "norm_beta": random.normal(0, 0.02, (pairs, len(depth))).astype(np.float32),
    }


def facts_of(names: list[str], weights: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """The content of `analysis.json` for classes of these names, of the weights in a file."""
    digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights is not None and weights.is_file() else "0" * 64
    name = "last.pt" if weights is None else weights.name
    distributions = ["clean", "T1", "T5"]
    return {
        "format": 1,
        "weights": {"file": name, "step": 90, "sha256": digest},
        "seed": seed,
        "created": "2026-01-01T00:00:00",
        "seconds": {"map": 1.0, "sheets": 1.0, "norms": 0.1, "auxiliary": 0.1},
        "threat": STAX,
        "map": {
            "method": "t-SNE (openTSNE 1.0)", "perplexity": 30, "classes": names,
            "fitted_on": "clean and attacked together",
        },
        "sheets": {"top": TOP, "gallery": "clean", "gallery_images": 100, "class_names": names, "note": ""},
        "norms": {
            "distributions": distributions, "pairs": [[0, 1], [0, 2], [1, 2]],
            "layers": [f"blocks.{number}.norm" for number in range(6)],
        },
        "auxiliary": {
            "distributions": [
                {"name": name, "metrics": {"recall@1": 0.97 - 0.1 * place - 0.01 * seed}}
                for place, name in enumerate(distributions)
            ]
        },
    }  # fmt: skip


def noise(count: int = 60, side: int = 8, channels: int = 1, classes: int = 5) -> tuple[NDArray[Any], NDArray[Any]]:
    """Images of noise, `[count, side, side, channels]`, and their classes."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    return images, np.arange(count) % classes


def write_analysis(folder: Path, facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Write both files."""
    (folder / "analysis.json").write_text(json.dumps(facts), encoding="utf-8")
    np.savez(folder / "analysis.npz", **arrays)  # type: ignore[arg-type]
