"""Does a bias balance better than a loss, at no cost, and on a tree? Wang et al. (2024)."""

from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from hmoe.reproductions.language import (
    READ,
    TEXT,
    ends,
    grid,
    length,
    measure_run,
    ratio,
    words_of,
)
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
    by_arm,
)

EXPERTS, ACTIVE, SHARED = 64, 6, 2
_GROUPS = ["tree.spec=[8,8]", "gate.pool=top_2_sum", "selection.beam=3"]
_LOSS, _BIAS = "balance=switch", "balance=bias"
# Arm -> what it is called, and its choices.
ARMS: dict[str, tuple[str, list[str]]] = {
    "loss_0.001": ("loss, 0.001", [_LOSS, "balance.terms.switch.weight=0.001"]),
    "loss_0.01": ("loss, 0.01", [_LOSS, "balance.terms.switch.weight=0.01"]),
    "bias_0.001": ("bias, 0.001", [_BIAS, "balance.bias.rate=0.001"]),
    "bias_0.01": ("bias, 0.01", [_BIAS, "balance.bias.rate=0.01"]),
    "tree_nodes": (
        "tree, bias a node, 0.01",
        [*_GROUPS, _BIAS, "balance.bias.rate=0.01"],
    ),
    "tree_experts": (
        "tree, bias an expert, 0.01",
        [*_GROUPS, _BIAS, "balance.bias.rate=0.01", "balance.bias.among=experts"],
    ),
}
_HIDDEN: dict[Size, int] = {"cpu": 32, "gpu": 96}
_GPU = ["model.dim=384", "model.depth=8", "model.num_heads=6", "model.ffn_blocks=[1,2,3,4,5,6,7]"]
_STEPS: dict[Size, int | None] = {"cpu": None, "gpu": 6200}
MARGIN = 1.005
"""Up to this ratio a perplexity is not worse."""


def overrides(arm: str, size: Size, seed: int) -> list[str]:
    """The run of an arm, as on the command line."""
    choices = [
        "system=loss_free",
        f"tree.spec=[{EXPERTS}]",
        f"selection.k={ACTIVE}",
        f"shared.units={{company: {SHARED}}}",
        f"experts.hidden_dim={_HIDDEN[size]}",
        *(_GPU if size == "gpu" else []),
        *ARMS[arm][1],
    ]
    return words_of(choices, size, seed, steps=_STEPS[size])


def _measure(cell: Cell, place: Place) -> dict[str, Any]:
    return measure_run(overrides(cell.arm, place.size, cell.seed), place)


def _violations(measured: Sequence[Measured], key: str) -> dict[str, list[float]]:
    """Largest over mean load, less 1: MaxVio over what is read of the split at once, by arm."""
    return {arm: [v - 1 for v in own] for arm, own in by_arm(measured, key).items()}


def figures(measured: Sequence[Measured]) -> dict[str, Figure]:
    """Violation and perplexity of every arm, and how biases compare with the loss."""
    losses, violations = by_arm(measured, "loss"), _violations(measured, "busiest")
    halfway = _violations(measured, "busiest_halfway")
    found = {f"loss_{arm}": Figure.over(own) for arm, own in losses.items()}
    for arm in ARMS:
        found[f"violation_{arm}"] = Figure.over(violations[arm])
        found[f"halfway_{arm}"] = Figure.over(halfway[arm])
        found[f"units_{arm}"] = Figure.over(by_arm(measured, "cv_units")[arm])
    for rate in ("0.001", "0.01"):
        means = [float(np.mean(violations[arm])) for arm in ("loss_0.001", f"bias_{rate}")]
        found[f"times_{rate}"] = Figure(means[0] / means[1])
        # One-sided at 5 %: not worse by the margin.
        found |= ends(f"cost_{rate}", ratio(losses, f"bias_{rate}", "loss_0.001", 0.1))
    found |= ends("cost_tree_nodes", ratio(losses, "tree_nodes", "bias_0.01", 0.1))
    nodes, experts = (float(np.mean(violations[arm])) for arm in ("tree_nodes", "tree_experts"))
    found["nodes_to_experts"] = Figure(nodes / experts)
    found["steps"] = Figure(measured[0].values["steps"])
    return found


def notes(figures: Figures) -> list[str]:
    """Whether the biases had time, and what seeds can tell of perplexity."""
    found = []
    for arm in ("loss_0.001", "bias_0.001", "bias_0.01", "tree_nodes"):
        first, last = figures[f"halfway_{arm}"].value, figures[f"violation_{arm}"].value
        found.append(
            f"{ARMS[arm][0]}: MaxVio {first:.2f} at half of the steps, {last:.2f} at the end"
        )
    told = ["; ".join(found) + "."]
    for rate in ("0.001", "0.01"):
        first, last = (figures[f"{key}_bias_{rate}"].value for key in ("halfway", "violation"))
        falls = "still fell" if last < first else "no longer fell"
        told.append(f"With a bias at {rate} MaxVio {falls} in the second half of the steps.")
    steps = figures["steps"].value
    told.append(
        f"A bias moves by its rate a step: over these {steps:,.0f} steps by at most "
        f"{0.001 * steps:.2f} at 0.001 and {0.01 * steps:.2f} at 0.01, beside sigmoids that lie "
        "between 0 and 1."
    )
    for rate in ("0.001", "0.01"):
        cost = figures[f"cost_{rate}"]
        if cost.low is not None and cost.high is not None:
            half = 50 * (log(cost.high) - log(cost.low))
            told.append(
                f"Perplexity, bias at {rate} over loss at 0.001: the 90 % interval reaches "
                f"{half:.1f} % to either side, so a difference of 0.6 %, as published, "
                f"{'could' if half < 0.6 else 'could not'} have been told from none."
            )
    return told


