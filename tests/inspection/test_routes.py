"""Routes: a node shut, by hand and by law on all trees; narrow searches by hand."""

from typing import Any

import pytest
import torch

from hmoe.inspection.routes import _NeededError, _Recalls, nodes_below, policies, route_without
from hmoe.layer import HMoE, Tree
from tests.cases import (
    CASES,
    DIM,
    SELECTIONS,
    TREES,
    best,
    bottom_up,
    down,
    heads,
    layer_of,
    make_layer,
    tied,
    top_down,
)

TOP_1 = best(1)
# Two departments, .7 and .3; experts .6 and .4 of the first, .8 and .2 of the second.
NODES = [0.7, 0.3, 0.6, 0.4, 0.8, 0.2]


def by_bias(gate: Any, values: list[float], selection: Any = TOP_1) -> HMoE:
    """A layer of 2 x 2 experts whose gate says the same of every token: exp of its raw scores."""
    layer = layer_of(tree=Tree.from_spec([2, 2]), gate=gate, selection=selection)(dim=DIM)
    scorers = getattr(layer.gate, "scorers", None) or [layer.gate.scorer]
    with torch.no_grad():
        left = torch.tensor(values).log()
        for scorer in scorers:
            scorer.weight_MD.zero_()
            scorer.bias_M.copy_(left[: len(scorer.bias_M)])
            left = left[len(scorer.bias_M) :]
    return layer.eval()


@torch.no_grad()
def weights(layer: HMoE, node: int | None) -> dict[int, float]:
    """Experts of one token and their weights, with a node shut or none."""
    x_TD = torch.ones(1, DIM)
    routing = layer.route(x_TD, None) if node is None else route_without(layer, node, x_TD, None)
    pairs = zip(routing.expert_R.tolist(), routing.weight_R.tolist(), strict=True)
    return {expert: pytest.approx(weight, abs=1e-6) for expert, weight in pairs}


@pytest.mark.parametrize(
    ("gate", "values", "expected"),
    [
        # Nobody shut, the first department, the second, the first expert.
        (top_down(), NODES, [{0: 0.42}, {2: 0.8}, {0: 0.6}, {1: 0.7}]),
        # Flat shares .42 .28 .24 .06: what is left shares all.
        (
            bottom_up(),
            [0.42, 0.28, 0.24, 0.06],
            [{0: 0.42}, {2: 0.24 / 0.3}, {0: 0.42 / 0.7}, {1: 0.28 / 0.58}],
        ),
        # a / (1 + a) each, products .4 .2 .375 .25: siblings do not take over a weight.
        (
            top_down(link="sigmoid"),
            [4, 1, 1, 1 / 3, 3, 1],
            [{0: 0.4}, {2: 0.375}, {0: 0.4}, {2: 0.375}],
        ),
        # Places .6 and .4 in both departments; the place is shut in one of them only.
        (tied(), [0.7, 0.3, 0.6, 0.4], [{0: 0.42}, {2: 0.6}, {0: 0.6}, {1: 0.7}]),
    ],
)
def test_siblings_take_over_by_hand(
    gate: Any, values: list[float], expected: list[dict[int, float]]
) -> None:
    layer = by_bias(gate, values)
    assert [weights(layer, node) for node in (None, 0, 1, 2)] == expected


def test_two_of_two_children_are_one_when_the_other_is_shut() -> None:
    layer = by_bias(top_down(), NODES, down((1, 2)))
    assert weights(layer, None) == {0: 0.7 * 0.6, 1: 0.7 * 0.4}
    assert weights(layer, 2) == {1: 0.7}


def test_a_rule_that_needs_the_node_says_so() -> None:
    layer = by_bias(top_down(score="random"), NODES, best(4, weights="even"))
    with pytest.raises(_NeededError):
        weights(layer, 0)


@pytest.mark.parametrize(("tree", "selection"), CASES)
@pytest.mark.parametrize("gate", ["top_down", "bottom_up", "groups", "heads"])
def test_a_node_that_is_shut_gets_no_rows(tree: str, selection: str, gate: str) -> None:
    layer = make_layer(tree, selection, gate).eval()
    x_TD = torch.randn(20, DIM)
    expert_N = {node: expert for expert, node in enumerate(layer.tree.node_E)}
    for node in range(layer.tree.num_nodes):
        below = {expert_N[n] for n in nodes_below(layer.tree, node) if n in expert_N}
        assert len(below) == layer.tree.num_below_N[node]
        with torch.no_grad():
            routing = route_without(layer, node, x_TD, None)
        assert below.isdisjoint(routing.expert_R.tolist())
        assert len(routing.expert_R) > 0


