"""Selections: rows written out by hand, laws, and options that cannot work."""

import pytest
import torch

from hmoe.errors import ConfigError
from hmoe.layer import Routing, Tree, soft
from hmoe.layer.beam import beam_search
from hmoe.layer.tree_ops import path_product, sibling_softmax
from tests.cases import CASES, SELECTIONS, TREES, best, choice_of, down, given

# Departments 0 and 1 of two experts each. Reach of the experts: token 0 .30 .30* .36 .04, where
# department 0 is likelier but the single best expert sits in department 1.
GRID = Tree.from_spec([2, 2])
PROBS = torch.tensor([[0.6, 0.4, 0.5, 0.5, 0.9, 0.1], [0.3, 0.7, 0.9, 0.1, 0.6, 0.4]])


def rows(routing: Routing) -> list[tuple[int, int, float]]:
    """(token, expert, weight to 4 digits), sorted by token and expert."""
    weights = routing.weight_R.tolist()
    listed = zip(routing.token_R.tolist(), routing.expert_R.tolist(), weights, strict=True)
    return sorted((t, e, round(w, 4)) for t, e, w in listed)


def test_soft_weighs_all_experts_by_their_path() -> None:
    assert rows(soft(given(GRID, PROBS), choice_of(GRID, PROBS))) == [
        *[(0, 0, 0.3), (0, 1, 0.3), (0, 2, 0.36), (0, 3, 0.04)],
        *[(1, 0, 0.27), (1, 1, 0.03), (1, 2, 0.42), (1, 3, 0.28)],
    ]


def test_top_k_takes_the_best_paths() -> None:
    routing = best(k=1)(given(GRID, PROBS), choice_of(GRID, PROBS))
    assert rows(routing) == [(0, 2, 0.36), (1, 2, 0.42)]


def test_top_k_renormalises_over_the_chosen() -> None:
    routing = best(k=2, weights="renormalized")(given(GRID, PROBS[1:]), choice_of(GRID, PROBS[1:]))
    assert rows(routing) == [(0, 2, 0.6), (0, 3, 0.4)]  # .42 and .28 of .70


def test_a_narrow_beam_misses_the_best_expert_of_the_other_department() -> None:
    probs = PROBS[:1].clone()
    probs[0, 2:4] = torch.tensor([0.51, 0.49])
    routing = best(k=1, beam=1)(given(GRID, probs), choice_of(GRID, probs))
    assert rows(routing) == [(0, 0, 0.306)]  # .36 sits in the department that was dropped


def test_descend_follows_the_better_child_at_each_level() -> None:
    probs = PROBS.clone()
    probs[0, 2:4] = torch.tensor([0.49, 0.51])
    routing = down(k=1)(given(GRID, probs), choice_of(GRID, probs))
    assert rows(routing) == [(0, 1, 0.306), (1, 2, 0.42)]


def test_descend_with_a_number_per_level() -> None:
    routing = down(k=[2, 1])(given(GRID, PROBS[1:]), choice_of(GRID, PROBS[1:]))
    assert rows(routing) == [(0, 0, 0.27), (0, 2, 0.42)]


def test_experts_are_chosen_by_choice_and_weighed_by_probs() -> None:
    choice = PROBS[:1].clone()
    choice[0, :2] = torch.tensor([0.9, 0.1])  # a controller pushes department 0
    choice[0, 2:4] = torch.tensor([0.4, 0.6])
    for routing in (
        best(k=1)(given(GRID, PROBS[:1]), choice_of(GRID, choice)),
        down(k=1)(given(GRID, PROBS[:1]), choice_of(GRID, choice)),
    ):
        assert rows(routing) == [(0, 1, 0.3)]


def test_a_beam_does_not_starve_an_expert_above_its_level() -> None:
    tree = Tree.from_spec({"solo": 1, "a": 2, "b": 2})
    # solo has reach .2; both units have more, yet with a beam of 1 solo stays in the running.
    probs = torch.tensor([[0.2, 0.45, 0.35, 0.5, 0.5, 0.9, 0.1]])
    routing = best(k=3, beam=1)(given(tree, probs), choice_of(tree, probs))
    chosen = {tree.path_N[tree.node_E[e]] for e in routing.expert_R.tolist()}
    assert chosen == {"solo", "a.0", "a.1"}


