"""Gates on the move: what happens to a gate's rows when its tree changes. See `moving`.

Letters: N nodes, L levels, M rows of a scorer.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from math import log

import torch
from torch import Tensor, nn

from hmoe.errors import ConfigError
from hmoe.layer.bottom_up import BottomUp
from hmoe.layer.gates import Gate, TopDown
from hmoe.layer.heads import Heads
from hmoe.layer.outline import FRESH, Into, Plan
from hmoe.layer.rows import Origins, moved, restacked
from hmoe.layer.scorers import SCORERS
from hmoe.layer.tree import ROOT, Tree

Step = Callable[[Gate, Plan, Origins], Gate]


def gates(gate: Gate) -> list[TopDown | BottomUp]:
    """The heads of a gate, itself if it has none.

    Raises:
        ConfigError: a gate that cannot be moved.
    """
    found = list(gate.heads) if isinstance(gate, Heads) else [gate]
    for one in found:
        # Not isinstance: nodes of a gate that is tied have no rows of their own.
        if type(one) not in (TopDown, BottomUp):
            raise ConfigError(
                f"gate: {type(one).__name__} cannot be moved, since its nodes have no rows of "
                "their own. Use gate=top_down, gate=bottom_up or heads of them."
            )
    return found  # type: ignore[return-value]


def scored(gate: TopDown | BottomUp) -> Iterator[tuple[nn.Module, Sequence[int]]]:
    """Every scorer of a gate, and the nodes that its rows score."""
    if isinstance(gate, BottomUp):
        yield gate.scorer, gate.tree.node_E
        return
    stop = 0
    for scorer in gate.scorers:
        start, stop = stop, stop + len(scorer.bias_M)  # type: ignore[arg-type]
        yield scorer, range(start, stop)


def learned_nodes(gate: TopDown) -> list[int]:
    """The nodes whose noise is learnt, in the order of their rows."""
    return [n for n, level in enumerate(gate.tree.level_N) if gate.noise_L[level] == "learned"]


def moved_gate(gate: Gate, plan: Plan, origins: Origins, step: Step) -> Gate:
    """The gate on a new tree, or each of its heads: `kept` or `regrouped`."""
    gates(gate)
    if not isinstance(gate, Heads):
        return step(gate, plan, origins)
    heads = nn.ModuleList(step(head, plan, origins) for head in gates(gate))
    new: Heads = copy.deepcopy(gate, {id(gate.tree): plan.tree, id(gate.heads): heads})
    top = plan.tree.level_slices[0]
    tops = [_top(gate.tree, node) for node in plan.node_N[top]]
    new.hidden_H = [
        [node for node, old in enumerate(tops) if old in hidden] for hidden in gate.hidden_H
    ]
    for head, hidden in enumerate(new.hidden_H):
        if len(hidden) == len(tops):
            raise ConfigError(f"gate.visible: head {head} would have no unit left to use.")
    return new


def kept(gate: Gate, plan: Plan, origins: Origins) -> Gate:
    """The same kind of gate on a new tree. Fresh nodes of a top-down gate have rows of zeros."""
    if isinstance(gate, BottomUp):
        scorer = restacked(gate.scorer, plan.expert_E, origins)
        return copy.deepcopy(gate, {id(gate.tree): plan.tree, id(gate.scorer): scorer})
    assert isinstance(gate, TopDown)
    source_L = _sources(gate, plan)
    memo: dict[int, object] = {
        id(gate.tree): plan.tree,
        id(gate.scorers): nn.ModuleList(_moved_scorers(gate, plan, source_L, origins)),
    }
    new: TopDown = copy.deepcopy(gate, memo)
    new.score_L = [gate.score_L[level] for level in source_L]
    new.noise_L = [gate.noise_L[level] for level in source_L]
    new.link_L = [gate.link_L[level] for level in source_L]
    new.temperature_L = [gate.temperature_L[level] for level in source_L]
    if gate.noise_MD is not None:
        row_of = {node: row for row, node in enumerate(learned_nodes(gate))} | {FRESH: FRESH}
        learned = learned_nodes(new)
        row_M = torch.tensor([row_of[plan.node_N[node]] for node in learned], dtype=torch.int64)
        new.noise_MD = moved(gate.noise_MD, row_M, origins) if learned else None
    return new


def regrouped(gate: Gate, plan: Plan, origins: Origins) -> Gate:
    """The bottom-up gate on a new tree that scores every expert as this gate does.

    Raises:
        ConfigError: there is none.
    """
    if isinstance(gate, TopDown):
        gate = _as_bottom_up(gate)
    return kept(gate, plan, origins)


def check_split(gate: TopDown | BottomUp, level: int, into: Into) -> None:
    """Refuse gates under which two copies of an expert cannot share what it had.

    Args:
        level: that of the expert.
    """
    below = min(level + 1, gate.tree.num_levels - 1)
    if isinstance(gate, BottomUp):
        kinds = {kind: name for name, kind in SCORERS.items()}
        score, link, new_unit = kinds[type(gate.scorer)], str(gate.link), False
    else:
        new_unit = into == "unit"
        deciding = below if new_unit else level
        score, link = gate.score_L[deciding], gate.link_L[deciding]
    if score in ("random", "hash"):
        raise ConfigError(
            f"gate.score = {score}: this gate does not learn, so it would never tell the copies of "
            "an expert apart."
        )
    if not new_unit and link != "softmax":
        raise ConfigError(
            f"gate.link = {link}: no shift of a raw score halves its weight. A split needs "
            "gate.link=softmax, or a top-down gate and into=unit."
        )
    if new_unit and score == "cosine":
        raise ConfigError(
            "gate.score = cosine: the new nodes start from rows of zeros, which have no direction. "
            "Use into=siblings."
        )
    if new_unit and link == "sigmoid" and score not in ("linear", "mlp"):
        raise ConfigError(
            f"gate.link = sigmoid with gate.score = {score}: a row of zeros must score 0, and a "
            "distance does not. Use gate.score=linear."
        )


def halved(gate: TopDown | BottomUp, nodes: Sequence[int]) -> None:
    """Take log 2 off the raw scores of nodes, which under a softmax halves their weights."""
    for scorer, scored_nodes in scored(gate):
        bias_M: Tensor = scorer.bias_M  # type: ignore[assignment]
        for node in nodes:
            if node in scored_nodes:
                bias_M.data[scored_nodes.index(node)] -= _temperature(gate, node) * log(2)


def _as_bottom_up(gate: TopDown) -> BottomUp:
    """A top-down gate of one level as the bottom-up gate that it is; they share the scorer."""
    if gate.tree.num_levels > 1:
        raise ConfigError(
            f"gate: a top-down gate on tree {gate.tree} has no equal on another tree. Its units "
            "have weights of their own, and what their experts would have to score, a log-sum-exp, "
            "is not the kind of score they learn. Only gate=bottom_up regroups freely, or "
            f"gate=top_down on one level, such as tree.spec=[{gate.tree.num_experts}]."
        )
    if gate.noise_L[0] == "learned" or gate.link_L[0] == "smooth_step":
        option = "noise = learned" if gate.noise_L[0] == "learned" else "link = smooth_step"
        raise ConfigError(f"gate.{option}: a regrouped gate is bottom-up, and those have none.")
    scorer = gate.scorers[0]
    query = getattr(scorer, "query_DW", None)
    with torch.device("meta"):  # of the made gate only the options are used
        new = BottomUp(
            tree=gate.tree,
            dim=1,
            score=gate.score_L[0],
            width=None if query is None else query.shape[1],
            init_std=0.0,
            temperature=_temperature(gate, 0),
            noise=gate.noise_L[0],
            link=gate.link_L[0],
            pool="logsumexp",
        )
    new.scorer = scorer
    return new.train(gate.training)


def _sources(gate: TopDown, plan: Plan) -> list[int]:
    """For every new level the old one whose options it has: that of its nodes, or the last."""
    sources = []
    for here in plan.tree.level_slices:
        levels = sorted({gate.tree.level_N[node] for node in plan.node_N[here] if node != FRESH})
        options = {
            (gate.score_L[n], gate.noise_L[n], gate.link_L[n], _temperature(gate, start))
            for n in levels
            for start in [gate.tree.level_slices[n].start]
        }
        if len(options) > 1:
            raise ConfigError(
                f"gate: nodes of levels {levels} of tree {gate.tree} would meet on one level, but "
                "their options (score, noise, link, temperature) differ. Use one option for all "
                "levels."
            )
        sources.append(levels[0] if levels else gate.tree.num_levels - 1)
    return sources


def _moved_scorers(
    gate: TopDown, plan: Plan, source_L: Sequence[int], origins: Origins
) -> Iterator[nn.Module]:
    """The scorers of the new levels. Levels that meet have one score, so each has one origin."""
    owner = [(scorer, row) for scorer, nodes in scored(gate) for row in range(len(nodes))]
    slices = plan.tree.level_slices
    for _, run in groupby(range(len(slices)), key=lambda level: gate.score_L[source_L[level]]):
        levels = list(run)
        old = plan.node_N[slices[levels[0]].start : slices[levels[-1]].stop]
        scorer = next(owner[node][0] for node in old if node != FRESH)
        rows = [FRESH if node == FRESH else owner[node][1] for node in old]
        yield restacked(scorer, rows, origins)


def _temperature(gate: TopDown | BottomUp, node: int) -> float:
    if isinstance(gate, BottomUp):
        return gate.temperature
    return gate.temperature_L[gate.tree.level_N[node]]


def _top(tree: Tree, node: int) -> int:
    """The child of the root that a node is or sits below."""
    while node != FRESH and tree.parent_N[node] != ROOT:
        node = tree.parent_N[node]
    return node
