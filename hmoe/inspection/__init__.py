"""Inspection: one look at a run that has been trained, and all that its organisation shows.

Reading order: run (from the folder to a model), observe (one pass), knowing (labels), routes (the
same weights with a node shut, or searched otherwise), over_time (moments and checkpoints), inspect
(all of it), study (runs side by side), words (a table for the terminal); generate (what a model of
text would write).
"""

from hmoe.inspection.generate import generate
from hmoe.inspection.inspect import inspect_run
from hmoe.inspection.run import TrainedRun, load_run
from hmoe.inspection.study import FOLDER, Inspected, inspect_study, known_inspections
from hmoe.inspection.words import print_inspection

__all__ = [
    "FOLDER",
    "Inspected",
    "TrainedRun",
    "generate",
    "inspect_run",
    "inspect_study",
    "known_inspections",
    "load_run",
    "print_inspection",
]
