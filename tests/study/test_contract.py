"""The budget contract: dials that end at the best width, and arms that cannot be matched."""

import math
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from omegaconf import DictConfig, OmegaConf

from hmoe.config import compose
from hmoe.errors import ConfigError
from hmoe.models import cost
from hmoe.study import PlannedArm, Sweep, load_sweep, plan_arms
from hmoe.study.contract import Spend
from hmoe.study.sections import Match
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


def spent(cfg: DictConfig, match: str) -> float:
    """What a run of a configuration spends of what does not need a clock."""
    found = cost(assemble(cfg, device="meta").model)
    tokens = cfg.trainer.max_steps * cfg.data.batch_size * cfg.data.get("context", 1)
    return found.train_flops(tokens) if match == "train_flops" else getattr(found, match)


def check_neighbours(arm: PlannedArm, dial: str, match: str, target: float) -> None:
    """No other multiple of 8 beside the dial is closer to the target."""
    width = OmegaConf.select(arm.cfg, dial)
    assert width % 8 == 0
    found = abs(getattr(arm.spend, match) - target)
    for neighbour in {max(8, width - 8), width + 8}:
        cfg = arm.cfg.copy()
        OmegaConf.update(cfg, dial, neighbour)
        assert abs(spent(cfg, match) - target) >= found


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


