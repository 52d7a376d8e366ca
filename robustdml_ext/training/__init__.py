"""Training: the loop, checkpoints, precision, processes, and the judgment at the end."""

from __future__ import annotations

from robustdml_ext.training.batches import TrainingBatches
from robustdml_ext.training.environment import describe_environment
from robustdml_ext.training.errors import (
    CheckpointError,
    InterruptedRunError,
    NonFiniteLossError,
    RunRefusedError,
)
from robustdml_ext.training.job import Job
from robustdml_ext.training.loop import Trainer
from robustdml_ext.training.precision import Precision, choose_precision
from robustdml_ext.training.processes import Processes, start_processes, stop_processes
from robustdml_ext.training.summary import TrainingSummary

__all__ = [
    "CheckpointError",
    "InterruptedRunError",
    "Job",
    "NonFiniteLossError",
    "Precision",
    "Processes",
    "RunRefusedError",
    "Trainer",
    "TrainingBatches",
    "TrainingSummary",
    "choose_precision",
    "describe_environment",
    "start_processes",
    "stop_processes",
]
