"""Moments: what the gates choose at each validation, kept beside the run.

The validation set and its order stay the same and evaluation draws nothing, so that what differs
from moment to moment are the gates, and what they read. Churn is the share of choices that differ
from the moment before: a gate that has settled has a churn near 0 at every level. The files are
what an inspection draws the time axis from.

A moment of one layer of four experts, after 250 steps, might be

    load_E.0 [4021 3977 4101 4285]    entropy_L.0 [0.91 0.88]    choice_T.0 [2 2 0 3 1 ...]

Letters: T sampled tokens, E experts, L levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from hmoe.layer import Routing, Tree
from hmoe.layer.scores import Unscored
from hmoe.metrics import heaviest, level_entropy, overlaps

MOMENTS = "routing"
# Tokens of a layer, at least half of it: a share is told to within a percent, in 16 KB a moment.
_MOST_TOKENS = 8_192
# Tokens whose entropy is taken, at least half of it: of thousands of experts it costs as much as
# the rest of a validation, and its mean is told to within a percent.
_MOST_DOUBTS = 1_024


@dataclass(frozen=True, eq=False)
class Moment:
    """What every mixture chose at one step.

    Attributes:
        step: of the training.
        load_E: per mixture the rows that each expert was asked for, over the whole validation.
        entropy_L: per mixture the mean over sampled tokens of `level_entropy`, NaN where its gate
            does not score all nodes.
        choice_T: per mixture the heaviest expert of each sampled token, -1 for none.
    """

    step: int
    load_E: tuple[Tensor, ...]
    entropy_L: tuple[Tensor, ...]
    choice_T: tuple[Tensor, ...]


class Moments:
    """Watches validations and keeps of each one file.

    Args:
        folder: where the files are.
        trees: of the mixtures, in the order of their routings.
    """

    def __init__(self, *, folder: Path, trees: Sequence[Tree]) -> None:
        self._folder = folder
        self._trees = tuple(trees)
        self.start()

    def start(self) -> None:
        """Begin a validation."""
        self._choices = [_Sample(_MOST_TOKENS) for _ in self._trees]
        self._doubts = [_Sample(_MOST_DOUBTS) for _ in self._trees]

    def watch(self, routings: Sequence[Routing]) -> None:
        """Add a batch of the validation. What experts were asked to do counts, dropped or not."""
        for choices, doubts, routing in zip(self._choices, self._doubts, routings, strict=True):
            choice_T = heaviest(routing.before_drops)
            choices.keep(choice_T[choices.places(len(choice_T))])
            doubts.keep(_entropy_TL(routing, doubts.places(routing.num_tokens)))

    def finish(self, step: int, load_E: Sequence[Tensor]) -> dict[str, float]:
        """End the validation of a step: entropy and churn by level, as means over mixtures.

        Churn is told against the last moment before the step, so that a run that was resumed tells
        what an undisturbed one does; of the first validation there is none, of a lazy descent no
        entropy.
        """
        if not self._trees:
            return {}
        choice_T = tuple(sample.values().cpu() for sample in self._choices)
        entropy_L = tuple(sample.values().mean(0).cpu() for sample in self._doubts)
        now = Moment(step, tuple(load.cpu() for load in load_E), entropy_L, choice_T)
        earlier = moment_files(self._folder, step - 1)
        churns = []
        if earlier:
            before = read_moment(earlier[-1])
            churns = [
                overlaps(a_T.unsqueeze(-1), b_T.unsqueeze(-1), tree)
                for a_T, b_T, tree in zip(before.choice_T, choice_T, self._trees, strict=True)
            ]
        _write(self._folder, now)
        told = {
            f"churn/{k}": 1 - fmean(c[k] for c in churns) for k in (churns[0] if churns else ())
        }
        if entropy_L[0].isfinite().all():
            means = torch.stack(entropy_L).mean(0).tolist()
            told |= {f"entropy/level_{level}": mean for level, mean in enumerate(means)}
        return told


def moment_files(folder: Path, last: int | None = None) -> list[Path]:
    """The files of a folder's moments, in order of their steps, as far as the step `last`."""
    files = sorted(folder.glob("step_*.npz"))
    return files if last is None else [path for path in files if _step(path) <= last]


def read_moment(path: Path) -> Moment:
    """One moment of a run."""
    with path.open("rb") as file, np.load(file) as arrays:
        layers = range(sum(name.startswith("load_E") for name in arrays.files))
        return Moment(
            step=_step(path),
            load_E=tuple(torch.from_numpy(arrays[f"load_E.{i}"]) for i in layers),
            entropy_L=tuple(torch.from_numpy(arrays[f"entropy_L.{i}"]) for i in layers),
            choice_T=tuple(torch.from_numpy(arrays[f"choice_T.{i}"]).long() for i in layers),
        )


class _Sample:
    """Evenly spread values of a long stream, without knowing how long it is.

    Every value at first; each time they would be too many, every other one is let go, and from then
    on half as many are taken. So the same stream gives the same sample however it is cut in
    batches. Which values of a batch to keep is told beforehand, so that no others need be computed.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._stride, self._seen, self._kept = 1, 0, 0
        self._parts: list[Tensor] = []

    def places(self, num_tokens: int) -> slice:
        """Which of the next values of the stream to `keep`."""
        while True:
            taken = range(-self._seen % self._stride, num_tokens, self._stride)
            if self._kept + len(taken) <= self._most:
                break
            self._parts = [self.values()[::2]]
            self._stride *= 2
            self._kept = len(self._parts[0])
        self._seen += num_tokens
        self._kept += len(taken)
        return slice(taken.start, num_tokens, self._stride)

    def keep(self, value_T: Tensor) -> None:
        """Add the values, of one number or several, of those places."""
        self._parts.append(value_T)

    def values(self) -> Tensor:
        return torch.cat(self._parts) if self._parts else torch.empty(0, dtype=torch.int64)


def _entropy_TL(routing: Routing, places: slice) -> Tensor:
    """`level_entropy` of some tokens: (T, L) on the device."""
    if isinstance(routing.scores, Unscored):
        num_tokens = len(range(routing.num_tokens)[places])
        return routing.weight_R.new_full((num_tokens, routing.tree.num_levels), torch.nan)
    return level_entropy(routing.probs_TN[places].detach(), routing.tree)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def _write(folder: Path, moment: Moment) -> None:
    """Write a moment so that its file is absent or whole."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    for i, load_E in enumerate(moment.load_E):
        fits = len(load_E) <= torch.iinfo(torch.int16).max
        choice_T = moment.choice_T[i].to(torch.int16 if fits else torch.int32)
        arrays[f"load_E.{i}"] = load_E.numpy()
        arrays[f"entropy_L.{i}"] = moment.entropy_L[i].numpy()
        arrays[f"choice_T.{i}"] = choice_T.numpy()
    aside = folder / "moment.tmp"
    with aside.open("wb") as file:
        np.savez_compressed(file, **arrays)
    aside.replace(folder / f"step_{moment.step:08d}.npz")