def test_descend_on_a_ragged_tree_gives_tokens_different_numbers_of_experts() -> None:
    tree = Tree.from_spec({"solo": 1, "a": 2, "b": 2})
    probs = torch.tensor([[0.5, 0.3, 0.2, 0.6, 0.4, 0.5, 0.5], [0.1, 0.4, 0.5, 0.6, 0.4, 0.5, 0.5]])
    routing = down(k=2)(given(tree, probs), choice_of(tree, probs))
    # Token 0 keeps solo and unit a (two experts); token 1 keeps both units (four experts).
    assert torch.bincount(routing.token_R).tolist() == [3, 4]


@pytest.mark.parametrize(("tree_name", "selection"), CASES)
def test_every_expert_can_be_reached(tree_name: str, selection: str) -> None:
    tree = Tree.from_spec(TREES[tree_name])
    # Token t is drawn to expert t: high scores along its path.
    logits = torch.zeros(tree.num_experts, tree.num_nodes)
    for node, expert in tree.below:
        logits[expert, node] = 8.0
    probs = sibling_softmax(logits, tree)
    routing = SELECTIONS[selection](given(tree, probs), choice_of(tree, probs))
    pairs = set(zip(routing.token_R.tolist(), routing.expert_R.tolist(), strict=True))
    assert {(e, e) for e in range(tree.num_experts)} <= pairs


@pytest.mark.parametrize(("tree_name", "selection"), CASES)
def test_rows_are_distinct_and_weights_sum_to_at_most_one(tree_name: str, selection: str) -> None:
    tree = Tree.from_spec(TREES[tree_name])
    probs = sibling_softmax(torch.randn(64, tree.num_nodes) * 2, tree)
    routing = SELECTIONS[selection](given(tree, probs), choice_of(tree, probs))
    pairs = routing.token_R * tree.num_experts + routing.expert_R
    assert len(pairs.unique()) == len(pairs)
    assert (routing.token_R.diff() >= 0).all()
    total_T = torch.zeros(64).index_add(0, routing.token_R, routing.weight_R)
    keeps_all = selection == "soft" or selection.endswith("_2")
    assert (total_T <= 1 + 1e-5).all()
    assert not keeps_all or torch.allclose(total_T, torch.ones(64))


def test_a_wide_beam_is_the_exact_search(tree: Tree) -> None:
    if tree.num_levels == 1:
        return
    probs = sibling_softmax(torch.randn(64, tree.num_nodes) * 2, tree)
    wide = best(k=2, beam=tree.num_experts, weights="renormalized")(
        given(tree, probs), choice_of(tree, probs)
    )
    exact = best(k=2, weights="renormalized")(given(tree, probs), choice_of(tree, probs))
    assert rows(wide) == rows(exact)


@pytest.mark.parametrize("spec", [[3], [2, 3], [2, 2, 2]])
def test_descend_with_all_children_is_soft(spec: list[int]) -> None:
    tree = Tree.from_spec(spec)
    probs = sibling_softmax(torch.randn(16, tree.num_nodes), tree)
    assert rows(down(k=spec)(given(tree, probs), choice_of(tree, probs))) == rows(
        soft(given(tree, probs), choice_of(tree, probs))
    )


def test_one_level_is_plain_top_k() -> None:
    tree = Tree.from_spec([8])
    probs = torch.randn(64, 8).softmax(-1)
    weight, expert = probs.topk(3)
    for routing in (
        best(k=3)(given(tree, probs), choice_of(tree, probs)),
        down(k=3)(given(tree, probs), choice_of(tree, probs)),
    ):
        expected = [
            (t, e, round(w, 4))
            for t in range(64)
            for e, w in zip(expert[t].tolist(), weight[t].tolist(), strict=True)
        ]
        assert rows(routing) == sorted(expected)


