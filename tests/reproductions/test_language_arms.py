"""Reproductions with a language model: every arm at both sizes, and verdicts on made cells."""

from collections.abc import Callable, Mapping
from math import exp, log
from pathlib import Path
from typing import Any

import pytest

from hmoe.balance import mixture_layers
from hmoe.config import compose
from hmoe.reproductions import shazeer_2017_hierarchy as hierarchy
from hmoe.reproductions import shazeer_2017_losses as losses
from hmoe.reproductions import wang_2024_loss_free as loss_free
from hmoe.reproductions.language import WORD_BYTES, ratio
from hmoe.reproductions.record import Cell, Measured, Reproduction, by_arm
from hmoe.reproductions.registry import REPRODUCTIONS
from hmoe.training import Parts, assemble

MODULES = {
    "shazeer_2017_losses": losses,
    "shazeer_2017_hierarchy": hierarchy,
    "wang_2024_loss_free": loss_free,
}
ARMS = [(name, arm) for name, module in MODULES.items() for arm in module.ARMS]


def parts_of(name: str, arm: str, size: Any, seed: int = 3) -> Parts:
    words = MODULES[name].overrides(arm, size, seed)
    return assemble(compose([*words, "data.root=tests", "trainer.accelerator=auto"]), "meta")


@pytest.mark.parametrize("size", ["cpu", "gpu"])
@pytest.mark.parametrize(("name", "arm"), ARMS)
def test_every_arm_can_be_built(name: str, arm: str, size: str) -> None:
    parts = parts_of(name, arm, size)
    layers = mixture_layers(parts.model)
    assert len(layers) == (0 if arm == "dense_1" else {"cpu": 1}.get(size, len(layers)))
    assert parts.data.seed == 3
    cells = REPRODUCTIONS[name].cells(size, 2)
    assert Cell(arm, 1) in cells
    assert len(cells) == len(set(cells)) == 2 * len(MODULES[name].ARMS)


def rows_a_token(parts: Parts) -> float:
    layer = mixture_layers(parts.model)[0]
    return layer.try_out(8).token_R.numel() / 8


def test_arms_meet_as_many_experts_as_published() -> None:
    for arm in hierarchy.ARMS:
        if arm != "dense_1":
            assert rows_a_token(parts_of("shazeer_2017_hierarchy", arm, "cpu")) == 4
    for arm in loss_free.ARMS:
        parts = parts_of("wang_2024_loss_free", arm, "cpu")
        assert rows_a_token(parts) == 6
        assert (parts.balance.bias is None) == arm.startswith("loss")
        assert bool(parts.balance.terms) == arm.startswith("loss")
    for arm, ((importance, load), _) in losses.ARMS.items():
        terms = parts_of("shazeer_2017_losses", arm, "cpu").balance.terms
        assert {n: t.weight for n, t in terms.items()} == {"importance": importance, "load": load}
    assert str(parts_of("wang_2024_loss_free", "tree_nodes", "cpu").tree) == "8x8"
    nodes = parts_of("wang_2024_loss_free", "tree_nodes", "cpu").balance.bias
    experts = parts_of("wang_2024_loss_free", "tree_experts", "cpu").balance.bias
    assert (nodes.among, experts.among) == ("siblings", "experts")


def made(value: Callable[[str, int], Mapping[str, float]], arms: Any) -> list[Measured]:
    """Cells of three seeds."""
    return [Measured(Cell(arm, s), dict(value(arm, s)), 1.0) for s in range(3) for arm in arms]


def nats(perplexity: float) -> float:
    """Of a byte, where a word has this perplexity."""
    return log(perplexity) / WORD_BYTES


def test_a_ratio_of_perplexities_by_hand() -> None:
    """Log ratios of -1, 0 and 1 percent: mean 0, standard error 0.01 / sqrt 3, t of 2 is 4.3027."""
    pairs = {"a": [nats(100 * exp(d)) for d in (-0.01, 0.0, 0.01)], "b": [nats(100.0)] * 3}
    found = ratio(pairs, "a", "b", 0.05)
    half = 4.302653 * 0.01 / 3**0.5
    assert found.value == pytest.approx(1)
    assert (found.low, found.high) == pytest.approx((exp(-half), exp(half)))
    assert ratio({"a": [nats(10.0)], "b": [nats(5.0)]}, "a", "b", 0.05).value == pytest.approx(2)


def test_values_follow_the_seeds_whatever_the_order_of_the_cells() -> None:
    cells = [Measured(Cell("a", s), {"loss": float(s)}, 1.0) for s in (2, 0, 1)]
    assert by_arm(cells, "loss") == {"a": [0.0, 1.0, 2.0]}
    assert by_arm(cells, "cv") == {}


