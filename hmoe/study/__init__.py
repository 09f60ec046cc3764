"""A study: one question, its arms matched on a budget, searched in equal shares, one writer.

Reading order: spec and loading (the sweep file), registration, space (what is searched), contract
(arms of equal cost), samplers and pruning (who draws, who is stopped), search (Optuna), runner (the
loop), display.
"""

from hmoe.study.contract import PlannedArm, plan_arms
from hmoe.study.display import ProgressDisplay, plan_table, status_table
from hmoe.study.loading import SWEEPS, load_sweep
from hmoe.study.runner import SweepInterruptedError, run_sweep
from hmoe.study.search import best, check_search
from hmoe.study.spec import Sweep

__all__ = [
    "SWEEPS",
    "PlannedArm",
    "ProgressDisplay",
    "Sweep",
    "SweepInterruptedError",
    "best",
    "check_search",
    "load_sweep",
    "plan_arms",
    "plan_table",
    "run_sweep",
    "status_table",
]