def draw(measured: Sequence[Measured], file: Path) -> None:
    """MaxVio and perplexity of every run, by arm."""
    from hmoe.reproductions.pictures import by_arms

    by_arms(
        file,
        {arm: label.replace(", ", "\n") for arm, (label, _) in ARMS.items()},
        {
            "MaxVio": _violations(measured, "busiest"),
            "loss, nats a byte": by_arm(measured, "loss"),
        },
        "how the load is balanced, and how strongly",
        log=("MaxVio",),
    )


def _rows() -> list[Row]:
    published = {"loss_0.001": ("0.72", "9.56"), "bias_0.001": ("0.04", "9.50")}
    rows = []
    for arm, (label, _) in ARMS.items():
        violation, perplexity = published.get(arm, ("", ""))
        rows.append(Row(f"{label}: MaxVio", violation, f"violation_{arm}"))
        told = f"perplexity {perplexity}" if perplexity else ""
        rows.append(Row(f"{label}: loss, nats a byte", told, f"loss_{arm}"))
    rows.append(Row("MaxVio, loss at 0.001 over bias at 0.001", "18", "times_0.001", 1))
    rows.append(Row("MaxVio, loss at 0.001 over bias at 0.01", "", "times_0.01", 1))
    rows.append(Row("perplexity, bias at 0.001 over loss at 0.001 (90 %)", "0.994", "cost_0.001"))
    rows.append(Row("perplexity, bias at 0.01 over loss at 0.001 (90 %)", "", "cost_0.01"))
    rows.append(
        Row("perplexity, tree with a bias a node over flat with 0.01 (90 %)", "", "cost_tree_nodes")
    )
    for arm in ("tree_nodes", "tree_experts"):
        rows.append(Row(f"{ARMS[arm][0]}: CV of the load of the 8 units", "", f"units_{arm}"))
    return rows


WANG_2024_LOSS_FREE = Reproduction(
    name="wang_2024_loss_free",
    title="Does a bias on the choice balance better than a loss, at no cost? And on a tree?",
    source="Wang et al. (2024), Auxiliary-Loss-Free Load Balancing Strategy for "
    "Mixture-of-Experts, arXiv 2408.15664; table 2 (1B parameters)",
    claim="A bias that follows the load leaves a MaxVio of 0.04 over the validation set where a "
    "loss leaves 0.72, and perplexity is no worse (9.50, 9.56).",
    rows=_rows(),
    criteria=[
        Criterion(
            figure="times_0.01",
            says="MaxVio of the loss (0.001) is four times that of the bias with ten times the "
            "published rate, since runs are thousands of times as short",
            role="shape",
            low=4.0,
        ),
        Criterion(
            figure="times_0.001",
            says="MaxVio of the loss is four times that of the bias, both as published (0.001)",
            role="claim",
            low=4.0,
        ),
        Criterion(
            figure="violation_bias_0.001", says="MaxVio of the bias", role="claim", high=0.15
        ),
        Criterion(
            figure="cost_0.001_high",
            says="perplexity of the bias over that of the loss: the upper end of the 90 % interval "
            "(not worse by 0.5 %, one-sided at 5 %)",
            role="claim",
            high=MARGIN,
        ),
        Criterion(
            figure="violation_bias_0.01",
            says="MaxVio of the bias at 0.01",
            role="aside",
            high=0.15,
        ),
        Criterion(
            figure="violation_tree_nodes",
            says="MaxVio over experts of a tree with a bias a node",
            role="aside",
            high=0.15,
        ),
        Criterion(
            figure="nodes_to_experts",
            says="biases of nodes leave no more of it than biases of experts alone",
            role="aside",
            high=1.0,
        ),
    ],
    deviations=[
        "A transformer of two blocks, width 64, whose second holds the mixture (gpu: eight blocks, "
        "width 384, mixtures in all but the first), where the paper has DeepSeekMoE of 1B "
        "parameters.",
        length("the loss left .8 times the MaxVio of the bias, both at 0.001"),
        "64 experts, top 6, and 2 shared ones, sigmoid gates, as published; experts are 32 wide "
        "(gpu: 96).",
        READ,
        "Ratios of perplexities are those a word.",
        "The trees are an extension of ours: 8 groups of 8, of which the best 3 stay "
        "in the running; a bias for every node, against biases for experts alone.",
        "The differences of `system=loss_free`: the gate has a bias, which starts at zero.",
    ],
    sets=[TEXT],
    gpu=True,
    seeds=3,
    minutes=8,
    cells=lambda size, seeds: grid(list(ARMS), seeds),
    measure=_measure,
    figures=figures,
    draw=draw,
    notes=notes,
)
