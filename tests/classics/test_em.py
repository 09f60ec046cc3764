"""EM: the likelihood never falls on any tree, planted pieces are found, the start is linear."""

from dataclasses import replace
from math import log
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hmoe.classics import EmOptions, em_step, start, with_constant
from hmoe.classics.em import fit_gates
from hmoe.classics.hme import posteriors, sibling_log_softmax
from hmoe.errors import ConfigError
from hmoe.layer import Tree
from tests.cases import TREES
from tests.classics.random_hme import random_hme, random_rows

OPTIONS = EmOptions(
    epochs=1,
    newton_steps=2,
    curvature="exact",
    init_std=0.1,
    variance="expert",
    min_variance=1e-4,
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------ laws


@settings(max_examples=25, deadline=None)
@given(
    spec=st.sampled_from(list(TREES.values())),
    seed=st.integers(0, 10_000),
    newton_steps=st.integers(1, 4),
    curvature=st.sampled_from(["exact", "bound"]),
    variance=st.sampled_from(["expert", "shared"]),
    init_std=st.sampled_from([0.01, 1.0, 20.0]),
)
def test_the_likelihood_never_falls(
    spec: Any, seed: int, newton_steps: int, curvature: Any, variance: Any, init_std: float
) -> None:
    """Few rows, so that experts run empty and variances meet their bound: the hard cases."""
    torch.manual_seed(seed)
    x_TC, y_TO = random_rows(40)
    options = replace(
        OPTIONS,
        newton_steps=newton_steps,
        curvature=curvature,
        variance=variance,
        init_std=init_std,
    )
    model = start(Tree.from_spec(spec), x_TC, y_TO, options, generator(seed))
    before = model.log_likelihood(x_TC, y_TO)
    for _ in range(12):
        model = em_step(model, x_TC, y_TO, options)
        after = model.log_likelihood(x_TC, y_TO)
        assert after >= before - 1e-7
        before = after


def test_a_step_goes_up_from_anywhere(tree: Tree) -> None:
    model, (x_TC, y_TO) = random_hme(tree), random_rows()
    after = em_step(model, x_TC, y_TO, OPTIONS)
    assert after.log_likelihood(x_TC, y_TO) > model.log_likelihood(x_TC, y_TO) + 0.1


def test_gates_of_units_weigh_rows_by_their_units_posterior(tree: Tree) -> None:
    """Fitted to the end, every gate's slope is nought: of h_parent (h_child|parent - p), all rows.

    Taken through the whole tree by autograd: sum over nodes of h log P(node | parent).
    """
    model, (x_TC, y_TO) = random_hme(tree), random_rows(300)
    h_TN = posteriors(model.log_joint(x_TC, y_TO), tree)
    gate_NC = fit_gates(model, x_TC, h_TN, replace(OPTIONS, newton_steps=40)).requires_grad_()
    (h_TN * sibling_log_softmax(x_TC @ gate_NC.T, tree)).sum().backward()
    assert gate_NC.grad is not None
    assert gate_NC.grad.abs().max() < 1e-6


def test_a_tree_of_one_unit_and_an_expert_fits_as_three_flat_experts() -> None:
    """With constant gates alone, {a: 1, b: 2} and [3] are one model; EM must agree on both."""
    y_TO = torch.cat([torch.randn(50, 1) + mean for mean in (-4.0, 0.0, 5.0)]).double()
    x_TC = torch.ones(150, 1).double()
    expert_ECO = torch.tensor([[[-1.0]], [[0.5]], [[1.0]]]).double()
    flat = replace(
        random_hme(Tree.from_spec([3])),
        gate_NC=torch.zeros(3, 1).double(),
        expert_ECO=expert_ECO,
        variance_EO=torch.ones(3, 1).double(),
    )
    tree = Tree.from_spec({"a": 1, "b": 2})
    uneven = torch.tensor([[1.0], [2.0], [1.0], [1.0]]).double().log()
    ragged = replace(flat, tree=tree, gate_NC=uneven)
    options = replace(OPTIONS, newton_steps=20)
    for _ in range(15):
        flat, ragged = (em_step(m, x_TC, y_TO, options) for m in (flat, ragged))
        torch.testing.assert_close(ragged.expert_ECO, flat.expert_ECO)
        torch.testing.assert_close(ragged.log_reach(x_TC), flat.log_reach(x_TC))


# ------------------------------------------------------------------ by hand


def one_step(variance: Any) -> Tensor:
    """Variances after a step in which each of two experts owns two rows: errors 1, 1 and 3, 3."""
    model = replace(
        random_hme(Tree.from_spec([2])),
        gate_NC=torch.tensor([[-1000.0, 0.0], [1000.0, 0.0]]).double(),
        expert_ECO=torch.zeros(2, 2, 1).double(),
        variance_EO=torch.ones(2, 1).double(),
    )
    x_TC = with_constant(torch.tensor([[-1.0], [-1.0], [1.0], [1.0]]))
    y_TO = torch.tensor([[1.0], [-1.0], [13.0], [7.0]]).double()
    return em_step(model, x_TC, y_TO, replace(OPTIONS, variance=variance)).variance_EO.flatten()


def test_variances_by_hand() -> None:
    assert one_step("expert").tolist() == pytest.approx([1.0, 9.0])
    assert one_step("shared").tolist() == pytest.approx([5.0, 5.0])


def test_an_expert_that_explains_its_rows_exactly_has_the_least_variance() -> None:
    x_TC, _ = random_rows()
    y_TO = x_TC[:, :1] * 2 + 1
    model = start(Tree.from_spec([2]), x_TC, y_TO, OPTIONS, generator(0))
    assert (em_step(model, x_TC, y_TO, OPTIONS).variance_EO == 1e-4).all()


def test_the_start_is_the_linear_model_whatever_the_gates(tree: Tree) -> None:
    x_TC, y_TO = random_rows()
    model = start(tree, x_TC, y_TO, OPTIONS, generator(1))
    weights = torch.linalg.lstsq(x_TC, y_TO).solution
    torch.testing.assert_close(model.predict(x_TC), x_TC @ weights, atol=1e-6, rtol=1e-6)
    # On a ragged tree too the gates start near even shares of all experts.
    share_E = model.log_reach(x_TC).exp().mean(0)
    torch.testing.assert_close(
        share_E, torch.full_like(share_E, 1 / len(share_E)), atol=0.1, rtol=0
    )


def test_a_small_step_under_a_bound_is_no_end_by_hand() -> None:
    """A gate gives child 0 a share of 2e-5 that should be 1e-5: a way of log 2.

    Each step moves the difference of the scores by 4 (1e-5 - 2e-5), too little to be told from
    having arrived, and a hundred steps move it a hundred times as far.
    """
    x_TC, score = torch.ones(5, 1).double(), log(2e-5 / (1 - 2e-5))
    gate_NC = torch.tensor([[score / 2], [-score / 2]]).double()
    model = replace(random_hme(Tree.from_spec([2])), gate_NC=gate_NC)
    h_TN = torch.tensor([1e-5, 1 - 1e-5]).double().expand(5, 2)
    options = replace(OPTIONS, curvature="bound", newton_steps=100)
    found = fit_gates(model, x_TC, h_TN, options).flatten()
    assert (found[0] - found[1]).item() - score == pytest.approx(-100 * 4e-5, rel=0.01)


# ------------------------------------------------------------------ planted problems


@pytest.mark.parametrize("spec", [[4], [2, 2]])
def test_planted_pieces_are_recovered(spec: list[int]) -> None:
    """|x1| + |x2| has four linear pieces, one a quadrant; noise 0.05 is all that may remain."""
    x_TD = torch.rand(800, 2, generator=generator(1)) * 2 - 1
    noise_TO = 0.05 * torch.randn(800, 1, generator=generator(2))
    x_TC, y_TO = with_constant(x_TD), (x_TD.abs().sum(1, keepdim=True) + noise_TO).double()
    best = None
    for seed in range(4):
        model = start(
            Tree.from_spec(spec), x_TC, y_TO, replace(OPTIONS, init_std=1.0), generator(seed)
        )
        for _ in range(60):
            model = em_step(model, x_TC, y_TO, OPTIONS)
        if best is None or model.log_likelihood(x_TC, y_TO) > best.log_likelihood(x_TC, y_TO):
            best = model
    assert best is not None
    clean_TO = x_TD.abs().sum(1, keepdim=True).double()
    assert (best.predict(x_TC) - clean_TO).square().mean().sqrt() < 0.03
    slopes = {tuple(round(w) for w in expert) for expert in best.expert_ECO[:, :2, 0].tolist()}
    assert slopes == {(1, 1), (1, -1), (-1, 1), (-1, -1)}


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, r"em\.epochs = 0: must be at least 1"),
        ({"newton_steps": 0}, r"em\.newton_steps = 0: must be at least 1"),
        ({"init_std": 0.0}, r"em\.init_std = 0\.0: must be a number above 0"),
        ({"min_variance": float("inf")}, r"em\.min_variance = inf: must be a number above 0"),
        ({"curvature": "bond"}, r"em\.curvature = bond: .* exact, bound\. Did you mean 'bound'"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(OPTIONS, **changes)
