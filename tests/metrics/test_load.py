"""Load statistics: by hand on flat, two-level and ragged trees, laws, and sums over batches."""

from math import exp, inf, log, log2, sqrt

import numpy as np
import pytest
import torch

from hmoe.layer import Routing, Tree
from hmoe.layer.capacity import limited
from hmoe.metrics import (
    DROPPED,
    LoadMetrics,
    cut_shares,
    cv,
    dead_share,
    effective_share,
    gini,
    level_statistics,
    load_statistics,
    max_violation,
    min_violation,
    normalised_entropy,
    starved_share,
)
from tests.cases import DIM, TREES, make_layer, make_routing

NAMES = ["cv", "max_violation", "min_violation", "entropy", "effective", "gini", "dead", "starved"]
EVEN = (0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0)
FOUR = (sqrt(0.5), 1.0, 1.0, 0.75, 2**1.5 / 4, 0.375, 0.25, 0.25)  # shares 1/2, 1/4, 1/4, 0
UNIFORM = [tree for tree, spec in TREES.items() if isinstance(spec, list)]


def statistics(tree: Tree, loads: list[int]) -> dict[str, float]:
    return everything(torch.tensor(loads), tree)


def everything(load_E: torch.Tensor, tree: Tree) -> dict[str, float]:
    """All statistics of all levels, and those of the last as "expert"."""
    found = level_statistics(load_E, tree)
    levels = {f"{k}/level_{n}": v for k, values in found.items() for n, v in enumerate(values)}
    return levels | {f"{key}/expert": values[-1] for key, values in found.items()}


def at(name: str, *values: float) -> dict[str, float]:
    """The statistics of a cut, in the order of NAMES."""
    return {f"{key}/{name}": value for key, value in zip(NAMES, values, strict=True)}


# ------------------------------------------------------------------ by hand


def test_a_flat_tree_by_hand() -> None:
    # Shares 1/2, 1/4, 1/4, 0 where 1/4 is even: ratios 2, 1, 1, 0.
    # cv^2 = (1 + 0 + 0 + 1) / 4; H = ln 2 / 2 + 2 ln 4 / 4 = 1.5 ln 2, of ln 4: as 2^1.5 experts
    # would have; one of four dead, so starved. Gini: the six pairs differ by 1/4, 1/4, 1/2, 0, 1/4,
    # 1/4, twice the sum is 3, over 2 * 4.
    expected = FOUR
    assert statistics(Tree.from_spec([4]), [4, 2, 2, 0]) == pytest.approx(
        at("level_0", *expected) | at("expert", *expected)
    )


def test_a_department_may_be_even_inside_and_overloaded_as_a_whole() -> None:
    # Departments 3/4 and 1/4: ratios 1.5, 0.5; their entropy is that of a 3:1 coin, in bits. Gini:
    # two ordered pairs differ by a half, over 2 * 2.
    bits = 0.75 * log2(4 / 3) + 0.25 * log2(4)
    department = (0.5, 0.5, 0.5, bits, 2**bits / 2, 0.25, 0.0, 0.0)
    # Experts 3/8, 3/8, 1/8, 1/8: the same ratios; H = (6/8 log2(8/3) + 2/8 * 3) bits of 2. Gini:
    # eight ordered pairs differ by a quarter, over 2 * 4.
    bits = 0.75 * log2(8 / 3) + 0.25 * 3
    expert = (0.5, 0.5, 0.5, bits / 2, 2**bits / 4, 0.25, 0.0, 0.0)
    assert statistics(Tree.from_spec([2, 2]), [3, 3, 1, 1]) == pytest.approx(
        at("level_0", *department) | at("level_1", *expert) | at("expert", *expert)
    )


def test_departments_may_be_even_and_their_experts_not() -> None:
    found = statistics(Tree.from_spec([2, 2]), [4, 0, 2, 2])
    # Experts have ratios 2, 0, 1, 1, as in the flat tree above.
    expert = FOUR
    assert found == pytest.approx(
        at("level_0", *EVEN) | at("level_1", *expert) | at("expert", *expert)
    )


