"""Is a mixture of 256 experts as good under two levels of gates? Shazeer et al. (2017)."""

from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

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

_TREE = ["system=shazeer_two_level", "tree.spec=[16,16]"]
_JOINT = [*_TREE, "selection=top_k", "selection.k=4", "selection.weights=softmax"]
_DENSE = ["model=transformer_dense", "experts.activation=relu", "balance=none"]
# Arm -> what it is called, its choices, and how many experts wide a single one is.
ARMS: dict[str, tuple[str, list[str], int]] = {
    "dense_1": ("one wide expert", _DENSE, 4),
    "moe_4": (
        "4 experts, all active",
        ["system=shazeer", "tree.spec=[4]", "gate.noise=none", "balance=none"],
        1,
    ),
    "flat_256": ("256, flat", ["system=shazeer", "tree.spec=[256]"], 1),
    "two_level": ("16 x 16, 2 of 2", _TREE, 1),
    "joint": ("16 x 16, best 4", _JOINT, 1),
    "beam": ("16 x 16, best 4 by a beam of 2", [*_JOINT, "selection.beam=2"], 1),
}
_HIDDEN: dict[Size, int] = {"cpu": 64, "gpu": 128}
_TREES = ("two_level", "joint", "beam")
ALPHA = 0.05
LEAST, MOST = 0.99, 1.02
"""Between these a tree is as good as flat: its perplexity over that of flat."""


def overrides(arm: str, size: Size, seed: int) -> list[str]:
    """The run of an arm, as on the command line."""
    _, choices, wide = ARMS[arm]
    return words_of([*choices, f"experts.hidden_dim={wide * _HIDDEN[size]}"], size, seed)


def _measure(cell: Cell, place: Place) -> dict[str, Any]:
    return measure_run(overrides(cell.arm, place.size, cell.seed), place)


def figures(measured: Sequence[Measured]) -> dict[str, Figure]:
    """Perplexity, load and size of every arm, and ratios of perplexities on the same seeds."""
    losses = by_arm(measured, "loss")
    found = {f"loss_{arm}": Figure.over(own) for arm, own in losses.items()}
    for key in ("busiest", "cv_units"):
        found |= {f"{key}_{arm}": Figure.over(own) for arm, own in by_arm(measured, key).items()}
    for key in ("active_params", "total_params"):
        found |= {f"{key}_{arm}": Figure(own[0]) for arm, own in by_arm(measured, key).items()}
    for arm in _TREES:
        # Two one-sided tests at 5 % are an interval of 90 %.
        found |= ends(f"{arm}_to_flat", ratio(losses, arm, "flat_256", 2 * ALPHA))
    for arm in ("flat_256", "two_level", "dense_1"):
        found |= ends(f"{arm}_to_moe_4", ratio(losses, arm, "moe_4", ALPHA))
    found["tokens"] = Figure(measured[0].values["tokens"])
    return found


def notes(figures: Figures) -> list[str]:
    """What the seeds can tell, and how far the runs are from the published ones."""
    found = []
    for arm in _TREES:
        figure = figures[f"{arm}_to_flat"]
        if figure.low is None or figure.high is None:
            continue
        half = 50 * (log(figure.high) - log(figure.low))
        if figure.low >= LEAST and figure.high <= MOST:
            says = f"equivalent within {LEAST:g} to {MOST:g}"
        elif figure.low > 1:
            says = "worse"
        elif figure.high < 1:
            says = "better"
        else:
            says = "undecided"
        found.append(
            f"{ARMS[arm][0]} beside flat: {says}; the interval of 90 % reaches {half:.1f} % to "
            "either side, where the margins are 1 and 2 % away."
        )
    gain = figures["flat_256_to_moe_4"].value
    found.append(
        f"A run reads {figures['tokens'].value:,.0f} bytes, the published ones billions of words: "
        f"of 256 experts one has seen {figures['tokens'].value / 64:,.0f} rows in the mean. Their "
        f"perplexity over that of 4 experts is {gain:.3f} here, and 0.793 there."
    )
    return found


def draw(measured: Sequence[Measured], file: Path) -> None:
    """Perplexity of every run, and largest over mean load, by arm."""
    from hmoe.reproductions.pictures import by_arms

    by_arms(
        file,
        {
            arm: label.replace(", ", "\n").replace(" by", "\nby")
            for arm, (label, *_) in ARMS.items()
        },
        {
            "loss, nats a byte": by_arm(measured, "loss"),
            "largest over mean load": by_arm(measured, "busiest"),
        },
        "arm",
    )


