"""The classics as they were first trained: the mixture as a statistical model, fitted by EM.

Reading order: hme.py (the model and its E-step), irls.py (the two fits of an M-step), em.py."""

from hmoe.classics.em import EmOptions, em_step, start
from hmoe.classics.hme import Hme, posteriors, with_constant
from hmoe.classics.irls import least_squares

__all__ = [
    "EmOptions",
    "Hme",
    "em_step",
    "least_squares",
    "posteriors",
    "start",
    "with_constant",
]