@pytest.mark.parametrize("gate", [top_down, bottom_up])
def test_what_is_left_is_the_conditional_probability(tree: Tree, gate: Any) -> None:
    """P(expert | not this node): a top-down gate shares out below the node's parent, a flat one
    among all that is left."""
    make = layer_of(tree=tree, gate=gate(init_std=0.3), selection=SELECTIONS["soft"])
    layer = make(dim=DIM).eval()
    x_TD = torch.randn(6, DIM)
    with torch.no_grad():
        scores = layer.gate(x_TD)
        for node in range(tree.num_nodes):
            routing = route_without(layer, node, x_TD, None)
            parent = tree.parent_N[node] if gate is top_down else -1
            shared = range(tree.num_nodes) if parent < 0 else nodes_below(tree, parent)
            of_T = scores.probs_TN if gate is top_down else scores.weight_TN
            for token, expert, weight in zip(
                routing.token_R.tolist(), routing.expert_R.tolist(), routing.weight_R, strict=True
            ):
                leaf = tree.node_E[expert]
                kept = 1 - of_T[token, node] if leaf in shared else 1.0
                expected = scores.weight_TN[token, leaf] / kept
                torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-6)


def test_searches_that_there_are() -> None:
    def names(tree: str, selection: Any) -> list[str]:
        spec = Tree.from_spec(TREES[tree])
        return list(policies(layer_of(tree=spec, selection=selection)(dim=DIM)))

    assert names("flat", best(2)) == []  # nothing is searched
    assert names("grid", best(2)) == ["exact", "beam 1", "beam 2"]
    assert names("grid", best(5)) == ["exact", "beam 2"]  # one unit has four experts
    assert names("grid", best(2, beam=1)) == ["exact", "beam 1", "beam 2"]
    assert names("grid", down(1)) == ["exact", "descend", "beam 1", "beam 2"]
    assert names("grid", down((2, 3))) == ["exact", "descend", "beam 2"]  # six experts
    assert names("grid", down(2, weights="renormalized")) == []  # weighed among siblings
    assert names("grid", down(2, weights=("probs", "renormalized"))) == []
    assert names("grid", down((None, 1))) == []  # all units
    assert names("ragged", down(1)) == []  # tokens differ in how many experts they have
    assert names("grid", SELECTIONS["soft"]) == []


def test_greedy_descent_misses_the_best_expert_of_the_other_department() -> None:
    """Paths .3 .3 | .36 .04: the best is in the second department, which looks worse."""
    layer = by_bias(top_down(), [0.6, 0.4, 0.5, 0.5, 0.9, 0.1])
    recalls = _Recalls(layer, policies(layer), torch.device("cpu"))
    with torch.no_grad():
        chosen = recalls.route(torch.ones(3, DIM), None)
        greedy = recalls.plain("beam 1")(torch.ones(3, DIM), None)
    assert chosen.expert_R.tolist() == [2, 2, 2]
    assert set(greedy.expert_R.tolist()) <= {0, 1}
    assert recalls.shares() == {"exact": 1.0, "beam 1": 0.0}


def test_what_a_descent_misses() -> None:
    """The same paths: the descent takes an expert of .3, the joint choice that of .36."""
    layer = by_bias(top_down(), [0.6, 0.4, 0.5, 0.5, 0.9, 0.1], down(1))
    recalls = _Recalls(layer, policies(layer), torch.device("cpu"))
    with torch.no_grad():
        chosen = recalls.route(torch.ones(3, DIM), None)
        own = recalls.plain("descend")(torch.ones(3, DIM), None)
    assert chosen.expert_R.tolist() == [2, 2, 2]
    assert chosen.weight_R.tolist() == pytest.approx([0.36] * 3)
    assert own.weight_R.tolist() == pytest.approx([0.3] * 3)
    assert recalls.shares() == {"exact": 1.0, "descend": 0.0, "beam 1": 0.0}


def test_a_descent_to_one_unit_is_a_beam_of_one() -> None:
    """The same experts for the same weights, so that losses differ by the search alone."""
    tree, gate = Tree.from_spec([3, 4]), top_down(init_std=0.3)
    make = layer_of(tree=tree, gate=gate, selection=down((1, 2)))
    layer = make(dim=DIM).eval()
    recalls = _Recalls(layer, policies(layer), torch.device("cpu"))
    x_TD = torch.randn(20, DIM)
    with torch.no_grad():
        pair = [recalls.plain(policy)(x_TD, None) for policy in ("descend", "beam 1")]
    found_TE, expected_TE = (
        torch.zeros(20, 12).index_put((r.token_R, r.expert_R), r.weight_R) for r in pair
    )
    torch.testing.assert_close(found_TE, expected_TE)


def test_a_search_of_two_finds_one_of_them() -> None:
    """Two of .3 .3 | .36 .04: exact finds 2 and one of 0, 1; greedy 0 and 1."""
    layer = by_bias(top_down(), [0.6, 0.4, 0.5, 0.5, 0.9, 0.1], best(2))
    recalls = _Recalls(layer, policies(layer), torch.device("cpu"))
    with torch.no_grad():
        recalls.route(torch.ones(3, DIM), None)
    assert recalls.shares() == {"exact": 1.0, "beam 1": 0.5}


def test_heads_that_hide_units_keep_them_hidden() -> None:
    gate = heads(visible=[["0", "1"], ["1"]])
    layer = layer_of(tree=Tree.from_spec([3, 2]), gate=gate, selection=best(1))(dim=DIM)
    layer.eval()
    with torch.no_grad():
        routing = route_without(layer, 0, torch.randn(5, DIM), None)
    assert set(routing.expert_R.tolist()) <= {2, 3}  # unit 1 is all that either head has left
