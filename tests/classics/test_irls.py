"""The fits of an M-step: against numpy and autograd, by hand, and where rows are few."""

from math import log

import numpy as np
import pytest
import torch
from torch import Tensor

from hmoe.classics import with_constant
from hmoe.classics.irls import (
    bound_step,
    curvature,
    group_objective,
    least_squares,
    logits,
    moments,
    newton_step,
    slope,
)


def gate_case() -> tuple[Tensor, Tensor, Tensor]:
    """Rows, targets of three groups of four whose sums are the posteriors of their parents."""
    x_TC = with_constant(torch.randn(50, 2))
    target_bGT = torch.rand(4, 3, 50).double() / 4
    return x_TC, target_bGT, torch.randn(3, 4, 3).double()


def objective(x_TC: Tensor, target_bGT: Tensor, weight_GbC: Tensor) -> Tensor:
    return group_objective(logits(x_TC, weight_GbC), target_bGT)


def test_moments_by_hand_and_in_chunks() -> None:
    # Rows 1 and 2 with weights 3 and 5 are worth 3 * 1 + 5 * 4 = 23.
    x_TC, weight_TM = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 1.0], [5.0, 0.0]])
    assert moments(x_TC, weight_TM).flatten().tolist() == [23.0, 1.0]
    x_TC, weight_TM = torch.randn(10_000, 3).double(), torch.rand(10_000, 2).double()
    whole = torch.einsum("tm,tc,td->mcd", weight_TM, x_TC, x_TC)
    torch.testing.assert_close(moments(x_TC, weight_TM), whole)


def test_experts_are_the_weighted_least_squares_of_numpy() -> None:
    x_TC, y_TO = with_constant(torch.randn(80, 3)), torch.randn(80, 2).double()
    weight_TM = torch.rand(80, 4).double()
    found = least_squares(x_TC, y_TO, weight_TM, torch.randn(4, 4, 2).double())
    for fit, weight in zip(found, weight_TM.T, strict=True):
        root = weight.sqrt().unsqueeze(1)
        expected = np.linalg.lstsq((root * x_TC).numpy(), (root * y_TO).numpy(), rcond=None)[0]
        np.testing.assert_allclose(fit.numpy(), expected, atol=1e-7)


def test_an_expert_without_rows_stays_where_it_is() -> None:
    x_TC, y_TO = with_constant(torch.randn(20, 2)), torch.randn(20, 1).double()
    start = torch.randn(1, 3, 1).double()
    torch.testing.assert_close(least_squares(x_TC, y_TO, torch.zeros(20, 1).double(), start), start)


def test_a_feature_that_never_varies_does_no_harm() -> None:
    """Its weight and the intercept are one; their sum is what the rows say."""
    x_TC = with_constant(torch.ones(20, 1))
    y_TO = torch.full((20, 1), 3.0).double()
    found = least_squares(x_TC, y_TO, torch.ones(20, 1).double(), torch.zeros(1, 2, 1).double())
    assert found.sum().item() == pytest.approx(3.0)


def test_slope_and_curvature_are_those_of_autograd() -> None:
    x_TC, target_bGT, weight_GbC = gate_case()
    logits_bGT = logits(x_TC, weight_GbC)
    weight_GbC.requires_grad_()
    (expected,) = torch.autograd.grad(objective(x_TC, target_bGT, weight_GbC).sum(), weight_GbC)
    torch.testing.assert_close(slope(x_TC, target_bGT, logits_bGT), expected)
    for g, found in enumerate(curvature(x_TC, target_bGT, logits_bGT)):
        hessian = torch.autograd.functional.hessian(
            lambda w, g=g: objective(x_TC, target_bGT[:, g : g + 1], w[None]).sum(),
            weight_GbC[g].detach(),
        )
        torch.testing.assert_close(found, -hessian.reshape(12, 12))


def test_two_children_and_a_constant_by_hand() -> None:
    """Shares of 3 : 1 make a difference of log 3 between the intercepts."""
    x_TC = torch.ones(4, 1).double()
    target_bGT = torch.tensor([[[0.75] * 4], [[0.25] * 4]]).double()
    weight_GbC = torch.zeros(1, 2, 1).double()
    # The first step: slope 4 * (3/4 - 1/2) = 1, curvature of the difference 4 * 1/4 = 1.
    first = newton_step(x_TC, target_bGT, weight_GbC).flatten()
    assert (first[0] - first[1]).item() == pytest.approx(1.0)
    for _ in range(6):
        weight_GbC = newton_step(x_TC, target_bGT, weight_GbC)
    assert (weight_GbC[0, 0, 0] - weight_GbC[0, 1, 0]).item() == pytest.approx(log(3))


@pytest.mark.parametrize("size", [0.1, 3.0, 30.0, 1000.0])
def test_no_newton_step_goes_down(size: float) -> None:
    """Not even from where the curvature is all but gone."""
    x_TC, target_bGT, weight_GbC = gate_case()
    weight_GbC = size * weight_GbC
    for _ in range(10):
        after = newton_step(x_TC, target_bGT, weight_GbC)
        change = objective(x_TC, target_bGT, after) - objective(x_TC, target_bGT, weight_GbC)
        assert (change >= -1e-9).all()
        weight_GbC = after


def test_classes_that_a_line_separates_do_not_break_the_fit() -> None:
    """The best weights are infinite; the fit goes towards them and stays finite."""
    x_TC = with_constant(torch.linspace(-1, 1, 40).unsqueeze(1))
    target_bGT = torch.stack([x_TC[:, 0] < 0, x_TC[:, 0] >= 0]).double().unsqueeze(1)
    weight_GbC = torch.zeros(1, 2, 2).double()
    for _ in range(100):
        weight_GbC = newton_step(x_TC, target_bGT, weight_GbC)
    assert weight_GbC.isfinite().all()
    assert objective(x_TC, target_bGT, weight_GbC).item() == pytest.approx(0.0, abs=1e-3)


def test_steps_converge_to_the_maximum() -> None:
    x_TC, target_bGT, weight_GbC = gate_case()
    for _ in range(30):
        weight_GbC = newton_step(x_TC, target_bGT, weight_GbC)
    logits_bGT = logits(x_TC, weight_GbC)
    assert slope(x_TC, target_bGT, logits_bGT).abs().max() < 1e-8


def test_a_bound_step_by_hand() -> None:
    """Slope 1 and -1; the bound is half of 4 rows: the difference moves by 2 * (1 + 1) / 4 = 1."""
    x_TC, weight_GbC = torch.ones(4, 1).double(), torch.zeros(1, 2, 1).double()
    target_bGT = torch.tensor([[[0.75] * 4], [[0.25] * 4]]).double()
    moved = bound_step(x_TC, target_bGT, weight_GbC).flatten()
    assert (moved[0] - moved[1]).item() == pytest.approx(1.0)


def test_bound_steps_never_go_down_and_end_where_newton_does() -> None:
    x_TC, target_bGT, start_GbC = gate_case()
    bound_GbC, newton_GbC = start_GbC, start_GbC
    for _ in range(500):
        before = objective(x_TC, target_bGT, bound_GbC)
        bound_GbC = bound_step(x_TC, target_bGT, bound_GbC)
        assert (objective(x_TC, target_bGT, bound_GbC) >= before - 1e-12).all()
    for _ in range(30):
        newton_GbC = newton_step(x_TC, target_bGT, newton_GbC)
    probs = [logits(x_TC, w).softmax(0) for w in (bound_GbC, newton_GbC)]
    torch.testing.assert_close(*probs, atol=1e-6, rtol=0)
