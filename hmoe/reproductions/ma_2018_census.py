"""Is a gate a task better than a shared bottom on a census? Ma et al. (2018), Census-Income."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

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
from hmoe.reproductions.runs import set_root, trained

PUBLISHED_GAP = 0.0064
MARGIN = 0.003
TASKS = {"income": 0.93, "never_married": 0.99}
"""Name of a target, and the area that every arm must reach."""
STEPS = 400

_COMMON = (
    *("data=census_income_kdd", "data.batch_size=512", "balance=none", "optim.lr=3e-3"),
    *("experts=mlp", "experts.activation=relu"),
    *("model.dim=64", "model.tower_dim=16", f"trainer.max_steps={STEPS}"),
    *(f"trainer.val_every={STEPS}", f"trainer.checkpoint_every={STEPS}"),
)
_HEADS = ("gate=heads", "gate.num=2", "gate.merge=stack", "selection=soft")
_OWN = "gate.visible=[[shared,income],[shared,never_married]]"
ARMS: Mapping[str, tuple[str, ...]] = {
    "shared_bottom": ("model=multi_task_dense", "experts.hidden_dim=264"),
    "omoe": ("model=multi_task", "tree.spec=[8]", "selection=soft", "experts.hidden_dim=32"),
    "mmoe": ("model=multi_task", "tree.spec=[8]", *_HEADS, "experts.hidden_dim=32"),
    "ple": (
        *("model=multi_task", "tree.spec={shared: 4, income: 2, never_married: 2}"),
        *(*_HEADS, _OWN, "experts.hidden_dim=32"),
    ),
    "tree": ("model=multi_task", "tree.spec=[2,4]", *_HEADS, "experts.hidden_dim=32"),
}
"""Arms of 69,514 to 70,424 weights and biases: eight experts of 32 units, or one of 264."""


def _cells(size: Size, seeds: int) -> list[Cell]:
    """Every arm under every seed; seed 100, by which the settings were chosen, is none of them."""
    return [Cell(arm, seed) for seed in range(seeds) for arm in ARMS]


def measure(cell: Cell, place: Place) -> Values:
    """Areas under the curves of both targets on the test rows, and the size of the model."""
    arm = [word for word in ARMS[cell.arm] if word.startswith("model=")]
    rest = [word for word in ARMS[cell.arm] if word not in arm]
    words = [*arm, *_COMMON, *rest, f"seed={cell.seed}", set_root(place, "census_income_kdd")]
    result = trained(words, place)
    found = {task: result["metrics"][f"test/auc/{task}"] for task in TASKS}
    return {
        **found,
        "mean": result["metrics"]["test/auc"],
        "loss": result["metrics"]["test/loss"],
        "params": result["cost"]["total_params"],
    }


def figures(measured: Sequence[Measured]) -> dict[str, Figure]:
    """Areas of every arm, differences to the shared bottom on the same seeds, and tests of them."""
    from hmoe.statistics import difference_p, equivalence_p, estimate

    scores = (*TASKS, "mean", "params")
    of = {
        (arm, score): np.array(values)
        for score in scores
        for arm, values in by_arm(measured, score).items()
    }
    found = {f"{arm}_{score}": Figure.over(values) for (arm, score), values in of.items()}
    for task in TASKS:
        found[f"lowest_{task}"] = Figure(min(float(of[arm, task].mean()) for arm in ARMS))
    for arm in ARMS:
        for score in ("income", "never_married", "mean") if arm != "shared_bottom" else ():
            difference_S = of[arm, score] - of["shared_bottom", score]
            gap = estimate(difference_S, 0.05)
            name = f"{arm}_gap_{score}"
            found[name] = Figure(gap.mean, gap.sd, gap.num_seeds, gap.low, gap.high)
            found[f"{name}_low"] = Figure(gap.low)
            found[f"{name}_p"] = Figure(float(difference_p(difference_S)))
            found[f"{name}_equivalence_p"] = Figure(float(equivalence_p(difference_S, MARGIN)))
    income = found["mmoe_gap_income"]
    assert income.low is not None
    assert income.high is not None
    inside = income.low <= PUBLISHED_GAP <= income.high
    found["published_gap_inside"] = Figure(float(inside))
    return found


def _notes(figures: Figures) -> list[str]:
    gap = figures["mmoe_gap_income"]
    inside = "lies inside" if figures["published_gap_inside"].value else "lies outside"
    p = figures["mmoe_gap_income_equivalence_p"].value
    same = "ruled out" if p < 0.05 else "not ruled out"
    best = max(ARMS, key=lambda arm: figures[f"{arm}_mean"].value)
    return [
        f"The published gap of {PUBLISHED_GAP} in income {inside} our interval "
        f"[{gap.low:+.4f}, {gap.high:+.4f}]. A difference of {MARGIN} or more between MMoE and the "
        f"shared bottom is {same} (two one-sided tests, p = {p:.2g}).",
        f"The highest mean area here is that of {best}."
        + (" In income the shared bottom is better than MMoE." if (gap.high or 0) < 0 else ""),
    ]


def draw(measured: Sequence[Measured], file: Path) -> None:
    """Areas of every run, by arm."""
    from hmoe.reproductions.pictures import by_arms

    by_arms(
        file,
        {arm: arm.replace("_", " ") for arm in ARMS},
        {f"AUC of {task.replace('_', ' ')}, test rows": by_arm(measured, task) for task in TASKS},
        "all arms have as many parameters",
    )


_LABELS = {
    "shared_bottom": ("shared bottom", ".9295 (best .9361)", ".9915"),
    "omoe": ("OMoE, one gate", ".9319 (best .9387)", ".9928"),
    "mmoe": ("MMoE, a gate a task", ".9359 (best .9410)", ".9926"),
    "ple": ("PLE's CGC, experts of a task and shared ones", "", ""),
    "tree": ("a gate a task over a tree of 2 x 4", "", ""),
}

REPRODUCTION = Reproduction(
    name="ma_2018_census",
    title="Is a gate a task better than a shared bottom on a census?",
    source=(
        "Ma et al. (2018), Modeling Task Relationships in Multi-task Learning with Multi-gate "
        "Mixture-of-Experts, KDD; the table of Census-Income, group 1: means over 400 runs"
    ),
    claim="With a gate a task, income is predicted better than with a shared bottom.",
    rows=[
        *(
            Row(f"{name}, AUC of income", a, f"{arm}_income", 4)
            for arm, (name, a, _) in _LABELS.items()
        ),
        *(
            Row(f"{name}, AUC of never married", b, f"{arm}_never_married", 4)
            for arm, (name, _, b) in _LABELS.items()
        ),
        Row("MMoE less shared bottom, income", ".0064", "mmoe_gap_income", 4),
        Row("MMoE less shared bottom, never married", ".0011", "mmoe_gap_never_married", 4),
        Row("MMoE less shared bottom, mean of both", "", "mmoe_gap_mean", 4),
        Row("CGC less shared bottom, mean of both", "", "ple_gap_mean", 4),
        Row("tree less shared bottom, mean of both", "", "tree_gap_mean", 4),
        Row("parameters, shared bottom", "", "shared_bottom_params", 0),
        Row("parameters, MMoE", "", "mmoe_params", 0),
        Row("parameters, tree", "", "tree_params", 0),
    ],
    criteria=[
        Criterion(
            figure="mmoe_gap_income_low",
            says="MMoE less shared bottom, income: lower end of the 95 % interval above 0",
            role="claim",
            low=1e-9,
        ),
        Criterion(
            figure="mmoe_gap_mean_low",
            says="the same of the mean of both targets",
            role="claim",
            low=1e-9,
        ),
        Criterion(
            figure="mmoe_gap_income",
            says="MMoE less shared bottom, income: the mean is above 0",
            role="shape",
            low=1e-9,
        ),
        *(
            Criterion(
                figure=f"lowest_{task}",
                says=f"mean AUC of {task.replace('_', ' ')}, of the lowest arm",
                role="shape",
                low=least,
            )
            for task, least in TASKS.items()
        ),
        Criterion(
            figure="published_gap_inside",
            says=f"the published gap of {PUBLISHED_GAP} lies in our interval of income (1: yes)",
            role="aside",
            low=1.0,
        ),
        Criterion(
            figure="mmoe_gap_income_equivalence_p",
            says=f"MMoE and shared bottom equivalent within {MARGIN} in income, p of two tests",
            role="aside",
            high=0.05,
        ),
        Criterion(
            figure="tree_gap_mean_equivalence_p",
            says=f"tree and shared bottom equivalent within {MARGIN} in the mean, p of two tests",
            role="aside",
            high=0.05,
        ),
    ],
    deviations=[
        "That MMoE's mean be above the shared bottom's, for the shape to hold, was asked after the "
        "run: before, areas alone decided the shape, which say nothing of the claim.",
        "The official training file (199,523 persons) is not in the set. Of the official test "
        "file 66,508 rows train, 16,627 validate and 16,627 test; areas are of other persons than "
        "the paper's, and a third of its rows trains.",
        "All inputs but the instance weight and both labels: 7 numbers and 32 categories, one-hot.",
        "The paper tunes each arm by a Gaussian process, up to 2,048 units a layer, and runs the "
        "best 400 times. Here all arms have one setting and about 70,000 parameters each: 400 "
        "steps (3 epochs) of 512 rows, AdamW at 3e-3.",
        "That setting came of a few runs of shared bottom and MMoE under seed 100, which is none "
        "of those judged. In the validation area of income 1e-3 (300 steps of 1,024 rows) was "
        "lower for both, by .0006 and .0018; 1,024 rows at 3e-3 were higher for both, by .0007 and "
        ".0004, and 512 were taken for the time. Two of these runs, of 1,024 rows, also showed "
        "test areas of income (.9433 and .9417) before the criteria were written.",
        "A first call with the same criteria was stopped after its first cells, of which one was "
        "looked at (shared bottom, seed 0, .9420 in income), since reading the rows took too "
        "long; all cells were measured anew, and the time above the criteria is of this call.",
        "A linear layer with a ReLU comes before the experts, which give back the width they read; "
        "the paper's experts read the input.",
        "Seeds pair first weights and the order of rows between the arms; the split is one.",
        "A smaller difference needs more seeds than ten: see the interval.",
    ],
    sets=["census_income_kdd"],
    seeds=10,
    minutes=6,
    cells=_cells,
    measure=measure,
    figures=figures,
    draw=draw,
    notes=_notes,
)