def test_a_ragged_tree_is_measured_against_the_experts_below() -> None:
    tree = Tree.from_spec({"solo": 1, "team": 3})
    # Level 0: solo and team got a half each where 1/4 and 3/4 are even: ratios 2 and 2/3.
    # cv^2 = 1/4 (2 - 1)^2 + 3/4 (2/3 - 1)^2 = 1/3.
    # KL = (ln 2 + ln 2/3) / 2 = ln(4/3) / 2; at most ln 4, if solo got all.
    # Gini = 1/2 * 2 * 1/4 * 3/4 * |2 - 2/3| = 1/4.
    divergence = log(4 / 3) / 2
    top = (sqrt(1 / 3), 1.0, 1 / 3, 1 - divergence / log(4), exp(-divergence), 0.25, 0.0, 0.0)
    # All experts: solo 1/2, team 1/4, 1/4, 0.
    expert = FOUR
    assert statistics(tree, [4, 2, 2, 0]) == pytest.approx(
        at("level_0", *top) | at("level_1", *expert) | at("expert", *expert)
    )


def test_a_cut_counts_the_experts_above_its_level() -> None:
    # Experts in node order: a, b.c, b.d.0, b.d.1. The cut at level 1 is a, b.c, b.d.
    tree = Tree.from_spec({"a": 1, "b": {"c": 1, "d": 2}})
    share_C, even_C = cut_shares(torch.tensor([1, 2, 3, 4]), tree, level=1)
    assert share_C.tolist() == pytest.approx([0.1, 0.2, 0.7])
    assert even_C.tolist() == [0.25, 0.25, 0.5]
    assert (share_C.dtype, even_C.dtype) == (torch.float64, torch.float64)


def test_starved_is_less_than_a_tenth_of_the_even_load() -> None:
    # 100 rows of 5 experts: 20 are even, 2 are a tenth.
    found = statistics(Tree.from_spec([5]), [0, 1, 2, 3, 94])
    assert found["dead/expert"] == pytest.approx(0.2)
    assert found["starved/expert"] == pytest.approx(0.4)
    # Of a team of three 60 are even: 5 rows starve it, though not an expert by itself.
    tree = Tree.from_spec({"team": 3, "a": 1, "b": 1})
    assert statistics(tree, [0, 5, 0, 45, 50])["starved/level_0"] == pytest.approx(1 / 3)


# ------------------------------------------------------------------ laws


@pytest.mark.parametrize("rows_each", [1, 7, 12345])
def test_even_load_is_zero_and_one_at_every_level(tree: Tree, rows_each: int) -> None:
    cuts = [*(f"level_{level}" for level in range(tree.num_levels)), "expert"]
    expected = {k: v for cut in cuts for k, v in at(cut, *EVEN).items()}
    found = statistics(tree, [rows_each] * tree.num_experts)
    assert found == pytest.approx(expected, abs=1e-12)


def test_the_finest_level_is_that_of_the_experts(tree: Tree) -> None:
    found = statistics(tree, torch.randint(0, 9, (tree.num_experts,)).tolist())
    for key in NAMES:
        assert found[f"{key}/expert"] == found[f"{key}/level_{tree.num_levels - 1}"]


def test_a_run_tells_few_of_every_level_and_all_of_experts(tree: Tree) -> None:
    load_E = torch.randint(0, 9, (tree.num_experts,))
    found, of_all = load_statistics(load_E, tree), everything(load_E, tree)
    assert found.items() <= of_all.items()
    levels = [f"level_{level}" for level in range(tree.num_levels)]
    told = {f"{s}/{level}" for s in ("cv", "max_violation", "entropy", "dead") for level in levels}
    assert set(found) == told | {f"{name}/expert" for name in NAMES}


