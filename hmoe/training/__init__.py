"""One LightningModule, one train(cfg), and children that run it in processes of their own."""

from hmoe.training.child import Child
from hmoe.training.options import AdamW, TrainerOptions
from hmoe.training.train import Parts, assemble, provenance, train

__all__ = ["AdamW", "Child", "Parts", "TrainerOptions", "assemble", "provenance", "train"]
