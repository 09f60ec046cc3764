"""Nguyen et al. (2023): how fast maximum likelihood finds the parameters of a gated mixture.

The published part is a flat mixture of two, fitted by hmoe's EM from near the truth. The other part
is ours: two levels with softmax or Laplace gates (the mixture of Nguyen et al. 2024, who publish no
simulation that we know of), fitted by L-BFGS from near the truth.

Letters: R draws, S numbers of rows, T rows, C features with the constant, O targets.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hmoe.layer import Tree
from hmoe.reproductions.gated_gaussian import (
    Gated,
    by_em,
    by_lbfgs,
    deep_loss,
    flat_loss,
    near,
    rows_of,
)
from hmoe.reproductions.record import (
    Cell,
    Criterion,
    Figure,
    Measured,
    Place,
    Reproduction,
    Row,
    Size,
    Values,
    by_arm,
)

SIZES = (100, 316, 1_000, 3_162, 10_000, 31_623, 100_000)
DEEP_SIZES = (400, 800, 1_600, 3_200, 6_400, 12_800)
DEEP = {
    "softmax_softmax": ("softmax", "softmax"),
    "softmax_laplace": ("softmax", "laplace"),
    "laplace_laplace": ("laplace", "laplace"),
}
"""Arms with two levels: the gate of the root, then that of its units."""
_RESAMPLES, _BOOTSTRAP_SEED = 2_000, 0


def flat_truth() -> Gated:
    """The mixture of two of the paper's simulations."""
    return Gated(
        Tree.from_spec([2]),
        gate_NC=torch.tensor([[25.0, -8.0], [0.0, 0.0]]).double(),
        expert_ECO=torch.tensor([[[-20.0], [15.0]], [[20.0], [-5.0]]]).double(),
        variance_EO=torch.tensor([[0.09], [0.16]]).double(),
        score_L=("softmax",),
    )


def deep_truth(score_L: tuple[str, ...]) -> Gated:
    """Two units of two experts in the plane; the same numbers for every kind of gate."""
    gate = [[1.5, 0.5, 0.2], [-1.5, -0.5, 0.0]]
    gate += [[0.8, -1.5, 0.3], [0.6, 1.5, 0.0], [-1.0, -1.2, -0.2], [-0.4, 1.4, 0.0]]
    expert = [[2.0, -1.0, 1.0], [-1.5, 2.0, 0.0], [1.0, 2.0, -1.0], [-2.0, -1.0, 0.5]]
    return Gated(
        Tree.from_spec([2, 2]),
        gate_NC=torch.tensor(gate).double(),
        expert_ECO=torch.tensor(expert).double().unsqueeze(-1),
        variance_EO=torch.tensor([[0.1], [0.15], [0.2], [0.25]]).double(),
        score_L=score_L,
    )


