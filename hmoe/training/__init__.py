"""One LightningModule, one train(cfg), and children that run it in processes of their own."""

from hmoe.training.child import Child
from hmoe.training.learner import Learner
from hmoe.training.options import AdamW, TrainerOptions
from hmoe.training.train import Parts, assemble, make_trainer, provenance, train

__all__ = [
    "AdamW",
    "Child",
    "Learner",
    "Parts",
    "TrainerOptions",
    "assemble",
    "make_trainer",
    "provenance",
    "train",
]