_PUBLISHED = {
    arm: f"perplexity {value} a word"
    for arm, value in (("dense_1", 46.1), ("moe_4", 45.0), ("flat_256", 35.7), ("two_level", 36.0))
}


def _rows() -> list[Row]:
    rows = [
        Row(f"{label}: loss, nats a byte", _PUBLISHED.get(arm, ""), f"loss_{arm}")
        for arm, (label, *_) in ARMS.items()
    ]
    for arm in _TREES:
        published = "1.008" if arm == "two_level" else ""
        rows.append(
            Row(f"{ARMS[arm][0]}: perplexity over flat (90 %)", published, f"{arm}_to_flat")
        )
    for arm, published in (("flat_256", "0.793"), ("two_level", "0.800"), ("dense_1", "1.024")):
        label = f"{ARMS[arm][0]}: perplexity over that of 4 experts"
        rows.append(Row(label, published, f"{arm}_to_moe_4"))
    for arm in ("flat_256", *_TREES):
        rows.append(Row(f"{ARMS[arm][0]}: largest over mean load", "", f"busiest_{arm}", 2))
    for arm in ("moe_4", "flat_256", "two_level"):
        rows.append(Row(f"{ARMS[arm][0]}: active parameters", "", f"active_params_{arm}", 0))
        rows.append(Row(f"{ARMS[arm][0]}: all parameters", "", f"total_params_{arm}", 0))
    return rows


SHAZEER_2017_HIERARCHY = Reproduction(
    name="shazeer_2017_hierarchy",
    title="Is a mixture of 256 experts as good under two levels of gates as under one?",
    source="Shazeer et al. (2017), Outrageously Large Neural Networks, arXiv 1701.06538; table 7",
    claim="256 experts under one gate reach a perplexity of 35.7, in 16 groups of 16 under two "
    "levels of gates 36.0 with less work for the gates, where 4 experts reach 45.0.",
    rows=_rows(),
    criteria=[
        Criterion(
            figure="two_level_to_flat",
            says="two levels over flat, perplexity",
            role="shape",
            low=LEAST,
            high=MOST,
        ),
        Criterion(
            figure="flat_256_to_moe_4",
            says="256 experts are better than 4, by 8 % at least",
            role="claim",
            high=0.92,
        ),
        Criterion(
            figure="two_level_to_moe_4",
            says="so are 16 x 16",
            role="claim",
            high=0.92,
        ),
        Criterion(
            figure="two_level_to_flat_low",
            says="two levels over flat: the lower end of the 90 % interval",
            role="claim",
            low=LEAST,
        ),
        Criterion(
            figure="two_level_to_flat_high",
            says="its upper end (with the lower one, two one-sided tests at 5 %)",
            role="claim",
            high=MOST,
        ),
        *(
            Criterion(
                figure=f"{arm}_to_flat{end}",
                says=f"{ARMS[arm][0]} over flat: the {end[1:]} end of the 90 % interval",
                role="aside",
                **bound,
            )
            for arm in ("joint", "beam")
            for end, bound in (("_low", {"low": LEAST}), ("_high", {"high": MOST}))
        ),
    ],
    deviations=[
        "A transformer of two blocks, width 64, whose second holds the mixture (gpu: six blocks, "
        "width 256, mixtures in every second), where the paper has LSTMs around one mixture.",
        READ,
        length("two levels had 1.044 times the perplexity of flat, [1.014, 1.074]"),
        "The paper has the one-billion-word benchmark; ratios of perplexities, and margins, are "
        "those of words.",
        "Experts are 64 wide (gpu: 128) where the paper has 1,024; the one wide expert has the "
        "width of four. The 4 experts have a gate without noise and no loss: all always work.",
        "The best 4 of all paths, exact and by a beam of 2, are arms of ours, with the losses of "
        "the two-level gate.",
        "The differences of `system=shazeer`: no sigmoid after the mixture, a floor of 0.01 under "
        "the noise, a bias of the gate that starts at zero.",
    ],
    sets=[TEXT],
    gpu=True,
    seeds=5,
    minutes=20,
    cells=lambda size, seeds: grid(list(ARMS), seeds),
    measure=_measure,
    figures=figures,
    draw=draw,
    notes=notes,
)
