"""What `run analyze` leaves in a run's folder: the embedding map, retrieval sheets and norms, read with care."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = 1
FACTS, ARRAYS = "analysis.json", "analysis.npz"

# Why there is no analysis where none can be expected.
NOT_ANALYZED, NOT_ENDED, NOT_A_RUN = (
    "it was not analyzed",
    "its training has not ended",
    "it is an evaluation, not a run",
)

# The arrays of each part; all of a part have one length.
_PARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "map": (("map_clean", "map_attacked", "map_class"),),
    "sheets": (
        ("sheet_query", "sheet_attacked", "sheet_perturbation", "sheet_query_class", "sheet_clean_top",
         "sheet_attacked_top", "sheet_clean_top_class", "sheet_attacked_top_class", "sheet_clean_similarity",
         "sheet_attacked_similarity", "sheet_random"),
    ),
    "norms": (("norm_layer",), ("norm_gamma", "norm_beta")),
    "auxiliary": (),
}  # fmt: skip
_DIMENSIONS = {"sheet_query": 4, "sheet_attacked": 4, "sheet_perturbation": 4, "sheet_clean_top": 5,
               "sheet_attacked_top": 5}  # fmt: skip


class AnalysisError(ValueError):
    """An analysis that is missing, broken, or of other weights. The message is for the page's reader."""


@dataclass(frozen=True)
class Analysis:
    """A run's analysis.

    Attributes:
        facts: the content of ``analysis.json``.
        arrays: those of ``analysis.npz``.
    """

    facts: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    def part(self, name: str) -> Mapping[str, Any]:
        """Return what is said of ``map``, ``sheets``, ``norms`` or ``auxiliary``, after its arrays were looked at.

        Raises:
            AnalysisError: it was left out, with the reason; or its arrays are not there, or do not fit together.
        """
        facts = self.facts.get(name)
        if not isinstance(facts, dict):
            raise AnalysisError(f"{FACTS} says nothing of it")
        if "missing" in facts:
            raise AnalysisError(str(facts["missing"]))
        for alike in _PARTS[name]:
            absent = [array for array in alike if array not in self.arrays]
            if absent:
                raise AnalysisError(f"{ARRAYS} lacks {', '.join(absent)}")
            if len({len(self.arrays[array]) for array in alike}) > 1:
                raise AnalysisError(f"{ARRAYS} has different lengths of {', '.join(alike)}")
            for array in alike:
                if self.arrays[array].ndim != _DIMENSIONS.get(array, self.arrays[array].ndim):
                    shape = list(self.arrays[array].shape)
                    raise AnalysisError(f"{ARRAYS}: {array} has the shape {shape}, not {_DIMENSIONS[array]} dimensions")
        return facts


def read_analysis(folder: Path, judged: str | None = None) -> Analysis:
    """Return the analysis in a run's folder.

    Args:
        folder: of the run.
        judged: name of the weights that the run's result judged; None where that is not known.

    Raises:
        AnalysisError: there is none, it cannot be read, or the run's weights are others by now.
    """
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            found = facts.get("format") if isinstance(facts, dict) else None
            raise AnalysisError(f"{FACTS} has the format {found!r}; this version reads {FORMAT}")
        weights = facts["weights"]
        _check_weights(folder, str(weights["file"]), str(weights["sha256"]), judged)
        arrays: dict[str, NDArray[Any]] = {}
        if (folder / ARRAYS).is_file():
            with np.load(folder / ARRAYS, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise AnalysisError(NOT_ANALYZED) from None
    except AnalysisError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise AnalysisError(f"its analysis cannot be read ({type(error).__name__}: {error})") from None
    return Analysis(facts, arrays)


def judged_weights(result: Mapping[str, Any] | None) -> str | None:
    """Return the name of the weights that a result judged, where it says so."""
    chosen = ((result or {}).get("weights") or {}).get("chosen")
    return None if chosen is None else f"{chosen}.pt"


def _check_weights(folder: Path, name: str, digest: str, judged: str | None) -> None:
    if judged is not None and name != judged:
        raise AnalysisError(f"its analysis is of {name}, and its result of {judged}")
    file = folder / Path(name).name
    # A folder that was brought here without its weights has no others that its analysis could be of.
    if file.is_file():
        found = hashlib.sha256()
        with open(file, "rb") as content:
            while block := content.read(1 << 20):
                found.update(block)
        if found.hexdigest() != digest:
            raise AnalysisError(f"its analysis is of other weights than {name} holds by now")
