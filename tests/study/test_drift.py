"""Searches that break the contract: found before any training, by hand and against whole grids."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmoe.config import compose
from hmoe.errors import ConfigError
from hmoe.study import PlannedArm, Sweep, plan_arms
from hmoe.study.contract import spend_of
from hmoe.study.drift import drifts
from hmoe.study.search import combinations_of
from tests.study.test_contract import FLAT, SHARED, sweep


def searching(
    folder: Path, *lines: str, when: str = "", match: str = "active_params", tolerance: str = "0.02"
) -> tuple[Sweep, list[PlannedArm]]:
    """A sweep of the flat arm alone, which searches these lines."""
    space = f"space: {list(lines)}\nwhen: {{{when}}}\narms:\n"
    changes = (("arms:\n", space), ("match: active_params", f"match: {match}"))
    found = sweep(folder, *changes, ("tolerance: 0.02", f"tolerance: {tolerance}"), arms=["flat"])
    return found, plan_arms(found, (lambda cfg: 1.0) if match == "seconds" else None)


def active(hidden_dim: int, nodes: int = 16, k: int = 2) -> int:
    """Active parameters at width 32 of two mixtures: 33 a node, 64 a hidden unit of an expert."""
    return SHARED + 2 * (33 * nodes + k * 64 * hidden_dim)


# ------------------------------------------------------------------ by hand


def test_a_searched_width_is_told_with_key_quantity_and_values(tmp_path: Path) -> None:
    rate = "optim.lr=tag(log, interval(1e-3, 1e-2))"
    found = drifts(*searching(tmp_path, rate, "experts.hidden_dim=range(64, 193, 64)"))
    low, high = active(64), active(192)
    assert found == [
        f"sweep which: what is searched breaks contract.match = active_params in arm 'flat', which "
        f"has {FLAT:,}: experts.hidden_dim=64 has {low:,} ({low / FLAT - 1:+.1%}); "
        f"experts.hidden_dim=192 has {high:,} ({high / FLAT - 1:+.1%}), beyond "
        "contract.tolerance = 0.02. A dial is not turned again for a trial: fix what changes it, "
        "make arms of its values, or match another quantity."
    ]


@pytest.mark.parametrize(
    ("line", "kept", "broken"),
    [
        ("optim.lr=interval(1e-3, 1e-2)", ["active_params", "seconds"], []),
        ("balance.terms.switch.weight=interval(1e-3, 1e-2)", ["total_params"], []),
        ("trainer.max_steps=range(100, 301, 100)", ["active_params"], ["train_flops", "tokens"]),
        ("data.batch_size=choice(64, 32)", ["total_params"], ["tokens", "seconds"]),
        ("selection.k=int(interval(2, 3))", ["total_params", "tokens"], ["active_params"]),
        ("model.depth=choice(2, 3)", ["tokens"], ["total_params", "train_flops"]),
        # Four nodes more are 264 of 36,330 parameters, less than 2 %; 48 nodes more are 3,168.
        ("tree.spec=choice([16], [4,4])", ["active_params"], []),
        ("tree.spec=choice([16], [64])", ["tokens"], ["active_params", "seconds"]),
    ],
)
def test_a_key_breaks_the_contracts_on_what_it_changes(
    tmp_path: Path, line: str, kept: Sequence[str], broken: Sequence[str]
) -> None:
    for match in kept:
        assert drifts(*searching(tmp_path, line, match=match)) == [], match
    for match in broken:
        (told,) = drifts(*searching(tmp_path, line, match=match))
        assert f"breaks contract.match = {match}" in told
        assert f"{line.partition('=')[0]}=" in told


def test_seconds_are_stood_for_by_flops(tmp_path: Path) -> None:
    """Half the steps are half the FLOPs; what a step takes elsewhere no probe has told."""
    line = "trainer.max_steps=choice(300, 150)"
    found, (arm,) = searching(tmp_path, line, match="seconds")
    (told,) = drifts(found, [arm])
    flops = 3 * 2 * (64 * 32 + 2 * (16 * 32 + 2 * 64 * 128) + 32 * 10) * 64
    own = arm.cfg.trainer.max_steps
    stands = "seconds, for which train_flops stands here, in arm 'flat', which has"
    assert f"{stands} {own * flops:,}: " in told
    assert f"trainer.max_steps=150 has {150 * flops:,} ({150 / own - 1:+.1%})" in told


@pytest.mark.parametrize(("tolerance", "fits"), [("0.057", True), ("0.056", False)])
def test_the_tolerance_is_that_of_the_contract(tmp_path: Path, tolerance: str, fits: bool) -> None:
    # 2 * 2 * 64 * 8 of 36,330 parameters are 5.64 %.
    found = drifts(*searching(tmp_path, "experts.hidden_dim=choice(120, 128)", tolerance=tolerance))
    assert (found == []) is fits


def test_one_value_that_is_not_the_arms_is_seen(tmp_path: Path) -> None:
    (told,) = drifts(*searching(tmp_path, "experts.hidden_dim=choice(256)"))
    assert f"experts.hidden_dim=256 has {active(256):,}" in told


def test_what_a_condition_brings_in_is_seen_where_it_holds(tmp_path: Path) -> None:
    """The selection alone changes no parameters; the k of one of them does."""
    when = "selection=descend: ['selection.k=choice(2, 1)']"
    (told,) = drifts(*searching(tmp_path, "selection=choice(top_k, descend)", when=when))
    assert f"selection=descend selection.k=1 has {active(128, k=1):,}" in told
    assert drifts(*searching(tmp_path, "selection=choice(top_k, slots)", when="")) == []


def test_two_keys_that_break_it_only_together_are_told_together(tmp_path: Path) -> None:
    """1.1 % by the six nodes that [2,2,4] has more than [16], and 5.6 % by a width of 136."""
    lines = ("tree.spec=choice([16], [2,2,4], [4,4])", "experts.hidden_dim=choice(128, 136, 120)")
    (told,) = drifts(*searching(tmp_path, *lines, tolerance="0.065"))
    value = active(136, nodes=22)
    assert f"tree.spec=[2,2,4] experts.hidden_dim=136 has {value:,} (+6.7%)" in told
    assert drifts(*searching(tmp_path, *lines, tolerance="0.068")) == []


def test_what_does_not_compose_is_left_to_its_trial(tmp_path: Path) -> None:
    found, (arm,) = searching(tmp_path, "selection.k=choice(2, 17)")
    with pytest.raises(ConfigError, match="17"):
        spend_of(compose([*arm.overrides, "selection.k=17"]))
    assert drifts(found, [arm]) == []


# ------------------------------------------------------------------ the whole grid for an oracle


def some(key: str, *values: str) -> st.SearchStrategy[str]:
    """A search of one or more of the values, in any order."""
    chosen = st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)
    return chosen.map(lambda texts: f"{key}=choice({', '.join(texts)})")


@settings(max_examples=6, deadline=None)
@given(
    lines=st.tuples(
        some("experts.hidden_dim", "112", "120", "128", "136"),
        some("tree.spec", "[16]", "[4,4]", "[2,8]", "[2,2,4]"),
        st.sampled_from(["selection=choice(top_k, descend)", "selection=choice(descend, top_k)"]),
    ),
    ks=some("selection.k", "1", "2"),
    tolerance=st.sampled_from(["0.006", "0.03", "0.06", "0.065", "0.12", "0.5"]),
)
def test_a_search_drifts_where_a_trial_of_its_grid_misses(
    tmp_path_factory: pytest.TempPathFactory, lines: tuple[str, ...], ks: str, tolerance: str
) -> None:
    folder = tmp_path_factory.mktemp("sweep")
    when = f"selection=descend: ['{ks}']"
    found, (arm,) = searching(folder, *lines, when=when, tolerance=tolerance)
    missed = []
    for params in combinations_of(found, arm):
        drawn = [f"{key}={value}" for key, value in params.items()]
        value = spend_of(compose([*arm.overrides, *drawn])).active_params
        missed.append(abs(value / FLAT - 1) > float(tolerance))
    assert (drifts(found, [arm]) != []) is any(missed)
