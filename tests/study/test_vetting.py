"""Searches that do not mean what they say are refused before any work, with key, arm and value."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from hmoe.errors import ConfigError
from hmoe.study import plan_sweep
from hmoe.study.contract import compose_arms
from hmoe.study.vetting import vet
from tests.study.test_contract import sweep


def vetted(folder: Path, *space: str, arms: Sequence[str], when: str = "") -> str:
    """What is told of a sweep with these arms, each written as in the file; "" if nothing is."""
    lines = f"space: {list(space)}\nwhen: {{{when}}}\narms:\n"
    told = "".join(f"  {arm}\n" for arm in arms)
    fitting = ("trials: 8", f"trials: {len(arms)}"), ("reference: flat", "reference: a")
    found = sweep(folder, *fitting, ("arms:\n", lines + told), arms=[])
    try:
        vet(found, compose_arms(found))
    except ConfigError as error:
        return str(error)
    return ""


FLAT, GRID = "a: {overrides: [tree=flat]}", "b: {overrides: [tree=grid]}"
DENSE = "b: {overrides: [model=mlp_dense, balance=none]}"
RATE = "optim.lr=interval(1e-3, 1e-2)"

# ------------------------------------------------------------------ keys that are not there


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("optim.lrr=interval(1e-3, 1e-2)", "optim.lrr: no arm has such a key. Did you mean 'optim"),
        ("lr=interval(1e-3, 1e-2)", "lr: no arm has such a key. Did you mean 'optim.lr'?"),
        ("selecton=choice(top_k, descend)", "Did you mean 'selection'?"),
    ],
)
def test_a_key_that_no_arm_has_is_answered_with_the_nearest(
    tmp_path: Path, line: str, hint: str
) -> None:
    assert hint in vetted(tmp_path, RATE, line, arms=[FLAT, GRID])


def test_a_misspelt_key_of_a_branch_is_answered_with_the_nearest(tmp_path: Path) -> None:
    when = "selection=descend: ['selection.kk=choice(1, 2)']"
    told = vetted(tmp_path, "selection=choice(top_k, descend)", arms=[FLAT], when=when)
    assert "selection.kk=1: no such key. Did you mean 'selection.k'?" in told


def test_a_key_that_only_some_arms_have_may_be_searched(tmp_path: Path) -> None:
    line = "balance.terms.switch.weight=interval(1e-3, 1e-2)"
    assert vetted(tmp_path, line, arms=["a: {overrides: [balance=switch]}", DENSE]) == ""


# ------------------------------------------------------------------ keys that make an arm


@pytest.mark.parametrize(
    ("line", "arms", "key", "told"),
    [
        # The choices of a group differ in what is searched of it.
        ("tree.spec=[4,4],[16]", [FLAT, GRID], "tree.spec", ["a: tree=flat", "b: tree=grid"]),
        # All arms but one have what all arms share.
        ("tree.spec=[4,4],[16]", [FLAT, "b: {}"], "tree.spec", ["a: tree=flat"]),
        # The group around an option, and an entry inside one.
        (
            "selection=choice(top_k, descend)",
            ["a: {overrides: [selection.k=3]}", "b: {}"],
            "selection",
            ["a: selection.k=3"],
        ),
        (
            "balance.terms.switch.weight=choice(0.1, 0.2)",
            ["a: {overrides: [balance=switch]}", "b: {overrides: ['balance.terms={}']}"],
            "balance.terms.switch.weight",
            ["b: balance.terms={}"],
        ),
    ],
)
def test_what_makes_an_arm_is_not_searched(
    tmp_path: Path, line: str, arms: Sequence[str], key: str, told: Sequence[str]
) -> None:
    lines = vetted(tmp_path, line, arms=arms).splitlines()
    assert [line.partition(" makes")[0] for line in lines] == [
        f"sweep which: arms.{one}" for one in told
    ]
    assert all(f"'{key}' is searched" in line for line in lines)


def test_the_dial_is_not_searched_with_its_group(tmp_path: Path) -> None:
    dialled = "b: {overrides: [tree=grid], dial: experts.hidden_dim}"
    told = vetted(tmp_path, "experts=choice(relu, swiglu)", arms=[FLAT, dialled])
    assert "arms.b.dial=experts.hidden_dim: the contract sets it, and 'experts' is searc" in told


@pytest.mark.parametrize(
    ("line", "arms", "when"),
    [
        # What all arms share may be searched in part, and what the choice of a group leaves alike.
        ("tree.spec=[4,4],[16]", ["a: {}", DENSE], ""),
        ("experts.hidden_dim=choice(64, 128)", [FLAT, GRID], ""),
        ("gate.temperature=choice(0.5, 1.0)", ["a: {}", "b: {overrides: [gate=bottom_up]}"], ""),
        # An arm alone has no other to be made into.
        ("tree.spec=[4,4],[16]", [FLAT], ""),
        # A dense arm reads no tree.
        ("tree.spec=[4,4],[16]", ["a: {}", DENSE.replace("[m", "[tree=flat, m")], ""),
        # A condition says in which arms.
        (RATE, [FLAT, GRID], "tree=grid: ['tree.spec=choice([4,4], [2,8])']"),
        # What a system says is a start that a search may leave.
        ("selection.k=choice(3, 2)", ["a: {overrides: [system=mixtral]}", "b: {}"], ""),
    ],
)
def test_what_arms_share_may_be_searched(
    tmp_path: Path, line: str, arms: Sequence[str], when: str
) -> None:
    assert vetted(tmp_path, line, arms=arms, when=when) == ""


# ------------------------------------------------------------------ values that do not compose


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("optim.weight_decay=choice(0.1, abc)", "optim.weight_decay=abc: a float is expected"),
        ("optim.warmup_steps=choice(0, -1)", "optim.warmup_steps = -1"),
        ("trainer.max_steps=choice(100, 0)", "trainer.max_steps = 0"),
        ("selection=choice(top_k, desend)", "selection=desend: no such option of the group"),
        ("selection.k=int(interval(2, 17))", "17"),
        ("selection.k=choice(3, 2, 17)", "17"),
    ],
)
def test_a_value_that_composes_in_no_arm_is_refused_with_the_reason(
    tmp_path: Path, line: str, told: str
) -> None:
    (found,) = vetted(tmp_path, RATE, line, arms=[FLAT, GRID]).splitlines()
    assert found.startswith("sweep which: arm 'a' with ")
    assert told in found


def test_a_value_of_a_branch_is_tried_where_it_holds(tmp_path: Path) -> None:
    when = "selection=descend: ['selection.k=choice(2, x)']"
    space = "selection=choice(top_k, descend)"
    (found,) = vetted(tmp_path, space, arms=["a: {}"], when=when).splitlines()
    assert "with selection=descend selection.k=x: selection.k=x: " in found


def test_a_value_for_one_arm_alone_will_do(tmp_path: Path) -> None:
    """17 of 16 experts are too many, of 32 not; and a dense arm reads no k at all."""
    arms = [FLAT, "b: {overrides: ['tree.spec=[32]']}", DENSE.replace("b:", "c:")]
    assert vetted(tmp_path, "selection.k=choice(2, 17)", arms=arms) == ""


def test_a_value_beside_some_other_value_will_do(tmp_path: Path) -> None:
    """A k of 20 goes with the second of three trees, neither with the first nor with the last."""
    lines = ("tree.spec=choice([16], [32], [4,4])", "selection.k=choice(2, 20)")
    assert vetted(tmp_path, *lines, arms=["a: {}"]) == ""


def test_nothing_is_measured_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hmoe.study.plan.probe", lambda cfg: pytest.fail("a probe was taken"))
    monkeypatch.setattr("hmoe.study.plan.start_server", lambda threads: pytest.fail("a server"))
    space = f"space: [{RATE!r}, 'optim.lrr=choice(1, 2)']\narms:\n"
    seconds = ("match: active_params", "match: seconds")
    found = sweep(tmp_path, ("arms:\n", space), seconds, arms=["flat"])
    with pytest.raises(ConfigError, match=re.escape("optim.lrr: no arm has such a key")):
        plan_sweep(found, tmp_path / "runs", measure=True)
    assert not (tmp_path / "runs").exists()
