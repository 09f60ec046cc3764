"""inspect_run: from a run folder to the record of an inspection. Reads nothing but its arguments.

Letters: T tokens, R rows, N nodes, E experts, L levels.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from hmoe.data import SplitLoader
from hmoe.errors import ConfigError
from hmoe.inspection.knowing import knowledge
from hmoe.inspection.observe import Observation, Seen, fitting, observe
from hmoe.inspection.over_time import histories, kept_histories
from hmoe.inspection.routes import masked, policies, search_gap
from hmoe.inspection.run import TrainedRun, digest_of, load_run
from hmoe.layer import HMoE, Tree
from hmoe.metrics import (
    Inspection,
    LayerInspection,
    coactivation,
    decompose,
    level_statistics,
    locality,
    random_locality,
)

_TRIED_TOKENS = 8192  # of interventions, each of which is a pass of its own
_TRIED_IN_ALL = 2**17  # tokens of all nodes of a layer that are shut, so that it ends soon
_MASKED_UNITS = 64  # of a level, the busiest; of most trees all
_MASKED_EXPERTS = 32  # the busiest
_MOST_PAIRED = 256  # nodes of a level whose pairs are counted

Show = Callable[[str, int, int], None]
"""Told of progress: (what is done, how much of it, of how much)."""


def inspect_run(
    folder: Path,
    *,
    split: str,
    tokens: int,
    name: str,
    arm: str,
    checkpoints: Path | None = None,
    show: Show = lambda *_: None,
) -> Inspection:
    """What one pass of evaluation, and some interventions, find out about a run.

    Nothing is drawn anew: the same run gives the same record, but for its `seconds`.

    Args:
        folder: the run folder.
        split: "val" or "test".
        tokens: most tokens of it to look at, spread over all of it.
        name: of the run.
        arm: of the run, "" for a run by itself.
        checkpoints: a folder of checkpoints to draw the time axis from; None: the last one of the
            run, and for the time axis what it kept at its validations.
        show: told of progress.

    Raises:
        ConfigError, DataError: see `load_run` and `TrainedRun.pass_over`.
    """
    started = time.monotonic()
    show("reading run and data", 0, 1)
    run = load_run(folder, checkpoints)
    if not run.layers:
        raise ConfigError(
            f"RUN = {folder}: its model ({type(run.model).__name__}) has no mixture layer that "
            "sends tokens to experts, so there is no organisation to inspect."
        )
    batches = run.pass_over(split, fitting(run, tokens))
    seen = observe(run, batches, _counter(show, f"reading {split}", len(batches)))
    over_time = {} if checkpoints else kept_histories(run)
    if not over_time:
        counter = _counter(show, "checkpoints", len(run.checkpoints))
        over_time = histories(run, batches, seen, counter)
    tried = run.pass_over(split, _num_tried(run, seen))
    num_tried = sum(len(batch["x"]) for batch in tried) * run.tokens_per_row
    tried_loss = run.loss(tried)
    num_searches = max(len(policies(layer)) for layer in run.layers.values())
    recalls, policy_loss = search_gap(run, tried, _counter(show, "searches", num_searches))
    known = knowledge(
        seen.layers,
        seen.labels,
        run.data.label_names,
        tokens_per_row=run.tokens_per_row,
        group_W=seen.group_W,
        show=_counter(show, "labels", len(run.layers)),
    )
    layers = []
    for place, layer in run.layers.items():
        here = seen.layers[place]
        facts = _facts(here) | {
            "knowledge": known[place],
            "masked_N": _masked(run, layer, here, tried, tried_loss, f"{place} without", show),
            "recall": recalls.get(place, {}),
            "policy_loss": policy_loss if place in recalls else {},
            "history": over_time.get(place),
        }
        layers.append(LayerInspection(name=place, **facts))
    return Inspection(
        run=name,
        arm=arm,
        seed=run.cfg.seed,
        step=run.step,
        split=split,
        asked=tokens,
        num_tokens=seen.num_tokens,
        tokens=digest_of(run, batches),
        loss=seen.loss,
        num_tried=num_tried,
        tried_loss=tried_loss,
        tree_spec=OmegaConf.to_container(run.cfg.tree)["spec"],  # type: ignore[index, call-overload]
        layers=tuple(layers),
        seconds=time.monotonic() - started,
    )


def _facts(seen: Seen) -> dict[str, Any]:
    """What is known of a layer from its rows alone."""
    tree, levels = seen.tree, range(seen.tree.num_levels)
    rows = seen.token_R, seen.expert_R
    return {
        "load_N": seen.load_N,
        "dropped": seen.dropped,
        "load": {k: np.array(v) for k, v in level_statistics(seen.load_E, tree).items()},
        "decomposition": {k: v.numpy() for k, v in decompose(seen.load_E, tree).items()},
        "entropy_L": seen.entropy_L,
        "margin_L": seen.margin_L,
        "coactivation": {
            f"level_{level}": coactivation(*rows, tree, level).numpy()
            for level in levels
            if len(tree.cut(level)) <= _MOST_PAIRED
        },
        "locality": locality(*rows, tree),
        # However many are drawn, a pair of them is as far apart; some tokens may have several
        # experts where they have one on average.
        "locality_random": random_locality(tree, min(2, tree.num_experts)),
        "choice_T": seen.heaviest_T.numpy(),
    }


def _num_tried(run: TrainedRun, seen: Observation) -> int:
    """Tokens of an intervention: the more nodes are to be shut, the fewer."""
    most = max(len(nodes_to_mask(here.tree, here.load_N)) for here in seen.layers.values())
    wanted = min(_TRIED_TOKENS, _TRIED_IN_ALL // most)
    return min(seen.num_tokens, max(run.tokens_per_row, wanted))


def _masked(
    run: TrainedRun,
    layer: HMoE,
    seen: Seen,
    batches: SplitLoader,
    loss: float,
    what: str,
    show: Show,
) -> np.ndarray:
    """Rise of the loss without each node (N,); NaN for those that are not tried."""
    nodes = nodes_to_mask(seen.tree, seen.load_N)
    rises = masked(run, layer, nodes, batches, loss, _counter(show, what, len(nodes)))
    masked_N = np.full(seen.tree.num_nodes, np.nan)
    masked_N[list(rises)] = list(rises.values())
    return masked_N


def nodes_to_mask(tree: Tree, load_N: np.ndarray) -> list[int]:
    """Units level by level, then experts; of many the busiest."""
    kinds = [(units, _MASKED_UNITS) for units in tree.inner_levels]
    kinds.append((tree.node_E, _MASKED_EXPERTS))
    return [n for nodes, most in kinds for n in sorted(nodes, key=lambda n: -load_N[n])[:most]]


def _counter(show: Show, what: str, total: int) -> Callable[[], None]:
    """Tells of one more at every call."""
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        show(what, done, total)

    return count
