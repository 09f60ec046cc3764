"""A capacity does not hide what it drops: terms and controllers count the rows asked for."""

import pytest
import torch

from hmoe.balance import Balance, BiasController, importance_cv2, load_cv2, switch_loss
from hmoe.layer import Tree
from hmoe.layer.tree_ops import sibling_softmax
from tests.cases import best, choice_of, given, layer_of

TERMS = {
    "switch": lambda routing: switch_loss(routing, statistics="micro"),
    "sequence": lambda routing: switch_loss(routing, statistics="sequence"),
    "importance": importance_cv2,
    "load": load_cv2,
}


def routed(tree: Tree, logits_TN: torch.Tensor, capacity: float | None):
    probs_TN = sibling_softmax(logits_TN, tree)
    rule = best(2, weights="renormalized", capacity=capacity)
    return rule(given(tree, probs_TN), choice_of(tree, probs_TN))


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("spec", [[8], [2, 4]])
def test_a_term_is_that_of_the_rows_asked_for(term: str, spec: list[int]) -> None:
    tree = Tree.from_spec(spec)
    # Everybody likes the first nodes, so that a capacity binds.
    logits_TN = torch.randn(64, tree.num_nodes) + torch.linspace(2, 0, tree.num_nodes)
    results = []
    for capacity in (None, 0.5):
        leaf_TN = logits_TN.clone().requires_grad_()
        layer_routing = routed(tree, leaf_TN, capacity)
        routing = type(layer_routing)(**{**vars(layer_routing), "num_sequences": 4})
        values = TERMS[term](routing)
        total = sum(values.values())
        gradient = torch.autograd.grad(total, leaf_TN)[0] if total.requires_grad else None
        results.append(([v.item() for v in values.values()], gradient, routing.load_E.sum()))
    (values, gradient, rows), (capped, capped_gradient, kept) = results
    assert kept < rows, "the capacity must bind"
    assert capped == values
    if gradient is None:
        assert capped_gradient is None
    else:
        assert torch.equal(capped_gradient, gradient)


def test_the_switch_loss_under_a_capacity_is_the_papers() -> None:
    """Fedus et al. (2021), eq. 4-6: f counts argmax, P all tokens, whatever is dropped after."""
    tree = Tree.from_spec([4])
    logits_TN = torch.randn(256, 4) + torch.tensor([1.5, 0.0, 0.0, 0.0])
    probs_TN = logits_TN.softmax(-1)
    rule = best(1, capacity=1.25)
    routing = rule(given(tree, probs_TN), choice_of(tree, probs_TN))
    assert routing.load_E.max() == 80  # ceil(1.25 * 256 / 4)
    f = torch.bincount(probs_TN.argmax(-1), minlength=4) / 256
    assert f.max() > 80 / 256
    expected = 4 * (f * probs_TN.mean(0)).sum()
    assert switch_loss(routing, statistics="micro")["level_0"].item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_a_controller_answers_the_rows_asked_for() -> None:
    """Asked 6, 1, 1, 0 of 8 rows; a capacity of 1/2 keeps 1 of each and would look even."""
    layer = layer_of(tree=Tree.from_spec([4]), selection=best(1, capacity=0.5))(dim=8)
    controller = BiasController(rate=1.0, rule="size", among="siblings")
    balance = Balance(terms={}, bias=controller)
    balance.attach(layer)
    with torch.no_grad():
        layer.gate.scorers[0].weight_MD.zero_()
        layer.gate.scorers[0].weight_MD[:, :4] = 10 * torch.eye(4)
    x = torch.zeros(8, 8)
    for token, expert in enumerate([0, 0, 0, 0, 0, 0, 1, 2]):
        x[token, expert] = 1.0
    _, routing = layer(x)
    assert routing.load_E.tolist() == [1, 1, 1, 0]
    balance.step(layer, [routing])
    assert layer.bias_N.tolist() == [-0.5, 0.125, 0.125, 0.25]
