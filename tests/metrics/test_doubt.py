"""Doubt: entropy and margins by hand, at their ends, and of a gate's own routing.

Letters: T tokens, N nodes, G sibling groups, L levels.
"""

from math import log

import numpy as np
import pytest
import torch
from hypothesis import given

from hmoe.layer import Tree
from hmoe.layer.routing import Routing
from hmoe.layer.scores import Unscored
from hmoe.layer.tree_ops import sibling_softmax
from hmoe.metrics import Doubt, group_margins, level_entropy
from tests.cases import DIM, make_layer, make_routing
from tests.cases import TREES as SPECS
from tests.layer.test_laws import SEEDS, TREES, law


def doubt(*routings: Routing) -> tuple[np.ndarray, np.ndarray]:
    metric = Doubt(tree=routings[0].tree)
    for routing in routings:
        metric.update(routing)
    return metric.compute()


# ------------------------------------------------------------------ by hand


def test_two_levels_by_hand() -> None:
    tree = Tree.from_spec([2, 2])
    # The first token is decided between departments 3:1 and, inside the first, 4:1.
    probs_TN = torch.tensor([[0.75, 0.25, 0.8, 0.2, 0.5, 0.5], [0.5, 0.5, 0.6, 0.4, 0.9, 0.1]])
    top = [0.75 * log(4 / 3) + 0.25 * log(4), log(2)]
    # Experts: the entropy of the department, and of its experts as often as it is reached.
    inside = [
        0.75 * (0.8 * log(1 / 0.8) + 0.2 * log(5)) + 0.25 * log(2),
        0.5 * (0.6 * log(1 / 0.6) + 0.4 * log(2.5)) + 0.5 * (0.9 * log(1 / 0.9) + 0.1 * log(10)),
    ]
    expected = [[a / log(2), (a + b) / log(4)] for a, b in zip(top, inside, strict=True)]
    found = level_entropy(probs_TN, tree)
    assert found.tolist() == [pytest.approx(each) for each in expected]
    margins = [[log(3), log(4), 0], [0, log(1.5), log(9)]]
    assert group_margins(probs_TN, tree).tolist() == [pytest.approx(m, abs=1e-6) for m in margins]
    # The first token works in the first department, the second in both.
    entropy_L, margin_L = doubt(make_routing(tree, [[0], [1, 2]], probs_TN))
    assert entropy_L.tolist() == pytest.approx(np.mean(expected, axis=0).tolist())
    decided = (log(4) + log(1.5) + log(9)) / 3
    assert margin_L.tolist() == pytest.approx([log(3) / 2, decided])


def test_a_shallow_expert_leaves_no_decision_below_it() -> None:
    tree = Tree.from_spec({"solo": 1, "team": 2})
    probs_TN = torch.tensor([[0.5, 0.5, 0.9, 0.1]])
    _, margin_L = doubt(make_routing(tree, [[0]], probs_TN))
    assert margin_L[0] == pytest.approx(0)
    assert np.isnan(margin_L[1])


def test_a_gate_that_is_sure_has_a_finite_margin() -> None:
    tree = Tree.from_spec([3])
    entropy_L, margin_L = doubt(make_routing(tree, [[0]], torch.tensor([[1.0, 0.0, 0.0]])))
    assert entropy_L.tolist() == [0.0]
    assert margin_L[0] == pytest.approx(-log(torch.finfo(torch.float32).tiny))


def test_a_lazy_descent_tells_no_doubt() -> None:
    tree = Tree.from_spec([2, 2])
    rows = make_routing(tree, [[0], [3]])
    lazy = Routing(Unscored(tree, 2), rows.token_R, rows.expert_R, rows.weight_R)
    for found_L in doubt(lazy):
        assert np.isnan(found_L).all()
        assert found_L.shape == (2,)


# ------------------------------------------------------------------ laws


@law
@given(TREES, SEEDS)
def test_entropy_is_between_sure_and_even(tree: Tree, seed: int) -> None:
    logits_TN = torch.randn(5, tree.num_nodes, generator=torch.Generator().manual_seed(seed))
    sure = level_entropy(sibling_softmax(200 * logits_TN.sign(), tree), tree)
    found = level_entropy(sibling_softmax(logits_TN, tree), tree)
    for entropy_TL in (found, sure):
        assert entropy_TL.min() >= -1e-6
        assert entropy_TL.max() <= 1 + 1e-6
    # Even over all experts: each node in proportion to the experts below it.
    even_N = tree.index("share_N", torch.device("cpu"))
    assert level_entropy(even_N[None], tree)[0, -1].item() == pytest.approx(1.0, abs=1e-6)


@law
@given(TREES, SEEDS)
def test_margins_are_differences_of_the_best_two_raw_scores(tree: Tree, seed: int) -> None:
    logits_TN = torch.randn(4, tree.num_nodes, generator=torch.Generator().manual_seed(seed))
    found_TG = group_margins(sibling_softmax(logits_TN, tree), tree)
    groups = [
        [n for n, up in enumerate(tree.parent_N) if up == p] for p in dict.fromkeys(tree.parent_N)
    ]
    for group, found_T in zip(groups, found_TG.T, strict=True):
        best_T2 = logits_TN[:, group].topk(2).values
        torch.testing.assert_close(found_T, best_T2[:, 0] - best_T2[:, 1], atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize("tree_name", SPECS)
def test_the_class_is_the_mean_over_all_tokens(tree_name: str) -> None:
    layer = make_layer(tree_name, "top_2")
    routings = [layer(torch.randn(size, DIM))[1] for size in (3, 14)]
    tree, parts = layer.tree, [doubt(routing) for routing in routings]
    entropy_L, margin_L = doubt(*routings)
    weighed_L = (3 * parts[0][0] + 14 * parts[1][0]) / 17
    assert entropy_L.tolist() == pytest.approx(weighed_L.tolist())
    # At level 0 every token is decided once.
    assert margin_L[0] == pytest.approx((3 * parts[0][1][0] + 14 * parts[1][1][0]) / 17)
    assert (margin_L > 0).all()
    assert entropy_L.shape == margin_L.shape == (tree.num_levels,)
