"""Do mixtures collapse without a balance loss, and does it matter which? Shazeer et al. (2017)."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from hmoe.reproductions.language import (
    READ,
    TEXT,
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

# Arm -> weights of importance and load; of table 6 perplexity, largest over mean load, CV of the
# load, CV of importance.
ARMS = {
    "none": ((0.0, 0.0), ("39.8", "17.80", "3.01", "3.04")),
    "importance_0.2": ((0.2, 0.0), ("35.6", "1.47", "0.17", "0.06")),
    "load_0.2": ((0.0, 0.2), ("35.7", "1.15", "0.04", "0.22")),
    "both_0.1": ((0.1, 0.1), ("35.6", "1.14", "0.05", "0.06")),
    "both_0.01": ((0.01, 0.01), ("35.7", "1.37", "0.11", "0.48")),
    "both_1": ((1.0, 1.0), ("35.7", "1.07", "0.02", "0.03")),
}
_QUANTITIES = {
    "loss, nats a byte": ("loss", 3),
    "largest over mean load": ("busiest", 2),
    "CV of load": ("cv", 2),
    "CV of importance, in training": ("noisy_importance", 2),
}
_WITH_LOSS = [arm for arm in ARMS if arm != "none"]
EXPERTS = 64
_HIDDEN: dict[Size, int] = {"cpu": 64, "gpu": 128}
# From no loss to a strong one.
_RISING = ("none", "both_0.01", "both_0.1", "both_1")


def overrides(arm: str, size: Size, seed: int) -> list[str]:
    """The run of an arm, as on the command line."""
    (importance, load), _ = ARMS[arm]
    choices = [
        "system=shazeer",
        f"tree.spec=[{EXPERTS}]",
        f"experts.hidden_dim={_HIDDEN[size]}",
        f"balance.terms.importance.weight={importance}",
        f"balance.terms.load.weight={load}",
    ]
    return words_of(choices, size, seed)


def _measure(cell: Cell, place: Place) -> dict[str, Any]:
    return measure_run(overrides(cell.arm, place.size, cell.seed), place)


def figures(measured: Sequence[Measured]) -> dict[str, Figure]:
    """Perplexity and load of every arm, and how the arms compare."""
    losses = by_arm(measured, "loss")
    found = {f"loss_{arm}": Figure.over(values) for arm, values in losses.items()}
    busiest = by_arm(measured, "busiest")
    for key in ("cv", "busiest", "busiest_halfway", "dead", "noisy_load", "noisy_importance"):
        for arm, values in by_arm(measured, key).items():
            found[f"{key}_{arm}"] = Figure.over(values)
    ratios = {arm: ratio(losses, "none", arm, 0.05) for arm in _WITH_LOSS}
    found |= {f"none_to_{arm}": figure for arm, figure in ratios.items()}
    found["least_cost"] = Figure(min(figure.value for figure in ratios.values()))
    # The geometric means of the arms, as the ratios are.
    means = [1 / figure.value for figure in ratios.values()]
    found["among_losses"] = Figure(max(means) / min(means))
    means = [float(np.mean(busiest[arm])) for arm in _RISING]
    found["least_fall"] = Figure(min(one - next_one for one, next_one in pairwise(means)))
    found["relief"] = Figure(means[0] / means[2])
    found["tokens"] = Figure(measured[0].values["tokens"])
    return found


def notes(figures: Figures) -> list[str]:
    """How far the collapse went, and whether it was still going on."""
    first, last = figures["busiest_halfway_none"].value, figures["busiest_none"].value
    grows = "it was still growing" if last > first else "it was no longer growing"
    best, evenest = (
        min(_WITH_LOSS, key=lambda arm: figures[f"{key}_{arm}"].value) for key in ("loss", "cv")
    )
    return [
        f"The largest load is at most {EXPERTS / 4:g} times the mean, where four experts do all "
        f"the work. Without a loss it was {first:.2f} times the mean at half of the steps and "
        f"{last:.2f} at the end: {grows}. With both losses at 0.1 it went from "
        f"{figures['busiest_halfway_both_0.1'].value:.2f} to "
        f"{figures['busiest_both_0.1'].value:.2f}.",
        "Perplexity without a loss over that with one: "
        f"{figures['least_cost'].value:.3f} at least. Four experts that do all the work have met "
        f"{figures['tokens'].value:,.0f} rows each, experts with an even load "
        f"{figures['tokens'].value * 4 / EXPERTS:,.0f}.",
        f"With a loss perplexity is best at {_words(best)}, and the load in use most even at "
        f"{_words(evenest)}.",
        f"In training, with noise, the smooth load had a CV of "
        f"{figures['noisy_load_none'].value:.2f} without a loss and "
        f"{figures['noisy_load_both_0.1'].value:.2f} with both at 0.1.",
        f"A run reads {figures['tokens'].value:,.0f} bytes; the published ones read about 8 "
        "billion words (27,000 steps of 300,000).",
    ]


def draw(measured: Sequence[Measured], file: Path) -> None:
    """Load and perplexity of every run, by arm."""
    from hmoe.reproductions.pictures import by_arms

    by_arms(
        file,
        {arm: f"{i:g}, {load:g}" for arm, ((i, load), _) in ARMS.items()},
        {
            "largest over mean load": by_arm(measured, "busiest"),
            "loss, nats a byte": by_arm(measured, "loss"),
        },
        "weights of importance and load",
        log=("largest over mean load",),
    )


def _words(arm: str) -> str:
    (importance, load), _ = ARMS[arm]
    return f"importance {importance:g}, load {load:g}"


def _rows() -> list[Row]:
    rows = []
    for arm, (_, values) in ARMS.items():
        for (quantity, (key, digits)), value in zip(_QUANTITIES.items(), values, strict=True):
            told = f"perplexity {value} a word" if key == "loss" else value
            rows.append(Row(f"{_words(arm)}: {quantity}", told, f"{key}_{arm}", digits))
    for arm in _WITH_LOSS:
        label = f"no loss to {_words(arm)}: ratio of perplexities"
        published = float(ARMS["none"][1][0]) / float(ARMS[arm][1][0])
        rows.append(Row(label, f"{published:.3f}", f"none_to_{arm}"))
    rows.append(Row("worst to best with a loss: ratio of perplexities", "1.003", "among_losses"))
    return rows


SHAZEER_2017_LOSSES = Reproduction(
    name="shazeer_2017_losses",
    title="Does a mixture collapse without a balance loss, and does it matter which loss it has?",
    source="Shazeer et al. (2017), Outrageously Large Neural Networks, arXiv 1701.06538; table 6",
    claim="Without a loss a few experts take most of the work and perplexity is a tenth worse; any "
    "of five settings of two losses prevents both, with perplexities within 0.3 %.",
    rows=_rows(),
    criteria=[
        Criterion(
            figure="relief",
            says="without a loss the largest load is twice that with both losses at 0.1, or more",
            role="shape",
            low=2.0,
        ),
        Criterion(
            figure="least_fall",
            says="the largest load falls as both weights rise: 0, 0.01, 0.1, 1",
            role="shape",
            low=0.0,
        ),
        Criterion(figure="cv_none", says="without a loss CV of the load", role="claim", low=1.0),
        Criterion(
            figure="busiest_none",
            says="without a loss the largest load is five times the mean",
            role="claim",
            low=5.0,
        ),
        Criterion(
            figure="least_cost",
            says="without a loss perplexity is worse than with any, by 3 % at least",
            role="claim",
            low=1.03,
        ),
        Criterion(
            figure="among_losses",
            says="perplexities with a loss lie within 1.5 %",
            role="claim",
            high=1.015,
        ),
        Criterion(
            figure="noisy_load_none",
            says="without a loss CV of the load in training, with its noise",
            role="aside",
            low=1.0,
        ),
    ],
    deviations=[
        "A transformer of two blocks, width 64, whose second holds the mixture (gpu: six blocks, "
        "width 256, mixtures in every second), where the paper has LSTMs around one mixture.",
        READ,
        length(
            "perplexity without a loss was .91 of that of the worst loss, the largest load without "
            "one 2.6 times that with both at 0.1"
        ),
        "The paper has the one-billion-word benchmark; ratios of perplexities are those a word.",
        "64 experts, top 4, where the paper has 256; loads are at most 16 times the mean, not 64.",
        "Loads are counted in validation, without noise. A gate that starts at zero chooses by "
        "very small differences there, while its noise still spreads the work in training; so CVs "
        "of a batch of the training, by the smooth load, are told too.",
        "The differences of `system=shazeer`: no sigmoid after the mixture, a floor of 0.01 under "
        "the noise, a bias of the gate that starts at zero.",
    ],
    sets=[TEXT],
    gpu=True,
    seeds=3,
    minutes=10,
    cells=lambda size, seeds: grid(list(ARMS), seeds),
    measure=_measure,
    figures=figures,
    draw=draw,
    notes=notes,
)
