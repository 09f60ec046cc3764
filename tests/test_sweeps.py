"""sweeps/: every file loads, its arms meet its contract, and its first trials compose."""

from collections.abc import Callable
from functools import cache

import optuna
import pytest
from omegaconf import OmegaConf

from hmoe.config import compose, key_of, keys, parse
from hmoe.models import cost
from hmoe.study import SWEEPS, PlannedArm, Sweep, load_sweep, plan_arms
from hmoe.training import assemble

NAMES = sorted(file.stem for file in SWEEPS.glob("*.yaml"))

optuna.logging.set_verbosity(optuna.logging.WARNING)


Planned = Callable[[str], tuple[Sweep, list[PlannedArm]]]


@pytest.fixture(scope="module")
def planned() -> Planned:
    """Sweeps with their arms matched; no file is read for that."""

    @cache
    def plan(name: str) -> tuple[Sweep, list[PlannedArm]]:
        sweep = load_sweep(name)
        return sweep, plan_arms(sweep)

    return plan


def test_there_is_a_sweep() -> None:
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_arms_of_a_sweep_meet_its_contract(planned: Planned, name: str) -> None:
    sweep, arms = planned(name)
    assert [arm.name for arm in arms] == list(sweep.arms)
    reference = next(arm for arm in arms if arm.name == sweep.contract.reference)
    target = getattr(reference.cost, sweep.contract.match)
    for arm in arms:
        # Costs are those of the overrides that a trial will be run with.
        found = cost(assemble(compose(arm.overrides), device="meta").model)
        assert found == arm.cost
        assert abs(getattr(found, sweep.contract.match) / target - 1) <= sweep.contract.tolerance


@pytest.mark.parametrize("name", NAMES)
def test_the_first_trial_of_every_arm_composes_and_keeps_to_the_contract(
    planned: Planned, name: str
) -> None:
    sweep, arms = planned(name)
    searched = set()
    for arm in arms:
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
        space = sweep.searched.only(keys(arm.cfg))
        drawn = space.suggest(trial, sweep.settings(arm.name))
        cfg = compose([*arm.overrides, *drawn, f"seed={sweep.seed}", "test=false"])
        parts = assemble(cfg, device="meta")
        assert cost(parts.model) == arm.cost, "a search moves no cost: the arms stay matched"
        for override in map(parse, drawn):
            assert OmegaConf.select(cfg, key_of(override)) == override.value()
            searched.add(key_of(override))
    assert searched == set(sweep.searched.keys()), "every searched key is drawn by some arm"