def test_loads_count_rows(tree: Tree) -> None:
    probs = sibling_softmax(torch.randn(32, tree.num_nodes), tree)
    routing = best(k=2, weights="renormalized")(given(tree, probs), choice_of(tree, probs))
    assert (
        routing.load_E.tolist()
        == torch.bincount(routing.expert_R, minlength=tree.num_experts).tolist()
    )
    assert routing.load_N[tree.level_slices[0]].sum() == 64
    assert torch.equal(routing.rows_TN.sum(0).long(), routing.load_N)
    assert torch.allclose(routing.reach_TN, path_product(probs, tree))


RAGGED = TREES["ragged"]


@pytest.mark.parametrize(
    ("spec", "selection", "message"),
    [
        ([8], best(k=9, weights="renormalized"), r"k = 9: must be from 1 to 8"),
        ([8], best(k=0, weights="renormalized"), r"k = 0: must be from 1 to 8"),
        ([8], best(k=1, weights="renormalized"), r"weights = renormalized with .*k = 1"),
        ([8], best(k=2, beam=2, weights="renormalized"), r"beam = 2: tree 8 has one level"),
        (
            [4, 4],
            best(k=2, beam=[2, 2], weights="renormalized"),
            r"2 given, 1 expected",
        ),
        ([4, 4], best(k=2, beam=0, weights="renormalized"), r"beam = 0: every number"),
        ([4, 4], best(k=5, beam=1, weights="renormalized"), r"only 4 experts are sure"),
        (RAGGED, best(k=5, beam=1, weights="renormalized"), r"only \d experts are sure"),
        ([4, 4], down(k=[1]), r"1 given, 2 expected"),
        (
            [4, 4],
            down(k=5),
            r"k on level 0 = 5: must be from 1 to 4",
        ),
        (
            RAGGED,
            down(k=3),
            r"level 1 = 3.*children of unit 'sales'",
        ),
        ([4, 4], down(k=[2, 1], weights="renormalized"), r"weights = renormalized with .*k = 1"),
    ],
)
def test_options_that_cannot_work(spec: object, selection: object, message: str) -> None:
    tree = Tree.from_spec(spec)
    probs = sibling_softmax(torch.zeros(1, tree.num_nodes), tree)
    with pytest.raises(ConfigError, match=message):
        selection(given(tree, probs), choice_of(tree, probs))


@pytest.mark.parametrize("width", [1, 2, 3])
def test_what_a_beam_is_said_to_leave_is_there(tree: Tree, width: int) -> None:
    """The bound that admits k holds for many random gates: all k rows carry real experts."""
    if tree.num_levels == 1:
        return
    probs = sibling_softmax(torch.randn(2000, tree.num_nodes) * 4, tree)
    for k in range(tree.num_experts, 0, -1):
        try:
            routing = best(k=k, beam=width)(given(tree, probs), choice_of(tree, probs))
        except ConfigError:
            continue
        beams = [width] * (tree.num_levels - 1)
        in_running_TE = beam_search(tree, choice_of(tree, probs), beams)
        assert in_running_TE[routing.token_R, routing.expert_R].all()
        return
    raise AssertionError("no k is admitted")


def test_a_level_without_a_capacity_is_left_alone() -> None:
    """Three of four tokens go to department 0, two of them to its first expert."""
    probs = torch.tensor(
        [
            [0.9, 0.1, 0.9, 0.1, 0.5, 0.5],
            [0.9, 0.1, 0.9, 0.1, 0.5, 0.5],
            [0.9, 0.1, 0.1, 0.9, 0.5, 0.5],
            [0.1, 0.9, 0.5, 0.5, 0.9, 0.1],
        ]
    )

    def loads(capacity: list[float | None]) -> list[int]:
        rule = best(k=1, capacity=capacity)
        return rule(given(GRID, probs), choice_of(GRID, probs)).load_E.tolist()

    assert loads([None, None]) == [2, 1, 1, 0]
    assert loads([None, 1.0]) == [1, 1, 1, 0]  # an expert takes 1 of 4
    assert loads([1.0, None]) == [2, 0, 1, 0]  # a department takes 2 of 4