def cells(size: Size, seeds: int) -> list[Cell]:
    """Draws of the rows: of the flat mixture all, of the others a quarter."""
    deep = [Cell(arm, seed) for seed in range(max(1, seeds // 4)) for arm in DEEP]
    return [*(Cell("flat", seed) for seed in range(seeds)), *deep]


def measure(cell: Cell, place: Place) -> Values:
    """The loss of the fit for every number of rows."""
    losses = []
    for size in SIZES if cell.arm == "flat" else DEEP_SIZES:
        generator = torch.Generator().manual_seed(1_000_000 * cell.seed + size)
        if cell.arm == "flat":
            truth = flat_truth()
            x_TC, y_TO = rows_of(truth, torch.linspace(0, 1, size)[:, None], generator)
            losses.append(flat_loss(by_em(near(truth, generator), x_TC, y_TO), truth))
        else:
            truth = deep_truth(DEEP[cell.arm])
            x_TD = torch.rand(size, 2, generator=generator) * 4 - 2
            x_TC, y_TO = rows_of(truth, x_TD, generator)
            losses.append(deep_loss(by_lbfgs(near(truth, generator), x_TC, y_TO), truth))
    return {"loss": [float(f"{loss:.6g}") for loss in losses]}


def slope(loss_RS: np.ndarray, sizes: Sequence[int]) -> float:
    """Least squares slope of the logarithm of the mean loss over draws, by that of the rows."""
    return float(np.polyfit(np.log(sizes), np.log(loss_RS.mean(0)), 1)[0])


def interval(loss_RS: np.ndarray, sizes: Sequence[int]) -> tuple[float, float]:
    """95 % of the slopes of as many draws, drawn with replacement (percentiles)."""
    draw = np.random.default_rng(_BOOTSTRAP_SEED)
    picks = draw.integers(len(loss_RS), size=(_RESAMPLES, len(loss_RS)))
    low, high = np.percentile([slope(loss_RS[pick], sizes) for pick in picks], [2.5, 97.5])
    return float(low), float(high)


def losses_of(measured: Sequence[Measured]) -> dict[str, np.ndarray]:
    """Losses of every arm, (draws, sizes)."""
    return {arm: np.array(own) for arm, own in by_arm(measured, "loss").items()}


def figures(measured: Sequence[Measured]) -> dict[str, Figure]:
    """Slopes with their intervals; of the flat mixture that of the median too."""
    found = {}
    for arm, loss_RS in losses_of(measured).items():
        sizes = SIZES if arm == "flat" else DEEP_SIZES
        low, high = interval(loss_RS, sizes)
        found[arm] = Figure(slope(loss_RS, sizes), None, len(loss_RS), low, high)
        median_1S = np.median(loss_RS, axis=0, keepdims=True)
        found[f"{arm}_median"] = Figure(slope(median_1S, sizes), None, len(loss_RS))
        found[f"{arm}_last"] = Figure.over(loss_RS[:, -1].tolist())
    return found


def draw(measured: Sequence[Measured], file: Path) -> None:
    """Mean loss by rows, every draw a dot, beside a line that falls as the root of the rows."""
    from hmoe.report.style import COLOURS, FAINT
    from hmoe.reproductions.pictures import picture

    with picture(file, 1, 3.6) as (axes,):
        for place, (arm, loss_RS) in enumerate(losses_of(measured).items(), 1):
            sizes = np.array(SIZES if arm == "flat" else DEEP_SIZES)
            axes.plot(sizes, loss_RS.T, ".", color=COLOURS[place], alpha=0.2, ms=3)
            label = arm.replace("_", " / ")
            axes.plot(sizes, loss_RS.mean(0), "o-", color=COLOURS[place], ms=3, label=label)
            root = loss_RS.mean(0)[-1] * np.sqrt(sizes[-1] / sizes)
            axes.plot(sizes, root, ":", color=FAINT, linewidth=1)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("rows (dotted: one over their root)")
        axes.set_ylabel("loss of the parameters")
        axes.legend(frameon=False)


def _deep_rows() -> list[Row]:
    rows = []
    for arm in DEEP:
        words = f"{arm.replace('_', ' / ')}, two levels"
        rows.append(Row(f"{words}: slope of the mean", "-0.5 in theory, up to logarithms", arm))
        rows.append(Row(f"{words}: slope of the median", "", f"{arm}_median"))
        rows.append(Row(f"{words}: loss at {DEEP_SIZES[-1]:,} rows", "", f"{arm}_last"))
    return rows


RATE = Reproduction(
    name="nguyen_2023_rate",
    title="Does maximum likelihood find a gated mixture at the rate of one over the root of n?",
    source=(
        "Nguyen, Nguyen & Ho (2023), Demystifying Softmax Gating Function in Gaussian Mixture of "
        "Experts, NeurIPS 36, simulations; two levels: Nguyen et al. (2024), arXiv 2410.02935"
    ),
    claim=(
        "With as many experts as the truth the parameters of a softmax gated Gaussian mixture are "
        "found at the rate of one over the root of the rows, up to logarithms: the slope of log "
        "loss by log rows is about -0.5."
    ),
    rows=(
        Row("flat, 2 experts: slope of the mean loss", "-0.5 in theory, -0.64 in theirs", "flat"),
        Row("the same of the median loss", "-0.64 in theirs", "flat_median"),
        *_deep_rows(),
    ),
    criteria=(
        Criterion(
            figure="flat",
            says="flat, 2 experts: slope of the mean loss",
            role="claim",
            low=-0.65,
            high=-0.4,
        ),
        Criterion(figure="flat", says="the loss falls with the rows", role="shape", high=-0.25),
        *(
            Criterion(
                figure=f"{arm}_median",
                says=f"two levels, {arm.replace('_', ' / ')}: slope of the median loss",
                role="aside",
                low=-0.65,
                high=-0.4,
            )
            for arm in DEEP
        ),
    ),
    deviations=(
        "7 numbers of rows from 100 to 100,000, theirs are 200; they have 40 draws, ours are "
        "beside the figures. Inputs are evenly spaced in [0, 1], as theirs. EM starts at the truth "
        "with N(0, 0.1) added to every parameter (variances times its exponential) and ends when "
        "all rows gain less than 1e-6 nats together.",
        "Only fits with as many experts as the truth. With more the published curves of means rest "
        "on outliers, and their medians do not fall.",
        "Two levels are our own design: 2 units of 2 linear experts on the square [-2, 2], the "
        "same numbers for all gates, loss a sum of absolute distances, 400 to 12,800 "
        "rows. In a first trial some fits to few rows went far astray, so medians are asked. "
        "Theory has one rate for all three gates here; where they differ is with too many experts, "
        "which is not tried.",
    ),
    seeds=40,
    minutes=1,
    cells=cells,
    measure=measure,
    figures=figures,
    draw=draw,
)
