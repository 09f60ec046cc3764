"""Over time: the same tokens asked again and again, and when each level had settled.

A run keeps of every validation what its gates chose; checkpoints, where they are kept, can be asked
once more, and about other tokens.

Letters: T tokens, K experts per token, N nodes, L levels, S moments.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from hmoe.data import SplitLoader
from hmoe.inspection.observe import Observation, Seen, observe
from hmoe.inspection.run import TrainedRun
from hmoe.layer import Tree
from hmoe.layer.tree_ops import sum_below
from hmoe.metrics import History, overlaps
from hmoe.training import MOMENTS, moment_files, read_moment

_MOST_MOMENTS = 64


def kept_histories(run: TrainedRun) -> dict[str, History]:
    """Every layer over the validations of its run; {} where fewer than two were kept.

    Choices are those of each token's heaviest expert. Of many moments at most 64 are read, evenly
    spread, the last among them; churn is told from one of these to the next.
    """
    files = moment_files(run.folder / MOMENTS, run.step)
    if len(files) < 2:
        return {}
    places = np.linspace(0, len(files) - 1, min(len(files), _MOST_MOMENTS)).round().astype(int)
    moments = [read_moment(files[place]) for place in places]
    found = {}
    for layer, (name, mixture) in enumerate(run.layers.items()):
        tree = mixture.tree
        chosen = [moment.choice_T[layer].unsqueeze(-1) for moment in moments]
        rows = [
            (
                _shares(moment.load_E[layer], tree),
                *_kept_and_churned(now, chosen[-1], before, tree),
                moment.entropy_L[layer].numpy(),
            )
            for moment, now, before in zip(moments, chosen, [None, *chosen], strict=False)
        ]
        steps = np.array([moment.step for moment in moments])
        found[name] = History(steps, *map(np.stack, zip(*rows, strict=True)))
    return found


def histories(
    run: TrainedRun,
    batches: SplitLoader,
    last: Observation,
    show: Callable[[], None] = lambda: None,
) -> dict[str, History]:
    """Every layer over the checkpoints of a run; {} where there is one.

    The run holds its last checkpoint before and afterwards.

    Args:
        last: what was seen under the last checkpoint, on the same batches.
        show: called after every checkpoint.
    """
    if len(run.checkpoints) < 2:
        return {}
    steps: list[int] = []
    rows: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in run.layers}
    before: dict[str, Tensor] = {}
    chosen = {name: seen.chosen_TK for name, seen in last.layers.items()}
    for checkpoint in run.checkpoints:
        run.load(checkpoint)
        steps.append(run.step)
        is_last = checkpoint == run.checkpoints[-1]
        now = last if is_last else observe(run, batches, inputs=False)
        for name, seen in now.layers.items():
            rows[name].append(_moment(seen, chosen[name], before.get(name)))
            before[name] = seen.chosen_TK
        show()
    return {
        name: History(np.array(steps), *map(np.stack, zip(*moments, strict=True)))
        for name, moments in rows.items()
    }


def _moment(seen: Seen, last_TK: Tensor, before_TK: Tensor | None) -> tuple[np.ndarray, ...]:
    """Load, saturation, churn and entropy of one moment: (N,), (L,), (L,), (L,)."""
    kept_L, churn_L = _kept_and_churned(seen.chosen_TK, last_TK, before_TK, seen.tree)
    return seen.load_N, kept_L, churn_L, seen.entropy_L


def _kept_and_churned(
    now_TK: Tensor, last_TK: Tensor, before_TK: Tensor | None, tree: Tree
) -> tuple[np.ndarray, np.ndarray]:
    """Saturation and churn of every level: (L,), (L,)."""
    churn_L = np.full(tree.num_levels, np.nan)
    if before_TK is not None:
        churn_L = 1 - overlap_by_level(before_TK, now_TK, tree)
    return overlap_by_level(now_TK, last_TK, tree), churn_L


def _shares(load_E: Tensor, tree: Tree) -> np.ndarray:
    """Share of all rows at every node, (N,)."""
    return (sum_below(load_E, tree).double() / load_E.sum().clamp(min=1)).numpy()


def overlap_by_level(one_TK: Tensor, other_TJ: Tensor, tree: Tree) -> np.ndarray:
    """Share of choices that two moments have in common, on the cut of every level: (L,)."""
    shares = overlaps(one_TK, other_TJ, tree)
    return np.array([shares[f"level_{level}"] for level in range(tree.num_levels)])
