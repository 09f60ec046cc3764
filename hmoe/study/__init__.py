"""A study: one question, its arms matched on a budget, searched in equal shares, one writer.

Reading order: spec and loading (the sweep file), registration, invocations, space (what is
searched), contract (arms of equal budget), faults, job, samplers and pruning (who draws, who is
stopped), search (Optuna), drift (a search that breaks the contract), vetting (one that means
something else), plan (what it will take), runner (the loop), confirm, standing (how far it is),
live and display.
"""

from hmoe.study.confirm import plan_confirmation, run_confirmation
from hmoe.study.contract import PlannedArm
from hmoe.study.display import confirmation_table, plan_table
from hmoe.study.faults import plan_arms
from hmoe.study.live import ProgressDisplay, show_status
from hmoe.study.loading import SWEEPS, load_sweep
from hmoe.study.plan import Plan, plan_sweep, planned_arms
from hmoe.study.runner import SweepInterruptedError, run_sweep
from hmoe.study.search import best, check_search
from hmoe.study.spec import Sweep
from hmoe.study.standing import Standings

__all__ = [
    "SWEEPS",
    "Plan",
    "PlannedArm",
    "ProgressDisplay",
    "Standings",
    "Sweep",
    "SweepInterruptedError",
    "best",
    "check_search",
    "confirmation_table",
    "load_sweep",
    "plan_arms",
    "plan_confirmation",
    "plan_sweep",
    "plan_table",
    "planned_arms",
    "run_confirmation",
    "run_sweep",
    "show_status",
]
