"""Over time: the same tokens asked of every checkpoint, and when each level had settled.

Letters: T tokens, K experts per token, N nodes, L levels, S moments.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from hmoe.data import SplitLoader
from hmoe.inspection.observe import Observation, Seen, observe
from hmoe.inspection.run import TrainedRun
from hmoe.layer import Tree
from hmoe.metrics import History, nodes_at, overlap


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
    now_TK, tree = seen.chosen_TK, seen.tree
    churn_L = np.full(tree.num_levels, np.nan)
    if before_TK is not None:
        churn_L = 1 - overlap_by_level(before_TK, now_TK, tree)
    return seen.load_N, overlap_by_level(now_TK, last_TK, tree), churn_L, seen.entropy_L


def overlap_by_level(one_TK: Tensor, other_TJ: Tensor, tree: Tree) -> np.ndarray:
    """Share of choices that two moments have in common, on the cut of every level: (L,)."""
    levels = range(tree.num_levels)
    shares = [overlap(*(nodes_at(x, tree, level) for x in (one_TK, other_TJ))) for level in levels]
    return np.array([share.item() for share in shares])