@pytest.mark.parametrize("tree_name", UNIFORM)
def test_with_equal_even_shares_the_formulas_are_the_usual_ones(tree_name: str) -> None:
    tree = Tree.from_spec(TREES[tree_name])
    for _ in range(20):
        load_E = torch.randint(0, 50, (tree.num_experts,))
        found = everything(load_E, tree)
        for level in range(tree.num_levels):
            nodes = tree.level_slices[level]
            group = tree.num_experts // (nodes.stop - nodes.start)
            load_C = load_E.numpy().reshape(-1, group).sum(1)
            p_C = load_C[load_C > 0] / load_C.sum()
            entropy = -(p_C * np.log(p_C)).sum()
            share_C = load_C / load_C.sum()
            usual = (
                load_C.std() / load_C.mean(),
                load_C.max() / load_C.mean() - 1,
                1 - load_C.min() / load_C.mean(),
                entropy / np.log(len(load_C)),
                np.exp(entropy) / len(load_C),
                np.abs(share_C[:, None] - share_C).sum() / (2 * len(load_C)),
                (load_C == 0).mean(),
                (load_C < 0.1 * load_C.mean()).mean(),
            )
            expected = at(f"level_{level}", *usual)
            assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-12)


def test_entropy_is_zero_only_with_all_rows_at_a_smallest_node(tree: Tree) -> None:
    for expert in range(tree.num_experts):
        loads = [0] * tree.num_experts
        loads[expert] = 3
        found = statistics(tree, loads)
        assert found["entropy/expert"] == pytest.approx(0.0, abs=1e-12)
        assert found["max_violation/expert"] == pytest.approx(tree.num_experts - 1)
        assert found["cv/expert"] == pytest.approx(sqrt(tree.num_experts - 1))
        assert found["dead/expert"] == pytest.approx(1 - 1 / tree.num_experts)
        for level in range(tree.num_levels):
            cut = tree.cut(level)
            smallest = min(tree.num_below_N[n] for n in cut)
            at_smallest = any(
                (n, expert) in tree.below for n in cut if tree.num_below_N[n] == smallest
            )
            assert (found[f"entropy/level_{level}"] < 1e-12) == at_smallest


def test_statistics_stay_in_their_ranges(tree: Tree) -> None:
    ranges = {name: (0, inf if name in ("cv", "max_violation") else 1) for name in NAMES}
    for _ in range(50):
        load_E = torch.randint(0, 3, (tree.num_experts,)) ** 3
        load_E[0] += 1
        found = everything(load_E, tree)
        for key, value in found.items():
            low, high = ranges[key.split("/")[0]]
            assert low - 1e-12 <= value <= high + 1e-12


def test_no_statistic_depends_on_the_number_of_rows(tree: Tree) -> None:
    load_E = torch.randint(0, 9, (tree.num_experts,))
    assert everything(load_E, tree) == pytest.approx(everything(load_E * 1000, tree))


def test_merging_departments_hides_unevenness_but_never_adds_any(tree: Tree) -> None:
    """A coarser cut is at least as even, by the convexity of these measures."""
    for _ in range(20):
        found = everything(torch.randint(0, 9, (tree.num_experts,)), tree)
        for name in ("cv", "max_violation", "min_violation", "gini"):
            values = [found[f"{name}/level_{n}"] for n in range(tree.num_levels)]
            assert values == pytest.approx(sorted(values))
        effective = [found[f"effective/level_{n}"] for n in range(tree.num_levels)]
        assert effective == pytest.approx(sorted(effective, reverse=True))


def test_gini_is_half_the_mean_difference_of_experts_by_cut(tree: Tree) -> None:
    """On ragged trees: of two experts drawn at random, each as busy as the mean of its node."""
    for level in range(tree.num_levels):
        load_E = torch.randint(0, 9, (tree.num_experts,))
        share_C, even_C = cut_shares(load_E, tree, level)
        ratio_C = share_C / even_C
        differences = (ratio_C[:, None] - ratio_C).abs() * even_C[:, None] * even_C
        assert gini(share_C, even_C).item() == pytest.approx(differences.sum().item() / 2)


def test_without_rows_all_nodes_are_dead_and_nothing_looks_even(tree: Tree) -> None:
    found = statistics(tree, [0] * tree.num_experts)
    for level in range(tree.num_levels):
        # No share is above 0: cv is sqrt(sum even), the busiest node has 0 times its even load.
        expected = at(f"level_{level}", 1.0, -1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0)
        assert {key: found[key] for key in expected} == pytest.approx(expected)