def judged(name: str, cells: list[Measured]) -> str:
    reproduction: Reproduction = REPRODUCTIONS[name]
    figures = reproduction.figures(cells)
    assert {row.figure for row in reproduction.rows} <= figures.keys()
    assert {c.figure for c in reproduction.criteria} <= figures.keys()
    assert all(reproduction.notes(figures))
    return reproduction.verdict(figures)


def test_the_published_table_of_losses_is_reproduced_and_equal_loads_are_not(
    tmp_path: Path,
) -> None:
    def published(arm: str, seed: int) -> dict[str, float]:
        perplexity, busiest, cv, importance = map(float, losses.ARMS[arm][1])
        loads = {"busiest": busiest, "busiest_halfway": busiest, "cv": cv, "dead": 0.0}
        noisy = {"noisy_load": cv, "noisy_importance": importance}
        return {"loss": nats(perplexity + 0.01 * seed), "tokens": 1e9, **loads, **noisy}

    def even(arm: str, seed: int) -> dict[str, float]:
        return {**published(arm, seed), "busiest": 1.1}

    cells = made(published, losses.ARMS)
    assert judged("shazeer_2017_losses", cells) == "reproduced"
    figures = losses.figures(cells)
    assert figures["least_cost"].value == pytest.approx(39.8 / 35.7, rel=1e-4)
    assert figures["among_losses"].value == pytest.approx(35.7 / 35.6, rel=1e-4)
    assert figures["relief"].value == pytest.approx(17.80 / 1.14)
    assert figures["least_fall"].value == pytest.approx(1.14 - 1.07)
    assert judged("shazeer_2017_losses", made(even, losses.ARMS)) == "not reproduced"
    losses.draw(cells, tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_a_tree_beside_flat_is_equivalent_only_if_seeds_say_so(tmp_path: Path) -> None:
    published = {"dense_1": 46.1, "moe_4": 45.0, "flat_256": 35.7, "two_level": 36.0}

    def cells(noise: float) -> list[Measured]:
        def values(arm: str, seed: int) -> dict[str, float]:
            shift = noise * (seed - 1) if arm == "two_level" else 0.0
            loss = nats(published.get(arm, 35.8) * exp(shift))
            sizes = {"active_params": 1.0, "total_params": 2.0, "tokens": 1e9}
            loads = {} if arm == "dense_1" else {"busiest": 1.1, "cv_units": 0.1}
            return {"loss": loss, **sizes, **loads}

        return made(values, hierarchy.ARMS)

    assert judged("shazeer_2017_hierarchy", cells(0.001)) == "reproduced"
    assert judged("shazeer_2017_hierarchy", cells(0.05)) == "in shape only"
    figures = hierarchy.figures(cells(0.001))
    assert figures["two_level_to_flat"].value == pytest.approx(36.0 / 35.7)
    assert figures["flat_256_to_moe_4"].value == pytest.approx(35.7 / 45.0)
    # 90 % of t with 2 degrees of freedom: 2.92 standard errors.
    high = 36.0 / 35.7 * exp(2.919986 * 0.001 / 3**0.5)
    assert figures["two_level_to_flat_high"].value == pytest.approx(high)
    hierarchy.draw(cells(0.001), tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_a_bias_has_to_balance_better_at_no_cost(tmp_path: Path) -> None:
    def cells(violation: float, perplexity: float) -> list[Measured]:
        def values(arm: str, seed: int) -> dict[str, float]:
            by_loss = arm.startswith("loss")
            busiest = 1.72 if by_loss else 1 + violation
            loss = nats((9.56 if by_loss else perplexity) + 0.001 * seed)
            loads = {"busiest": busiest, "busiest_halfway": 2.0, "cv_units": 0.1}
            return {"loss": loss, "steps": 100, **loads}

        return made(values, loss_free.ARMS)

    assert judged("wang_2024_loss_free", cells(0.04, 9.50)) == "reproduced"
    assert judged("wang_2024_loss_free", cells(0.04, 9.70)) == "in shape only"
    assert judged("wang_2024_loss_free", cells(0.60, 9.50)) == "not reproduced"
    figures = loss_free.figures(cells(0.04, 9.50))
    assert figures["times_0.001"].value == pytest.approx(18)
    assert figures["nodes_to_experts"].value == pytest.approx(1)
    assert figures["cost_0.001"].value == pytest.approx(9.50 / 9.56, rel=1e-4)
    loss_free.draw(cells(0.04, 9.5), tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()
