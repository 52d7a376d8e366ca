"""Data sets in official layouts, zero-shot splits, samplers, loaders; pixels are in [0, 1], sound is filter banks.

What is named here is imported when it is first asked for, so that the names of data sets cost no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from robustdml_ext.data.names import NAMES

if TYPE_CHECKING:
    from robustdml_ext.data.catalog import Probe, check_classes, is_sound, load, look_for, probe, protocols
    from robustdml_ext.data.errors import BrokenImageError, DataError
    from robustdml_ext.data.loader import EpochLoader, EvaluationBatches, augmentation_keys, evaluation_batches
    from robustdml_ext.data.options import SoundOptions
    from robustdml_ext.data.samplers import PKSampler
    from robustdml_ext.data.splits import DataSplits, LabeledImages, TrialPairs
    from robustdml_ext.data.subset import choose_evenly
    from robustdml_ext.data.validation import hold_out

__all__ = [
    "NAMES",
    "BrokenImageError",
    "DataError",
    "DataSplits",
    "EpochLoader",
    "EvaluationBatches",
    "LabeledImages",
    "PKSampler",
    "Probe",
    "SoundOptions",
    "TrialPairs",
    "augmentation_keys",
    "check_classes",
    "choose_evenly",
    "evaluation_batches",
    "hold_out",
    "is_sound",
    "load",
    "look_for",
    "probe",
    "protocols",
]

_MODULES = {
    "Probe": "catalog",
    "check_classes": "catalog",
    "is_sound": "catalog",
    "load": "catalog",
    "look_for": "catalog",
    "probe": "catalog",
    "protocols": "catalog",
    "BrokenImageError": "errors",
    "DataError": "errors",
    "EpochLoader": "loader",
    "EvaluationBatches": "loader",
    "augmentation_keys": "loader",
    "evaluation_batches": "loader",
    "SoundOptions": "options",
    "PKSampler": "samplers",
    "DataSplits": "splits",
    "LabeledImages": "splits",
    "TrialPairs": "splits",
    "choose_evenly": "subset",
    "hold_out": "validation",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