def test_each_statistic_is_a_function_of_shares_alone() -> None:
    share_C, even_C = torch.tensor([0.5, 0.5]).double(), torch.tensor([0.25, 0.75]).double()
    assert cv(share_C, even_C).item() == pytest.approx(sqrt(1 / 3))
    assert max_violation(share_C, even_C).item() == pytest.approx(1.0)
    assert normalised_entropy(share_C, even_C).item() == pytest.approx(1 - log(4 / 3) / log(16))
    assert min_violation(share_C, even_C).item() == pytest.approx(1 / 3)
    assert effective_share(share_C, even_C).item() == pytest.approx(sqrt(3 / 4))
    assert gini(share_C, even_C).item() == pytest.approx(0.25)
    assert dead_share(share_C, even_C).item() == starved_share(share_C, even_C).item() == 0.0


# ------------------------------------------------------------------ sums over batches and ranks


def routings(tree_name: str, batches: int) -> list[Routing]:
    layer = make_layer(tree_name, "top_2")
    return [layer(torch.randn(17, DIM))[1] for _ in range(batches)]


def summed(parts: list[Routing]) -> dict[str, float]:
    experts_R = torch.cat([routing.expert_R for routing in parts])
    tree = parts[0].tree
    load_E = torch.bincount(experts_R, minlength=tree.num_experts)
    return load_statistics(load_E, tree) | {DROPPED: 0.0}


@pytest.mark.parametrize("tree_name", TREES)
def test_the_class_is_the_function_of_all_batches_together(tree_name: str) -> None:
    parts = routings(tree_name, batches=4)
    metric = LoadMetrics(tree=parts[0].tree)
    for routing in parts:
        metric.update(routing)
    assert metric.compute() == summed(parts)
    assert metric.compute() != summed(parts[:1])


def test_metrics_of_two_ranks_are_those_of_all_rows() -> None:
    parts = routings("ragged", batches=4)
    ranks = [LoadMetrics(tree=parts[0].tree) for _ in range(2)]
    for number, routing in enumerate(parts):
        ranks[number % 2].update(routing)
    alone = ranks[1].compute()
    assert alone == summed(parts[1::2])
    # As across processes: `compute` gathers the state of every rank, then reduces.
    ranks[0].distributed_available_fn = lambda: True
    ranks[0].dist_sync_fn = lambda state, group: [
        state,
        ranks[1].load_E if state.ndim else ranks[1].dropped,
    ]
    assert ranks[0].compute() == summed(parts)
    assert ranks[0].load_E.sum() == 2 * 17 * 2  # its own rows again


def test_rows_that_were_dropped_count_as_load_and_are_told() -> None:
    tree = Tree.from_spec([2])
    # Three of four tokens want expert 0, which takes ceil(1.0 * 4 / 2) = 2.
    asked = make_routing(tree, [[0], [0], [0], [1]])
    kept = limited(asked, capacity=1.0, drop="order")
    assert kept.load_E.tolist() == [2, 1]
    metric = LoadMetrics(tree=tree)
    metric.update(kept)
    found = metric.compute()
    assert found.pop(DROPPED) == 0.25
    assert found == load_statistics(asked.load_E, tree)
    assert found["cv/expert"] == 0.5


def test_a_reset_forgets_all_rows() -> None:
    before, after = routings("grid", batches=2)
    metric = LoadMetrics(tree=before.tree)
    metric.update(before)
    metric.reset()
    metric.update(after)
    assert metric.compute() == summed([after])


def test_counts_stay_exact_beyond_what_a_float32_can_count() -> None:
    tree = Tree.from_spec([2])
    metric = LoadMetrics(tree=tree)
    metric.load_E += torch.tensor([2**24, 2**24])
    metric.update(make_routing(tree, [[0]]))
    assert metric.load_E.tolist() == [2**24 + 1, 2**24]
    assert metric.compute()["max_violation/expert"] > 0