@pytest.mark.parametrize("match", ["total_params", "train_flops"])
def test_no_neighbour_of_a_dial_is_closer_in_other_quantities(tmp_path: Path, match: str) -> None:
    arms = planned(tmp_path, ("active_params", match), arms=DENSE)
    target = getattr(arms["flat"].spend, match)
    assert arms["dense"].deviation == getattr(arms["dense"].spend, match) / target - 1
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
        f"arm '{name}' has {value:,} ({value / FLAT - 1:+.1%}) and no dial to turn"
        for name, value in found.items()
    )
    worst = max(abs(value / FLAT - 1) for value in found.values())
    least = math.ceil(worst * 1e4) / 1e4
    message = (
        f"sweep which: contract.match = active_params of 'flat' is {FLAT:,}, but {missed}, beyond "
        "contract.tolerance = 0.02. Give the arm a dial such as experts.hidden_dim, change its "
        f"sizes, or widen the tolerance to {least:g} at least."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        planned(tmp_path, (f"]{DIAL}", ", experts.hidden_dim=128]"))


def test_an_arm_that_no_width_matches_is_told_with_the_nearest(tmp_path: Path) -> None:
    """Of two experts of width 1 with k = 1 and their gate, 2 * 33 + 64; a dense 8 has 512."""
    small = "[tree=flat, 'tree.spec=[2]', selection=descend, experts.implementation=loop, "
    change = ("[tree=flat]", small + "experts.hidden_dim=1]")
    target, nearest, next_one = (SHARED + 2 * n for n in (2 * 33 + 64, 64 * 8, 64 * 16))
    off = nearest / target - 1
    message = (
        f"of 'flat' is {target:,}, but arm 'dense' has {nearest:,} ({off:+.1%}) at the nearest: "
        f"its dial moves in steps, {off:+.2%} at experts.hidden_dim=8 and "
        f"{next_one / target - 1:+.2%} at experts.hidden_dim=16, beyond contract.tolerance = 0.02. "
        f"Change its sizes, or widen the tolerance to {math.ceil(off * 1e4) / 1e4:g} at least."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        planned(tmp_path, change, arms=DENSE)
    (enough,) = re.findall(r"widen the tolerance to ([\d.]+) at least", message)
    for tolerance, fits in ((enough, True), (f"{float(enough) - 1e-4:.4f}", False)):
        wider = ("tolerance: 0.02", f"tolerance: {tolerance}")
        with nullcontext() if fits else pytest.raises(ConfigError):
            planned(tmp_path, change, wider, arms=DENSE)


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


def test_a_contract_on_something_else_is_refused_with_the_five(tmp_path: Path) -> None:
    message = (
        "contract.match=params: must be 'active_params', 'total_params', 'train_flops', 'tokens' "
        "or 'seconds'"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        sweep(tmp_path, ("active_params", "params"))


# ------------------------------------------------------------------ the five quantities, by hand

STEPS = ("model.dim=32]", "model.dim=32, trainer.max_steps=300]")


def test_what_a_run_spends_by_hand(tmp_path: Path) -> None:
    """300 steps of 64 vectors. A feed-forward: 16 gate rows of 32, two experts of 2 * 32 * 128."""
    spend = planned(tmp_path, STEPS, arms=["flat"])["flat"].spend
    products = 64 * 32 + 2 * (16 * 32 + 2 * 64 * 128) + 32 * 10
    assert spend == Spend(
        active_params=FLAT,
        total_params=SHARED + 2 * (16 * 33 + 16 * 64 * 128),
        train_flops=3 * 2 * products * 300 * 64,
        tokens=300 * 64,
        seconds=None,
    )


def test_the_quantities_are_those_that_a_contract_may_name() -> None:
    assert tuple(field.name for field in fields(Spend)) == get_args(Match)


@pytest.mark.parametrize(
    ("match", "width", "deviation"),
    [
        # 16 rows of 32 products and two experts are as much as a width of 264: biases cost none.
        ("train_flops", 264, 0.0),
        # 16 rows of 33 and 16 experts of 64 * 128 are 64 * 2056.25.
        ("total_params", 2056, -2 * 16 / (SHARED + 2 * 64 * 2056.25)),
    ],
)
def test_widths_by_hand(tmp_path: Path, match: str, width: int, deviation: float) -> None:
    dense = planned(tmp_path, ("active_params", match), arms=DENSE)["dense"]
    assert (dense.cfg.experts.hidden_dim, dense.dial) == (width, "experts.hidden_dim")
    assert dense.deviation == pytest.approx(deviation, abs=1e-12)


@pytest.mark.parametrize(
    ("batch", "steps", "tokens"),
    # The reference reads 300 * 64 = 19,200 vectors.
    [(16, 1200, 19200), (128, 150, 19200), (100, 192, 19200), (90, 213, 19170)],
)
def test_tokens_are_matched_by_steps_of_one(
    tmp_path: Path, batch: int, steps: int, tokens: int
) -> None:
    """By the contract's own dial: the arm names none."""
    bare = (f"none]{DIAL}", f"none, data.batch_size={batch}]")
    dense = planned(tmp_path, STEPS, ("active_params", "tokens"), bare, arms=DENSE)["dense"]
    assert (dense.cfg.trainer.max_steps, dense.spend.tokens) == (steps, tokens)
    assert dense.dial == "trainer.max_steps"
    assert dense.overrides[-1] == f"trainer.max_steps={steps}"


def test_tokens_of_text_are_positions_of_windows(tmp_path: Path) -> None:
    """300 windows' steps of 16 x 32 are 153,600 bytes; 8 x 24 are 192: 800 steps."""
    change = (
        "data=digits, model=mlp, model.dim=32]",
        "data=stdlib, model=transformer, trainer.max_steps=300, data.batch_size=16]",
    )
    arms = planned(
        tmp_path,
        change,
        ("val/accuracy", "val/loss"),
        ("active_params", "tokens"),
        ("mlp_dense", "transformer_dense"),
        (f"none]{DIAL}", "none, data.batch_size=8, data.context=24]"),
        ("[tree=flat]", "[tree=flat, data.context=32]"),
        arms=DENSE,
    )
    assert arms["dense"].cfg.trainer.max_steps == 800
    assert arms["dense"].spend.tokens == arms["flat"].spend.tokens == 153_600


def test_flops_may_be_matched_by_steps(tmp_path: Path) -> None:
    """The dense arm of width 128 costs less a token, and trains longer."""
    turned = (f"none]{DIAL}", "none, experts.hidden_dim=128], dial: trainer.max_steps")
    arms = planned(tmp_path, STEPS, ("active_params", "train_flops"), turned, arms=DENSE)
    flat, dense = (64 * 32 + 2 * (16 * 32 + 2 * 64 * 128) + 320, 64 * 32 + 2 * 64 * 128 + 320)
    assert arms["dense"].cfg.trainer.max_steps == round(300 * flat / dense)


def test_seconds_are_matched_by_steps(tmp_path: Path) -> None:
    """300 steps of 0.1 s take 32 s with a start of 2 s; so do 120 of 0.25 s."""
    changes = (STEPS, ("active_params", "seconds"), ("tree=flat", "tree=flat, model.depth=1"))
    seen = sweep(tmp_path, *changes, (f"none]{DIAL}", "none, model.depth=3]"), arms=DENSE)

    def seconds(cfg: DictConfig) -> float:
        return 2 + cfg.trainer.max_steps * {1: 0.1, 3: 0.25}[cfg.model.depth]

    flat, dense = sorted(plan_arms(seen, seconds), key=lambda arm: arm.name)[::-1]
    assert (flat.cfg.trainer.max_steps, dense.cfg.trainer.max_steps) == (300, 120)
    assert flat.spend.seconds == dense.spend.seconds == 32
    with pytest.raises(ConfigError, match=r"contract\.match = seconds: how long an arm takes"):
        plan_arms(seen)


def test_seconds_are_matched_by_nothing_but_steps(tmp_path: Path) -> None:
    message = "with contract.match = seconds it must be trainer.max_steps"
    with pytest.raises(ConfigError, match=message):
        plan_arms(sweep(tmp_path, ("active_params", "seconds"), arms=DENSE), lambda cfg: 1.0)


# ------------------------------------------------------------------ whose dial


def test_an_arm_without_a_dial_gets_the_width_of_its_experts(tmp_path: Path) -> None:
    arms = planned(tmp_path, (DIAL, ""))
    assert {name: arm.cfg.experts.hidden_dim for name, arm in arms.items()} == {
        "dense": 264,
        "flat": 128,
        "grid": 168,
        "company": 256,
    }


def test_an_arm_without_a_dial_that_fits_is_left_alone(tmp_path: Path) -> None:
    """Half as much is within a half; turned, it would be 264."""
    changes = ((f"none]{DIAL}", "none]"), ("0.02", "0.5"))
    dense = planned(tmp_path, *changes, arms=DENSE)["dense"]
    assert (dense.cfg.experts.hidden_dim, dense.dial) == (128, "")


# ------------------------------------------------------------------ arms that are one


def test_arms_that_are_one_are_named(tmp_path: Path) -> None:
    """Written differently, and one by its dial: what they come to counts."""
    twin = "  twin: {overrides: [tree=grid, experts=swiglu, selection=descend]}\n"
    changes = (ARMS["grid"], ARMS["grid"] + twin)
    message = "sweep which: arms 'grid' and 'twin' are one: with the same configuration"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        planned(tmp_path, changes, ("trials: 8", "trials: 6"), arms=["flat", "grid"])


def test_arms_that_search_differently_are_two(tmp_path: Path) -> None:
    """A condition looks at what an arm says, and `tree=grid` is what only one of them says."""
    twin = "  twin: {overrides: ['tree.spec=[4,4]', experts=swiglu, selection=descend]}\n"
    changes = (ARMS["grid"], ARMS["grid"] + twin)
    space = ("arms:\n", "when: {tree=grid: ['optim.lr=choice(1e-3, 1e-2)']}\narms:\n")
    more = ("trials: 8", "trials: 6")
    assert len(planned(tmp_path, changes, space, more, arms=["flat", "grid"])) == 3
    with pytest.raises(ConfigError, match="are one"):
        planned(tmp_path, changes, more, arms=["flat", "grid"])
