"""The model and its E-step: by hand, against torch's distributions, and as laws on every tree."""

from math import exp, log, pi

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MixtureSameFamily, Normal
from torch.distributions.categorical import Categorical

from hmoe.classics import Hme, posteriors, with_constant
from hmoe.layer import Tree
from hmoe.layer.tree_ops import at_experts, path_product, sibling_softmax
from tests.classics.random_hme import random_hme, random_rows


def test_two_experts_by_hand() -> None:
    """Gate 3/4 to 1/4 at x = 1; answers 1 and 4, variances 1 and 4; the target is 2.

    Densities: e^(-1/2) / sqrt(2 pi) and e^(-1/2) / (2 sqrt(2 pi)), so the posterior of the first
    is (3/4) / (3/4 + 1/8) = 6/7.
    """
    model = Hme(
        Tree.from_spec([2]),
        gate_NC=torch.tensor([[log(3), 0.0], [0.0, 0.0]]).double(),
        expert_ECO=torch.tensor([[[2.0], [-1.0]], [[1.0], [3.0]]]).double(),
        variance_EO=torch.tensor([[1.0], [4.0]]).double(),
    )
    x_TC, y_TO = with_constant(torch.tensor([[1.0]])), torch.tensor([[2.0]]).double()
    assert model.log_reach(x_TC).exp().tolist() == [pytest.approx([0.75, 0.25])]
    assert model.predict(x_TC).item() == pytest.approx(0.75 * 1 + 0.25 * 4)
    density = exp(-0.5) / (2 * pi) ** 0.5 * (3 / 4 + 1 / 8)
    assert model.log_likelihood(x_TC, y_TO) == pytest.approx(log(density))
    h_TN = posteriors(model.log_joint(x_TC, y_TO), model.tree)
    assert h_TN.tolist() == [pytest.approx([6 / 7, 1 / 7])]


def test_the_posterior_of_a_unit_is_the_sum_over_its_experts() -> None:
    """Two units of two with joint probabilities 1 : 2 : 3 : 4, so h is 3/10 and 7/10."""
    log_joint_TE = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).double().log() - 700
    h_TN = posteriors(log_joint_TE, Tree.from_spec([2, 2]))
    assert h_TN.tolist() == [pytest.approx([0.3, 0.7, 0.1, 0.2, 0.3, 0.4])]


def test_the_likelihood_is_that_of_torchs_mixture(tree: Tree) -> None:
    model, (x_TC, y_TO) = random_hme(tree), random_rows()
    reach_TE = at_experts(path_product(sibling_softmax(x_TC @ model.gate_NC.T, tree), tree), tree)
    scale_TEO = model.variance_EO.sqrt().expand(len(x_TC), -1, -1)
    oracle = MixtureSameFamily(
        Categorical(probs=reach_TE), Independent(Normal(model.answers(x_TC), scale_TEO), 1)
    )
    expected = oracle.log_prob(y_TO).mean().item()
    assert model.log_likelihood(x_TC, y_TO) == pytest.approx(expected)
    torch.testing.assert_close(model.predict(x_TC), oracle.mean)


def test_a_flat_trees_posteriors_are_bayes_rule() -> None:
    model, (x_TC, y_TO) = random_hme(Tree.from_spec([5])), random_rows()
    prior_TE = (x_TC @ model.gate_NC.T).softmax(-1)
    error_TEO = y_TO[:, None] - torch.stack([x_TC @ u for u in model.expert_ECO], 1)
    density_TE = (-(error_TEO**2) / model.variance_EO / 2).exp().prod(-1)
    joint_TE = prior_TE * density_TE / model.variance_EO.prod(-1).sqrt()
    expected = joint_TE / joint_TE.sum(-1, keepdim=True)
    torch.testing.assert_close(posteriors(model.log_joint(x_TC, y_TO), model.tree), expected)


def test_posteriors_of_siblings_sum_to_their_parents(tree: Tree) -> None:
    model, (x_TC, y_TO) = random_hme(tree), random_rows()
    h_TN = posteriors(model.log_joint(x_TC, y_TO), tree)
    sums = {parent: torch.zeros(len(x_TC)).double() for parent in tree.parent_N}
    for node, parent in enumerate(tree.parent_N):
        sums[parent] += h_TN[:, node]
    for parent, total in sums.items():
        whole: Tensor = torch.ones_like(total) if parent == -1 else h_TN[:, parent]
        torch.testing.assert_close(total, whole)


def test_reaches_too_small_for_a_float_are_still_compared() -> None:
    model = Hme(
        Tree.from_spec([2]),
        gate_NC=torch.tensor([[0.0, 2000.0], [0.0, 0.0]]).double(),
        expert_ECO=torch.tensor([[[0.0], [100.0]], [[0.0], [0.0]]]).double(),
        variance_EO=torch.ones(2, 1).double(),
    )
    x_TC, y_TO = with_constant(torch.zeros(1, 1)), torch.zeros(1, 1).double()
    # log joint: -5000 and -2000, each less log sqrt(2 pi).
    assert model.log_likelihood(x_TC, y_TO) == pytest.approx(-2000 - 0.5 * log(2 * pi))
    assert posteriors(model.log_joint(x_TC, y_TO), model.tree).tolist() == [[0.0, 1.0]]
