"""One LightningModule, one train(cfg), and children that run it in processes of their own."""

from hmoe.training.checkpoints import whole
from hmoe.training.child import Child, start_server, write_failure
from hmoe.training.em import fit
from hmoe.training.folder import CONFIG, changed_settings, held
from hmoe.training.learner import Learner, stretches
from hmoe.training.moments import MOMENTS, moment_files, read_moment
from hmoe.training.options import AdamW, TrainerOptions
from hmoe.training.probe import Probe, probe, shortened
from hmoe.training.process import keep_memory, spared_collection
from hmoe.training.progress import EpochBar
from hmoe.training.repro import Check, check_run
from hmoe.training.tasks import Task, competitive, mean_of, own
from hmoe.training.train import (
    Parts,
    assemble,
    make_trainer,
    provenance,
    tokens_per_step,
    train,
    validation_metrics,
)

__all__ = [
    "CONFIG",
    "MOMENTS",
    "AdamW",
    "Check",
    "Child",
    "EpochBar",
    "Learner",
    "Parts",
    "Probe",
    "Task",
    "TrainerOptions",
    "assemble",
    "changed_settings",
    "check_run",
    "competitive",
    "fit",
    "held",
    "keep_memory",
    "make_trainer",
    "mean_of",
    "moment_files",
    "own",
    "probe",
    "provenance",
    "read_moment",
    "shortened",
    "spared_collection",
    "start_server",
    "stretches",
    "tokens_per_step",
    "train",
    "validation_metrics",
    "whole",
    "write_failure",
]
