"""The budget contract: dials that end at the best width, and arms that cannot be matched."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hmoe.config import compose
from hmoe.errors import ConfigError
from hmoe.models import cost
from hmoe.study import PlannedArm, Sweep, load_sweep, plan_arms
from hmoe.training import assemble

TEXT = """\
# Which?
question: Which?
objectives: [val/accuracy, val/load/cv/expert]
contract: {match: active_params, reference: flat, tolerance: 0.02}
budget: {trials: 8}
seed: 5
overrides: [data=digits, model=mlp, model.dim=32]
arms:
"""
DIAL = ", dial: experts.hidden_dim"
ARMS = {
    "dense": "  dense: {overrides: [model=mlp_dense, balance=none]" + DIAL + "}\n",
    "flat": "  flat: {overrides: [tree=flat]}\n",
    "grid": "  grid: {overrides: [tree=grid, experts=swiglu, selection=descend]" + DIAL + "}\n",
    "company": "  company: {overrides: [tree=company, selection=descend]" + DIAL + "}\n",
}
SLOTS = "  slots: {overrides: ['ffn@model.ffn=soft_moe', 'tree.spec=[4]']" + DIAL + "}\n"
DENSE = ("dense", "flat")

# Active parameters at width 32, with 64 pixels and 10 classes: embed, three norms, head; and two
# feed-forwards. A gate has 33 parameters a node, an expert 2 * 32 (a SwiGLU 3 * 32) a hidden unit.
SHARED = (64 * 32 + 32) + 3 * 32 + (32 * 10 + 10)
FLAT = SHARED + 2 * (16 * 33 + 2 * 64 * 128)


def sweep(folder: Path, *changes: tuple[str, str], arms: Sequence[str] = tuple(ARMS)) -> Sweep:
    text = TEXT + "".join(ARMS[arm] for arm in arms)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "which.yaml").write_text(text)
    return load_sweep("which", folder=folder)


def planned(
    folder: Path, *changes: tuple[str, str], arms: Sequence[str] = tuple(ARMS)
) -> dict[str, PlannedArm]:
    return {arm.name: arm for arm in plan_arms(sweep(folder, *changes, arms=arms))}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PlannedArm]:
    """All four arms as they stand above."""
    return planned(tmp_path_factory.mktemp("sweeps"))


def check_neighbours(arm: PlannedArm, dial: str, match: str, target: float) -> None:
    """No other multiple of 8 beside the dial is closer to the target."""
    width = OmegaConf.select(arm.cfg, dial)
    assert width % 8 == 0
    found = abs(getattr(arm.cost, match) - target)
    for neighbour in {max(8, width - 8), width + 8}:
        cfg = arm.cfg.copy()
        OmegaConf.update(cfg, dial, neighbour)
        elsewhere = getattr(cost(assemble(cfg, device="meta").model), match)
        assert abs(elsewhere - target) >= found


# ------------------------------------------------------------------ by hand


def test_a_dial_ends_where_arithmetic_says(plan: dict[str, PlannedArm]) -> None:
    # The flat arm has 16 * 33 + 2 * 64 * 128 = 16912 a feed-forward. That is a dense hidden width
    # of 16912 / 64 = 264.2; a SwiGLU after a gate of 20 nodes, of (16912 - 660) / 96 = 169.3; one
    # expert of the company, which has 23 nodes, of (16912 - 759) / 64 = 252.4.
    widths = {name: arm.cfg.experts.hidden_dim for name, arm in plan.items()}
    assert widths == {"dense": 264, "flat": 128, "grid": 168, "company": 256}
    assert {name: arm.cost.active_params for name, arm in plan.items()} == {
        "dense": SHARED + 2 * 64 * 264,
        "flat": FLAT,
        "grid": SHARED + 2 * (20 * 33 + 96 * 168),
        "company": SHARED + 2 * (23 * 33 + 64 * 256),
    }


def test_what_an_arm_is_planned_as(plan: dict[str, PlannedArm]) -> None:
    assert list(plan) == ["dense", "flat", "grid", "company"]
    assert [arm.tree for arm in plan.values()][:3] == ["", "16", "4x4"]
    assert plan["company"].tree.startswith('{"sales": {"emea": 2')
    common = ("data=digits", "model=mlp", "model.dim=32")
    assert plan["flat"].overrides == (*common, "tree=flat")
    dense = ("model=mlp_dense", "balance=none", "experts.hidden_dim=264")
    assert plan["dense"].overrides == (*common, *dense)
    for arm in plan.values():
        assert (arm.cfg.seed, arm.cfg.test) == (5, False)
        assert arm.cost == cost(assemble(compose(arm.overrides), device="meta").model)
        assert arm.deviation == pytest.approx(arm.cost.active_params / FLAT - 1)


def test_only_arms_with_mixtures_have_load_for_an_objective(plan: dict[str, PlannedArm]) -> None:
    both = ("val/accuracy", "val/load/cv/expert")
    found = {name: arm.objectives for name, arm in plan.items()}
    assert found == {"dense": ("val/accuracy",), "flat": both, "grid": both, "company": both}


def test_a_mixture_without_decisions_has_a_tree_and_no_load(tmp_path: Path) -> None:
    change = (ARMS["flat"], ARMS["flat"] + SLOTS)
    slots = planned(tmp_path, change, ("tolerance: 0.02", "tolerance: 0.1"), arms=["flat"])["slots"]
    assert (slots.tree, slots.objectives) == ("4", ("val/accuracy",))
    # All four experts are active, and a feed-forward has 4 * 4 slots and a scale.
    width = slots.cfg.experts.hidden_dim
    assert slots.cost.active_params == SHARED + 2 * (16 * 32 + 1 + 4 * 64 * width)


def test_the_reference_stays_as_it_is_even_with_a_dial(tmp_path: Path) -> None:
    # 100 is no multiple of 8: a dial that were turned would leave it.
    odd = "[tree=flat, experts.hidden_dim=100, experts.implementation=loop]"
    flat = planned(tmp_path, ("[tree=flat]", odd + DIAL), arms=["flat"])["flat"]
    assert (flat.cfg.experts.hidden_dim, flat.deviation) == (100, 0.0)


@pytest.mark.parametrize(
    ("width", "tolerance", "fits"),
    [
        # 64 * 256 a feed-forward are 1056 parameters or 2.91 % less than the flat arm has.
        (256, "0.030", True),
        (256, "0.029", False),
        # 64 * 272 are 992 parameters or 2.73 % more.
        (272, "0.028", True),
        (272, "0.027", False),
    ],
)
def test_the_tolerance_is_a_share_of_the_reference_either_way(
    tmp_path: Path, width: int, tolerance: str, fits: bool
) -> None:
    fixed = (f"balance=none]{DIAL}", f"balance=none, experts.hidden_dim={width}]")
    changes = [fixed, ("0.02", tolerance)]
    if fits:
        deviation = planned(tmp_path, *changes, arms=DENSE)["dense"].deviation
        assert deviation == pytest.approx(2 * (64 * width - 16912) / FLAT)
    else:
        with pytest.raises(ConfigError, match=f"beyond contract.tolerance = {tolerance}"):
            planned(tmp_path, *changes, arms=DENSE)


# ------------------------------------------------------------------ laws


@pytest.mark.parametrize("name", ["dense", "grid", "company"])
def test_no_neighbour_of_a_dial_is_closer(plan: dict[str, PlannedArm], name: str) -> None:
    assert abs(plan[name].deviation) <= 0.02
    check_neighbours(plan[name], "experts.hidden_dim", "active_params", FLAT)


@pytest.mark.parametrize("match", ["params", "flops_per_token"])
def test_no_neighbour_of_a_dial_is_closer_in_other_costs(tmp_path: Path, match: str) -> None:
    arms = planned(tmp_path, ("active_params", match), arms=DENSE)
    target = getattr(arms["flat"].cost, match)
    assert arms["dense"].deviation == pytest.approx(getattr(arms["dense"].cost, match) / target - 1)
    check_neighbours(arms["dense"], "experts.hidden_dim", match, target)


def test_a_dial_may_cost_more_than_in_proportion(tmp_path: Path) -> None:
    """The width of a transformer counts squared in its attention."""
    arms = planned(
        tmp_path,
        ("data=digits, model=mlp, model.dim=32", "data=stdlib, model=transformer"),
        ("mlp_dense", "transformer_dense"),
        ("val/accuracy", "val/loss"),
        (f"none]{DIAL}", "none], dial: model.dim"),
        arms=DENSE,
    )
    check_neighbours(arms["dense"], "model.dim", "active_params", arms["flat"].cost.active_params)


def test_a_dial_goes_no_lower_than_its_first_step(tmp_path: Path) -> None:
    # A dense block of hidden width 8 already has more than a gate and an expert of width 1.
    small = (
        "[tree=flat, 'tree.spec=[2]', selection=descend, experts.implementation=loop, "
        "experts.hidden_dim=1]"
    )
    arms = planned(tmp_path, ("[tree=flat]", small), ("0.02", "0.9"), arms=DENSE)
    assert arms["dense"].cfg.experts.hidden_dim == 8
    assert arms["dense"].deviation > 0


# ------------------------------------------------------------------ refusals


def test_all_arms_that_miss_the_reference_are_named_with_their_values(tmp_path: Path) -> None:
    found = {
        "dense": SHARED + 2 * 64 * 128,
        "grid": SHARED + 2 * (20 * 33 + 96 * 128),
        "company": SHARED + 2 * (23 * 33 + 64 * 128),
    }
    missed = "; ".join(
        f"arm '{name}' has {value:,} ({value / FLAT - 1:+.1%})" for name, value in found.items()
    )
    message = (
        f"sweep which: contract.match = active_params of 'flat' is {FLAT:,}, but {missed}, beyond "
        "contract.tolerance = 0.02. Give the arm a dial such as experts.hidden_dim, change its "
        "sizes, or widen the tolerance."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        planned(tmp_path, (DIAL, ""))


@pytest.mark.parametrize(
    ("dial", "message"),
    [
        (
            "experts.hiden_dim",
            "must be a whole number of the arm's configuration, such as experts.hidden_dim. "
            "Did you mean 'experts.hidden_dim'?",
        ),
        ("optim.lr", "must be a whole number of the arm's configuration"),
        ("test", "must be a whole number of the arm's configuration"),
        ("experts", "must be a whole number of the arm's configuration"),
        ("trainer.max_steps", "active_params does not grow with it."),
    ],
)
def test_a_dial_that_cannot_be_turned_is_refused(tmp_path: Path, dial: str, message: str) -> None:
    told = re.escape(f"sweep which: arms.dense.dial = {dial}: {message}")
    with pytest.raises(ConfigError, match=f"^{told}"):
        planned(tmp_path, (f"none]{DIAL}", f"none], dial: {dial}"), arms=DENSE)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tree=gird", "tree=gird: no such option of the group 'tree'. Did you mean 'grid'?"),
        ("tree.spec=[4,1]", "tree.spec=[4,1]: would be ignored, since this model reads no tree"),
        ("data.val_share=2.0", "data: data.val_share=2.0: must be"),
        ("data=stdlib", "model = ResidualMlp reads vectors"),
    ],
)
def test_an_arm_that_does_not_compose_is_named(tmp_path: Path, override: str, message: str) -> None:
    change = ("[model=mlp_dense,", f"[model=mlp_dense, '{override}',")
    with pytest.raises(ConfigError, match=r"^sweep which, arm 'dense': .*" + re.escape(message)):
        planned(tmp_path, change, arms=DENSE)


def test_a_contract_on_what_no_model_tells_is_refused(tmp_path: Path) -> None:
    message = "contract.match=train_flops: must be 'active_params', 'params' or 'flops_per_token'"
    with pytest.raises(ConfigError, match=re.escape(message)):
        sweep(tmp_path, ("active_params", "train_flops"))
