"""Data sets in official layouts, zero-shot splits, samplers, loaders; pixels are in [0, 1], sound is filter banks."""

from __future__ import annotations

from robustdml_ext.data.catalog import NAMES, Probe, check_classes, is_sound, load, look_for, probe, protocols
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
