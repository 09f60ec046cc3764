"""The sweeps whose answer is known by construction: that their arms are what the file says."""

from pathlib import Path

import pytest
import torch

from hmoe.config import compose
from hmoe.study import load_sweep, plan_arms
from hmoe.training import assemble


def losses(overrides: list[str], seed: int, steps: int) -> tuple[list[float], torch.Tensor]:
    """Training losses of the first steps, and the answers after them."""
    torch.manual_seed(seed)
    parts = assemble(compose([*overrides, f"seed={seed}", "optim.warmup_steps=0"]))
    learner = parts.learner(Path())
    parts.data.setup()
    optimizer = learner.configure_optimizers()["optimizer"]
    found = []
    for step in range(steps):
        loss = learner.loss(parts.data.train_batch(step))[0]
        found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return found, parts.model(parts.data.train_batch(steps)["x"])[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_arms_of_same_function_are_the_same_function_step_by_step(seed: int) -> None:
    sweep = load_sweep("same_function")
    # Few steps: where two experts are tied up to rounding, the arms part, on some machines sooner.
    flat, tree = (losses([*arm.overrides], seed, steps=6) for arm in plan_arms(sweep))
    assert flat[0] == pytest.approx(tree[0], abs=1e-5)
    assert flat[0][-1] < flat[0][0]
    torch.testing.assert_close(flat[1], tree[1], rtol=0, atol=1e-4)
    changed = [*plan_arms(sweep)[1].overrides, "gate.pool=max", "selection.beam=1"]
    assert losses(changed, seed, steps=6)[0] != pytest.approx(flat[0], abs=1e-5)


def test_the_frozen_arm_differs_from_the_trained_one_in_the_scores_of_departments_alone() -> None:
    sweep = load_sweep("frozen_upper")
    trained, frozen = plan_arms(sweep)
    added = [o for o in frozen.overrides if o not in trained.overrides]
    assert added == ["gate.score=[random,linear]"]
    assert sweep.contract.reference == "trained"


def test_the_truth_of_the_planted_sweep_has_the_tree_of_its_arm() -> None:
    sweep = load_sweep("planted")
    arms = {arm.name: arm for arm in plan_arms(sweep)}
    cfg = arms["two_level"].cfg
    assert cfg.data.truth.spec == cfg.tree.spec == [4, 4]
    assert arms["flat"].cfg.data == cfg.data
