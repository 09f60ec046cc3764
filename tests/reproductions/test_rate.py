"""The rate of a gated mixture: losses and slopes by hand, both fits against each other."""

from dataclasses import replace
from math import exp
from pathlib import Path

import numpy as np
import pytest
import torch

from hmoe.layer import TopDown, Tree
from hmoe.layer.tree_ops import at_experts, path_product
from hmoe.reproductions import nguyen_2023_rate as rate
from hmoe.reproductions.gated_gaussian import (
    by_em,
    by_lbfgs,
    deep_loss,
    flat_loss,
    known_gate,
    near,
    rows_of,
)
from hmoe.reproductions.record import Cell, Measured, Place


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made_cells(slope: float) -> list[Measured]:
    """Every loss is c n^slope, with a c of 1 to 3 by the draw."""
    cells = []
    for arm in ("flat", *rate.DEEP):
        sizes = rate.SIZES if arm == "flat" else rate.DEEP_SIZES
        for seed in range(3):
            values = {"loss": [(1 + seed) * n**slope for n in sizes]}
            cells.append(Measured(Cell(arm, seed), values, 1.0))
    return cells


def test_slopes_by_hand() -> None:
    found = rate.figures(made_cells(-0.5))
    for name in ("flat", "flat_median", "laplace_laplace", "softmax_laplace_median"):
        assert found[name].value == pytest.approx(-0.5)
    assert found["flat"].low == pytest.approx(-0.5)
    assert found["flat_last"].value == pytest.approx(2 * 1e5**-0.5)
    assert rate.RATE.verdict(found) == "reproduced"
    assert rate.RATE.verdict(rate.figures(made_cells(-0.3))) == "in shape only"
    assert rate.RATE.verdict(rate.figures(made_cells(-0.1))) == "not reproduced"


def test_an_interval_covers_draws_that_differ() -> None:
    """Half the draws fall with slope -1, half not at all: a mean of either is between."""
    sizes = (10, 100, 1000)
    loss_RS = np.array([[100.0, 10.0, 1.0], [1.0, 1.0, 1.0]] * 5)
    low, high = rate.interval(loss_RS, sizes)
    assert -1 <= low < rate.slope(loss_RS, sizes) < high <= 0


def test_the_loss_of_the_paper_by_hand() -> None:
    truth = rate.flat_truth()
    assert flat_loss(truth, truth) == 0
    # The second expert has share exp(0) = 1: its slope is 0.5 apart. The first has exp(-8).
    expert_ECO = truth.expert_ECO.clone()
    expert_ECO[1, 0] += 0.5
    expert_ECO[0, 1] -= 2.0
    moved = replace(truth, expert_ECO=expert_ECO)
    assert flat_loss(moved, truth) == pytest.approx(0.5 + 2 * exp(-8))
    # What siblings share has no effect: only 0.3 between the intercepts is seen.
    shift = torch.tensor([[3.0, 1.3], [3.0, 1.0]]).double()
    moved = replace(truth, gate_NC=truth.gate_NC + shift)
    assert flat_loss(moved, truth) == pytest.approx(exp(-8) * (exp(0.3) - 1))


@pytest.mark.parametrize("score_L", list(rate.DEEP.values()))
def test_what_a_gate_cannot_know_is_no_loss(score_L: tuple[str, str]) -> None:
    truth = rate.deep_truth(score_L)
    shift_NC = torch.zeros(6, 3).double()
    shift_NC[:2, -1], shift_NC[2:4, -1] = 0.7, -0.4
    if score_L[1] == "softmax":
        shift_NC[4:, 0] = 2.0
    moved = replace(truth, gate_NC=truth.gate_NC + shift_NC)
    x_TC = torch.randn(9, 3, generator=generator()).double()
    torch.testing.assert_close(moved.log_reach(x_TC), truth.log_reach(x_TC))
    assert deep_loss(moved, truth) == pytest.approx(0, abs=1e-12)
    other = replace(truth, gate_NC=truth.gate_NC + torch.eye(6, 3).double())
    assert deep_loss(other, truth) > 0.5
    assert known_gate(truth).shape == (6, 3)


@pytest.mark.parametrize("score_L", list(rate.DEEP.values()))
def test_gates_are_those_of_hmoe(score_L: tuple[str, str]) -> None:
    truth = rate.deep_truth(score_L)
    kinds = ["linear" if score == "softmax" else score for score in score_L]
    gate = TopDown(
        tree=Tree.from_spec([2, 2]),
        dim=2,
        score=kinds,
        width=None,
        init_std=0.1,
        temperature=1.0,
        noise="none",
        link="softmax",
    )
    weight_ND, bias_N = truth.gate_NC[:, :-1].float(), truth.gate_NC[:, -1].float()
    nodes = iter((slice(0, 2), slice(2, 6)) if len(gate.scorers) == 2 else (slice(0, 6),))
    with torch.no_grad():
        for scorer in gate.scorers:
            own = next(nodes)
            scorer.weight_MD.copy_(weight_ND[own])
            scorer.bias_M.copy_(bias_N[own])
    x_TD = torch.randn(20, 2, generator=generator())
    x_TC = torch.cat([x_TD, torch.ones(20, 1)], 1).double()
    expected_TE = at_experts(path_product(gate(x_TD).probs_TN, gate.tree), gate.tree)
    found_TE = truth.log_reach(x_TC).exp().float()
    torch.testing.assert_close(found_TE, expected_TE, atol=1e-4, rtol=1e-3)


def test_em_and_lbfgs_find_the_same_maximum() -> None:
    truth = rate.deep_truth(("softmax", "softmax"))
    x_TD = torch.rand(400, 2, generator=generator()) * 4 - 2
    x_TC, y_TO = rows_of(truth, x_TD, generator())
    start = near(truth, generator(1))
    em, quick = by_em(start, x_TC, y_TO), by_lbfgs(start, x_TC, y_TO)
    likelihoods = [m.log_likelihood(x_TC, y_TO) for m in (start, em, quick)]
    assert likelihoods[1] == pytest.approx(likelihoods[2], abs=1e-4)
    assert likelihoods[0] < likelihoods[1]
    torch.testing.assert_close(em.expert_ECO, quick.expert_ECO, atol=0.02, rtol=0)
    assert not quick.gate_NC.requires_grad


def test_rows_have_the_noise_of_their_expert() -> None:
    truth = rate.flat_truth()
    x_TC, y_TO = rows_of(truth, torch.linspace(0, 1, 4000)[:, None], generator())
    away = x_TC[:, 0] > 0.6  # where the first expert, 15 - 20 x, has all the rows
    error = (y_TO - (15 - 20 * x_TC[:, :1]))[away]
    assert error.std().item() == pytest.approx(0.3, rel=0.1)


def test_a_cell_of_two_sizes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rate, "SIZES", (100, 400))
    place = Place(tmp_path, tmp_path, "cpu")
    found = rate.measure(Cell("flat", 0), place)
    assert len(found["loss"]) == 2
    assert all(0 < loss < 10 for loss in found["loss"])
    assert found == rate.measure(Cell("flat", 0), place)
    assert found != rate.measure(Cell("flat", 1), place)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    rate.draw(made_cells(-0.5), tmp_path / "figure.svg")
    assert "laplace / laplace" in (tmp_path / "figure.svg").read_text()
