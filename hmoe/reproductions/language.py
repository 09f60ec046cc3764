"""What reproductions with a language model share: the model at two sizes, and its figures by arm.

The text is WikiText-2, read byte by byte. Losses are told in nats a byte. Ratios of perplexities
are those of words, as published: exp(difference of nats per byte x bytes per word), where the ends
of lines count as words, as Merity et al. (2016) count them.
"""

import json
from collections.abc import Mapping, Sequence
from math import exp
from pathlib import Path
from typing import Any

import numpy as np

from hmoe.reproductions.record import Cell, Figure, Place, Size
from hmoe.reproductions.runs import set_root, trained
from hmoe.statistics import estimate

TEXT = "wikitext2"
WORD_BYTES = 1_121_681 / 217_646
"""Bytes and words of the validation split."""
READ = (
    "WikiText-2 by bytes; losses and loads are of the first 32,768 bytes of its validation split "
    "(gpu: 1,048,576), 3 % of it."
)

_SHARED = [
    f"data={TEXT}",
    "model=transformer",
    "test=false",
    "trainer.keep_checkpoints=1",
]
_SIZES: dict[Size, list[str]] = {
    "cpu": [
        *("data.context=128", "data.batch_size=8", "data.eval_bytes=32768"),
        *("model.dim=64", "model.depth=2", "model.ffn_blocks=[1]"),
        "model.plain_ffn.experts.hidden_dim=128",
        *("trainer.accelerator=cpu", "trainer.log_every=20"),
    ],
    "gpu": [
        *("data.context=512", "data.batch_size=64", "data.eval_bytes=1048576"),
        *("model.dim=256", "model.depth=6", "model.ffn_blocks=[1,3,5]"),
        *("model.plain_ffn.experts.hidden_dim=1024", "optim.warmup_steps=200"),
        *("trainer.precision=bf16-mixed", "trainer.log_every=50"),
    ],
}
_STEPS: dict[Size, int] = {"cpu": 1500, "gpu": 3100}


def length(first_found: str) -> str:
    """How short runs are, and what a first call of shorter ones found, as a deviation."""
    return (
        f"Runs of {_STEPS['cpu']:,} steps of 1,024 bytes (gpu: {_STEPS['gpu']:,} or more of "
        "32,768) read tens of thousands of times less text than the published ones (gpu: "
        "hundreds). A first call, of 120 steps and a warm-up of 10 where it is 50 now, was judged "
        f"by the same criteria and did not reproduce: {first_found}."
    )


def words_of(
    choices: Sequence[str], size: Size, seed: int, *, steps: int | None = None
) -> list[str]:
    """The overrides of a run: the shared ones, then an arm's, which win. A system comes first.

    Args:
        choices: of the arm.
        size: of the run.
        seed: of the run.
        steps: None for those of the size.
    """
    steps = steps or _STEPS[size]
    system = [word for word in choices if word.startswith("system=")]
    own = [word for word in choices if word not in system]
    lengths = [
        f"trainer.max_steps={steps}",
        f"trainer.val_every={steps // 2}",
        f"trainer.checkpoint_every={steps // 2}",
    ]
    return [*system, *_SHARED, *_SIZES[size], *lengths, *own, f"seed={seed}"]


def measure_run(words: Sequence[str], place: Place) -> dict[str, Any]:
    """Train a run; its loss (nats a byte) and, of mixtures, the load over the validation split.

    Of both the first `data.eval_bytes` of the split are read. Loads are means over the layers,
    counted as evaluation chooses, without noise: "cv", "busiest"
    (largest over mean load), "dead" (share of experts without a row), and "busiest_halfway", at
    half of the steps. "noisy_..." are CVs over a last batch of the training, as the losses see it.
    """
    result = trained([*words, set_root(place, TEXT)], place)
    metrics = result["metrics"]
    values = {
        "loss": metrics["val/loss"],
        "active_params": result["cost"]["active_params"],
        "total_params": result["cost"]["total_params"],
        "tokens": result["cost"]["tokens"],
        "steps": result["steps"],
    }
    violation = "val/load/max_violation/expert"
    if violation in metrics:
        values["busiest"] = 1 + metrics[violation]
        events = place.folder / "run" / "events.jsonl"
        values["busiest_halfway"] = 1 + _told(events, violation)[0]
        values["cv"] = metrics["val/load/cv/expert"]
        values["cv_units"] = metrics["val/load/cv/level_0"]
        values["dead"] = metrics["val/load/dead/expert"]
        for term in ("importance", "load"):
            if told := _told(events, f"train/balance/{term}/level_0"):
                values[f"noisy_{term}"] = told[-1] ** 0.5
    return values


def _told(events: Path, key: str) -> list[float]:
    """All values that a run wrote down under a key, in their order."""
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    return [float(line["metrics"][key]) for line in lines if key in line["metrics"]]


def grid(arms: Sequence[str], seeds: int) -> list[Cell]:
    """Every arm under every seed, seed after seed."""
    return [Cell(arm, seed) for seed in range(seeds) for arm in arms]


def ratio(losses: Mapping[str, Sequence[float]], arm: str, of: str, alpha: float) -> Figure:
    """Perplexity of an arm over that of another, a word, on the same seeds, by Student's interval.

    The mean is geometric; the interval has coverage 1 - alpha, and is left out of a single seed.
    """
    difference = WORD_BYTES * (np.array(losses[arm]) - np.array(losses[of]))
    if len(difference) < 2:
        return Figure(exp(difference.mean()), n=len(difference))
    found = estimate(difference, alpha)
    return Figure(exp(found.mean), n=found.num_seeds, low=exp(found.low), high=exp(found.high))


def ends(name: str, figure: Figure) -> dict[str, Figure]:
    """A figure, and the ends of its interval as figures of their own, for criteria."""
    found = {name: figure}
    if figure.low is not None and figure.high is not None:
        found |= {f"{name}_low": Figure(figure.low), f"{name}_high": Figure(figure.high)}
    return found
