"""Jordan & Jacobs (1994), figure 6: flat against deep trees, with gates fitted a little or fully.

The paper finds a mixture with one level clearly worse than trees with as many experts. Here every
arm is fitted twice in doubt: is it the tree, or is the one wide gate of the flat mixture never
fitted to the end? All arms have 16 linear experts and see the same rows.

An arm is named <first weights>/<tree>_<fit>.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hmoe.reproductions.jordan_jacobs_1994_arm import arm_rows
from hmoe.reproductions.record import (
    Cell,
    Criterion,
    Figure,
    Figures,
    Measured,
    Place,
    Reproduction,
    Row,
    Size,
    Values,
    by_arm,
)
from hmoe.statistics import Judgement, Pair, estimate, judge

EPOCHS = 30
MARGIN = 0.015
_LEVEL = 0.05
_DECIMALS = 5
_TREES = {"flat": [16], "grid": [4, 4], "tree": [2, 2, 2, 2]}
_INITS = {"small": 0.1, "large": 1.0}


class Fit(NamedTuple):
    """How a gate is fitted in an M-step."""

    curvature: str
    steps: int


FITS = {"weak": Fit("bound", 6), "one": Fit("exact", 1), "full": Fit("exact", 10)}
MAIN = (
    "small/flat_weak",
    "small/flat_full",
    "small/tree_full",
    "large/flat_full",
    "large/tree_full",
)
ASIDE = ("small/flat_one", "small/tree_weak", "small/grid_full", "large/grid_full")


def cells(size: Size, seeds: int) -> list[Cell]:
    """Seed by seed, the arms that decide under all of them, the others under a fifth."""
    few = max(2, seeds // 5)
    return [
        Cell(arm, seed) for seed in range(seeds) for arm in (*MAIN, *(ASIDE if seed < few else ()))
    ]


def measure(cell: Cell, place: Place) -> Values:
    """The error on the test rows after every epoch."""
    import torch

    from hmoe.classics import EmOptions, em_step, start
    from hmoe.layer import Tree
    from hmoe.training.em import relative_error

    init, _, rest = cell.arm.partition("/")
    shape, _, fit = rest.partition("_")
    train, test = arm_rows()
    options = EmOptions(
        epochs=EPOCHS,
        newton_steps=FITS[fit].steps,
        curvature=FITS[fit].curvature,  # type: ignore[arg-type]
        init_std=_INITS[init],
        variance="expert",
        min_variance=1e-4,
    )
    model = start(
        Tree.from_spec(_TREES[shape]), *train, options, torch.Generator().manual_seed(cell.seed)
    )
    curve = []
    for epoch in range(EPOCHS + 1):
        if epoch > 0:
            model = em_step(model, *train, options)
        curve.append(relative_error(model.predict(test.x_TC), test.y_TO, train.y_TO))
    reach_E = model.log_reach(test.x_TC).exp().mean(0)
    effective = (-(reach_E * reach_E.log().clamp(min=-1e3)).sum()).exp().item()
    return {"curve": [round(value, _DECIMALS) for value in curve], "effective": round(effective, 2)}


def least(measured: Sequence[Measured]) -> dict[str, np.ndarray]:
    """The least error of every seed, arm by arm, in the order of the seeds."""
    curves = by_arm(measured, "curve")
    return {arm: np.array([min(curve) for curve in own]) for arm, own in curves.items()}


def figures(measured: Sequence[Measured]) -> dict[str, Figure]:
    """Errors of the arms, ratios and differences in pairs of equal seeds."""
    error = least(measured)
    found = {arm: Figure.over(list(own)) for arm, own in error.items()}
    for name, (one, other) in {
        "weak": ("small/flat_weak", "small/tree_full"),
        "one": ("small/flat_one", "small/tree_full"),
        "tree_weak": ("small/tree_weak", "small/tree_full"),
        "flat_weak": ("small/flat_weak", "small/flat_full"),
    }.items():
        ratio = _ratio(error[one], error[other])
        assert ratio.low is not None
        found[f"{name}_ratio"] = ratio
        found[f"{name}_ratio_low"] = Figure(ratio.low)
    for init, judged in judgements(error).items():
        assert judged.estimate is not None
        assert judged.inner is not None
        of = judged.estimate
        found[f"{init}_gap"] = Figure(of.mean, of.sd, of.num_seeds, of.low, of.high)
        found[f"{init}_gap_most"] = Figure(judged.inner.high)
        found[f"{init}_equivalence_p"] = Figure(judged.equivalence_p)
        found[f"{init}_difference_p"] = Figure(judged.difference_p)
    for arm, own in by_arm(measured, "effective").items():
        found[f"{arm}_effective"] = Figure.over(own)
    return found


def judgements(error: dict[str, np.ndarray]) -> dict[str, Judgement]:
    """Flat less tree, gates fitted fully, for both sizes of first weights: one family."""
    pairs = [
        Pair(error[f"{init}/flat_full"] - error[f"{init}/tree_full"], MARGIN, minimised=True)
        for init in _INITS
    ]
    return dict(zip(_INITS, judge(pairs, _LEVEL), strict=True))


def _ratio(one: np.ndarray, other: np.ndarray) -> Figure:
    """Geometric mean of the ratios of the seeds that both have, with its 95 % interval."""
    both = min(len(one), len(other))
    of = estimate(np.log(one[:both]) - np.log(other[:both]), _LEVEL)
    return Figure(float(np.exp(of.mean)), None, of.num_seeds, *np.exp([of.low, of.high]).tolist())


def notes(found: Figures) -> list[str]:
    """What solved gates make of flat and tree, in words."""
    lines = []
    for init, deviation in _INITS.items():
        gap = found[f"{init}_gap"]
        same = found[f"{init}_equivalence_p"].value < _LEVEL
        apart = found[f"{init}_difference_p"].value < _LEVEL
        words = "undecided between flat and tree"
        if same:
            words = f"flat and tree are equivalent within {MARGIN:g}"
        elif apart:
            words = "flat is better" if gap.value < 0 else "flat is worse"
        lines.append(
            f"Gates fitted fully, first weights of {deviation:g}: {words} "
            f"(p of equivalence {found[f'{init}_equivalence_p'].value:.2g}, of no difference "
            f"{found[f'{init}_difference_p'].value:.2g}; both for the family of two)."
        )
    return lines


def draw(measured: Sequence[Measured], file: Path) -> None:
    """The least error of every seed, arm by arm, with the mean and its interval."""
    from hmoe.report.style import COLOURS, INK
    from hmoe.reproductions.pictures import picture

    error = least(measured)
    arms = [arm for arm in _ORDER if arm in error]
    with picture(file, 1, 3.4) as (axes,):
        for y, arm in enumerate(arms):
            colour = COLOURS[list(_TREES).index(arm.split("/")[1].split("_")[0]) + 1]
            axes.plot(error[arm], [y + 0.22] * len(error[arm]), "o", color=colour, alpha=0.45, ms=3)
            of = estimate(error[arm], _LEVEL)
            axes.errorbar(
                of.mean, y, xerr=of.high - of.mean, fmt="D", color=colour, capsize=3, ms=4
            )
        axes.set_yticks(range(len(arms)), [_words(arm) for arm in arms])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.axhline(sum(arm.startswith("small") for arm in arms) - 0.5, color=INK, linewidth=0.6)
        axes.set_xlabel("least relative error on the test rows")


_ORDER = (
    *("small/flat_weak", "small/flat_one", "small/flat_full", "small/grid_full"),
    *(
        "small/tree_weak",
        "small/tree_full",
        "large/flat_full",
        "large/grid_full",
        "large/tree_full",
    ),
)


def _words(arm: str) -> str:
    init, rest = arm.split("/")
    shape, fit = rest.split("_")
    tree = "×".join(map(str, _TREES[shape]))
    steps = {"weak": "6 bound steps", "one": "1 step", "full": "10 steps"}[fit]
    return f"{tree}, {steps}, weights {_INITS[init]:g}"


def _row(arm: str, published: str = "") -> Row:
    return Row(_words(arm), published, arm)


TREES = Reproduction(
    name="jordan_jacobs_1994_trees",
    title="Is a tree better than a flat mixture, or only easier to fit?",
    source=(
        "Jordan & Jacobs (1994), Hierarchical Mixtures of Experts and the EM Algorithm, Neural "
        "Computation 6, figure 6"
    ),
    claim=(
        "A mixture with one level is clearly worse than trees with as many experts, and trees "
        "differ little. Our reading, which is under test: the gap is there while the one wide gate "
        "is not fitted to the end in each M-step, and gone when it is."
    ),
    rows=(
        *(_row(arm) for arm in _ORDER),
        Row("flat with bound steps / tree: ratio of errors", "clearly above 1", "weak_ratio"),
        Row("flat with one exact step / tree", "", "one_ratio"),
        Row("flat with bound steps / flat fitted fully", "", "flat_weak_ratio"),
        Row("tree with bound steps / tree fitted fully", "", "tree_weak_ratio"),
        Row("fitted fully, weights 0.1: flat less tree", "", "small_gap", 4),
        Row("fitted fully, weights 1: flat less tree", "", "large_gap", 4),
        *(
            Row(f"experts in use, {_words(arm)}", "", f"{arm}_effective", 1)
            for arm in ("small/flat_full", "small/tree_full", "large/flat_full", "large/tree_full")
        ),
    ),
    criteria=(
        Criterion(
            figure="weak_ratio",
            says="weights 0.1: error of flat with an unfinished gate, over that of the tree",
            role="claim",
            low=1.2,
        ),
        Criterion(
            figure="weak_ratio_low",
            says="the lower end of its 95 % interval",
            role="shape",
            low=1.0,
        ),
        Criterion(
            figure="small_equivalence_p",
            says=f"weights 0.1, fitted fully: p of a difference of {MARGIN:g} or more",
            role="claim",
            high=_LEVEL,
        ),
        Criterion(
            figure="large_equivalence_p",
            says=f"weights 1, fitted fully: p of a difference of {MARGIN:g} or more",
            role="claim",
            high=_LEVEL,
        ),
        Criterion(
            figure="small_gap_most",
            says="weights 0.1, fitted fully: upper end of the 90 % interval of flat less tree",
            role="shape",
            high=MARGIN,
        ),
        Criterion(
            figure="large_gap_most",
            says="weights 1, fitted fully: the same",
            role="shape",
            high=MARGIN,
        ),
        Criterion(
            figure="one_ratio",
            says="weights 0.1: one exact step leaves flat no such gap",
            role="aside",
            high=1.2,
        ),
        Criterion(
            figure="tree_weak_ratio",
            says="weights 0.1: the tree does well with the unfinished fit too",
            role="aside",
            high=1.1,
        ),
    ),
    deviations=(
        "The simulator of the paper is not to be had; the arm is ours (data=robot_arm), 13,500 "
        "rows to train on, errors are the least of 30 epochs on the 5,000 test rows.",
        "16 experts; the flat mixture of the paper's figure has 32.",
        "Whether the gates of the paper were fitted to the end is not known. Ours are left "
        "unfinished on purpose by 6 steps an epoch under a bound of the curvature (Böhning 1992, "
        "em.curvature=bound), as in a trial of ours before. One exact Newton step is no such "
        "thing: it is an arm of its own.",
        "Fitted fully means at most 10 damped Newton steps an epoch, fewer where none moves a "
        "weight by more than a hundred thousandth.",
        "Criteria come from that trial, with 5 seeds (flat .129 unfinished and .087 finished, tree "
        ".099; with weights of 1 .067 and .070); it was run with other code on a similar arm.",
    ),
    seeds=15,
    minutes=3,
    cells=cells,
    measure=measure,
    figures=figures,
    draw=draw,
    notes=notes,
)
