"""Lazy descent: score only the children of nodes that are still in the running.

For very large trees. A dense gate scores all N nodes for every token; a token that is sent to K
experts by a beam of B needs the scores of B sibling groups a level. The search goes down the tree
without gradients and answers which experts work. Then one differentiable look at the groups on the
chosen paths gives their weights. Groups that were searched but not chosen have no part in the
weights, so they would get no gradient from a dense gate either: the two agree exactly.

Letters: T tokens, D width, N nodes, E experts, K experts per token, B units in the running, R pairs
of a token and a sibling group, C children of all pairs, S steps of all chosen paths.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hmoe.errors import ConfigError
from hmoe.layer.beam import beam_widths, check_k
from hmoe.layer.checks import check_count
from hmoe.layer.gates import Gate, Tied, TopDown
from hmoe.layer.hmoe import HMoE
from hmoe.layer.looks import Looks, Scorer, linear_scorer, tied_scorer
from hmoe.layer.routing import Routing
from hmoe.layer.scorers import Linear
from hmoe.layer.scores import Unscored
from hmoe.layer.selection import Selection, check_weights, top_k, weighed_rows
from hmoe.layer.tree import Tree


class LazyHMoE(HMoE):
    """`HMoE` with a lazy descent: the same parameters, answers and gradients, for very large trees.

    Only `top_k` can be searched lazily, and only gates that can be asked for a few nodes: linear
    top-down ones, and tied ones of any score. The routing holds no scores of all nodes, so losses
    on them do not go with it; a bias controller does.

    Arguments are those of `HMoE`.

    Raises:
        ConfigError: those of `HMoE`; a gate or a selection that cannot be searched lazily.
    """

    def route(self, x_TD: Tensor, key_T: Tensor | None) -> Routing:
        """Who works on what: (T, D), ids (T,) or None -> Routing."""
        score = gate_scorer(self.gate, x_TD, key_T)
        selection = self.selection if self.training else self.eval_selection
        return self._routing(selection, score, x_TD.shape[0], x_TD.device)

    def try_out(self, num_tokens: int) -> Routing:
        """The routing of made-up tokens around the gate's start: costs and checks read it."""
        _check_gate(self.gate)
        score = _made_up(self.tree, num_tokens)
        with torch.device("cpu"):
            self._routing(self.eval_selection, score, num_tokens, torch.device("cpu"))
            return self._routing(self.selection, score, num_tokens, torch.device("cpu"))

    def saving(self) -> tuple[float, float]:
        """What a token is spared by not being compared with all nodes.

        Returns multiply-adds of the forward, and parameters of the gate that it does not meet.
        Nodes on chosen paths are compared twice, in the search and for the weights. Exact on a
        uniform tree, else the mean over made-up tokens; nothing under a tied gate, which has no
        more than one set of scores a level to begin with.
        """
        scorer = _own_weights(self.gate)
        if scorer is None:
            return 0.0, 0.0
        num_tokens, num_nodes, width = 1024, *scorer.weight_MD.shape
        score = _made_up(self.tree, num_tokens)
        counts = []

        def counting(looks: Looks) -> Tensor:
            counts.append(looks.num_children / num_tokens)
            return score(looks)

        with torch.device("cpu"):
            self._routing(self.selection, counting, num_tokens, torch.device("cpu"))
        searched = sum(counts[:-1])
        return (num_nodes - searched - counts[-1]) * width, (num_nodes - searched) * (width + 1)

    def _routing(
        self, selection: Selection, score: Scorer, num_tokens: int, device: torch.device
    ) -> Routing:
        options = _options(selection)
        k, weights = options.pop("k"), options["weights"]
        check_count("selection.k", k, self.tree.num_experts, "experts")
        check_weights(weights, [k])
        # Without a beam every unit stays in the running.
        beam = options.pop("beam")
        beams = beam_widths(self.tree, beam) or [self.tree.num_nodes] * (self.tree.num_levels - 1)
        check_k(self.tree, k, beams)
        choose = score if self.bias_N is None else _biased(score, self.bias_N)
        with torch.no_grad():
            expert_TK = search(
                self.tree, choose, num_tokens=num_tokens, k=k, beams=beams, device=device
            )
        # Of "softmax" the raw scores along a path are asked for, else its probability.
        value_TK = path_values(self.tree, score, expert_TK, raw=weights == "softmax")
        return weighed_rows(Unscored(self.tree, num_tokens), expert_TK, value_TK, **options)


def search(
    tree: Tree,
    score: Scorer,
    *,
    num_tokens: int,
    k: int,
    beams: Sequence[int],
    device: torch.device,
) -> Tensor:
    """The k experts with the largest probability of the whole path that a beam finds: (T, K).

    The same search as `selection.top_k`, by logs as `TopDown.choose` has it: a beam compares units
    with units only, and experts that sit above a level stay in the running. `beams` has a number
    for each level but the last, and must be sure to leave k experts. Best first.
    """
    is_expert_N = tree.index("is_expert_N", device)
    group_below_N = tree.index("group_below_N", device)
    group_TB = torch.zeros(num_tokens, 1, dtype=torch.int64, device=device)
    reach_TB = torch.zeros(num_tokens, 1, device=device)
    # Who is in the running is carried beside the reach, which may be NaN.
    alive_TB = torch.ones_like(group_TB, dtype=torch.bool)
    best_reach_TK, best_node_TK = reach_TB[:, :0], group_TB[:, :0]
    for level, runs in enumerate(tree.runs):
        reach_Tb, node_Tb, alive_Tb = _step(tree, score, group_TB, reach_TB, alive_TB)
        if any(run.num_children == 0 for run in runs):
            expert_reach_Tb = reach_Tb.masked_fill(
                ~(alive_Tb & is_expert_N[node_Tb]), float("-inf")
            )
            reach = torch.cat([best_reach_TK, expert_reach_Tb], -1)
            node = torch.cat([best_node_TK, node_Tb], -1)
            best_reach_TK, place_TK = reach.topk(min(k, reach.shape[-1]), -1)
            best_node_TK = node.gather(-1, place_TK)
        if level < len(beams):
            unit_Tb = alive_Tb & ~is_expert_N[node_Tb]
            width = min(beams[level], unit_Tb.shape[-1])
            reach_TB, place_TB = reach_Tb.masked_fill(~unit_Tb, float("-inf")).topk(width, -1)
            alive_TB = unit_Tb.gather(-1, place_TB)
            group_TB = group_below_N[node_Tb.gather(-1, place_TB)]
    return tree.index("expert_N", device)[best_node_TK]


def _step(
    tree: Tree, score: Scorer, group_TB: Tensor, reach_TB: Tensor, alive_TB: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Look into the groups in the running.

    Returns of their children the log of the path's probability and the node, and whether there is
    one at all, (T, b) each.
    """
    num_tokens, num_slots = group_TB.shape
    slot_R = alive_TB.flatten().nonzero().flatten()
    group_R, order_R = group_TB.flatten()[slot_R].sort(stable=True)
    slot_R = slot_R[order_R]
    looks = Looks(tree, slot_R // num_slots, group_R)
    reach_C = looks.spread(reach_TB.flatten()[slot_R]) + looks.log_softmax(score(looks))
    # Children side by side, one line a token, with room for the largest group.
    room = max((piece.size for piece in looks.pieces), default=1)
    to_C = looks.spread(slot_R) * room + looks.place_C
    num_places = group_TB.numel() * room
    reach = reach_C.new_zeros(num_places).index_copy(0, to_C, reach_C)
    node = group_TB.new_zeros(num_places).index_copy(0, to_C, looks.node_C)
    alive = alive_TB.new_zeros(num_places).index_fill(0, to_C, True)
    shape = (num_tokens, num_slots * room)
    return reach.view(shape), node.view(shape), alive.view(shape)


def path_values(tree: Tree, score: Scorer, expert_TK: Tensor, *, raw: bool) -> Tensor:
    """Probability of the path to each chosen expert, or the sum of its raw scores: (T, K).

    Differentiable; one look into each group that some chosen path goes through.
    """
    device, num_tokens = expert_TK.device, expert_TK.shape[0]
    parent_N, group_N = tree.index("parent_N", device), tree.index("group_N", device)
    start_G = tree.index("start_G", device)
    # Steps from the experts up to the root; on a ragged tree some paths end before others.
    path_S = torch.arange(expert_TK.numel(), device=device)
    node_S = tree.index("node_E", device)[expert_TK.flatten()]
    token_S = path_S // expert_TK.shape[1]
    pairs, places, paths = [], [], []
    for _ in range(tree.num_levels):
        group_S = group_N[node_S]
        pairs.append(group_S * num_tokens + token_S)
        places.append(node_S - start_G[group_S])
        paths.append(path_S)
        above_S = parent_N[node_S]
        on_S = (above_S >= 0).nonzero().flatten()
        node_S, token_S, path_S = above_S[on_S], token_S[on_S], path_S[on_S]
    pair_R, row_S = torch.cat(pairs).unique(return_inverse=True)
    looks = Looks(tree, pair_R % num_tokens, pair_R // num_tokens)
    value_C = score(looks) if raw else looks.softmax(score(looks))
    value_S = value_C.index_select(0, looks.offset_R[row_S] + torch.cat(places))
    # From the root down, as in `tree_ops`: floating point results depend on the order.
    neutral, join = (0.0, torch.add) if raw else (1.0, torch.mul)
    total = value_S.new_full((expert_TK.numel(),), neutral)
    steps = value_S.split([len(path) for path in paths])
    for step_S, path_S in zip(reversed(steps), reversed(paths), strict=True):
        total = join(total, torch.full_like(total, neutral).index_copy(0, path_S, step_S))
    return total.view_as(expert_TK)


def gate_scorer(gate: Gate, x_TD: Tensor, key_T: Tensor | None) -> Scorer:
    """Ask a gate for a few nodes: the raw scores that it would give them, float32.

    Raises:
        ConfigError: a gate that cannot be asked.
    """
    _check_gate(gate)
    assert isinstance(gate, TopDown)
    scorer = _own_weights(gate)
    if scorer is None:
        return tied_scorer(
            [
                scorer(x_TD, key_T) / temperature
                for scorer, temperature in zip(gate.scorers, gate.temperature_L, strict=True)
            ]
        )
    with torch.autocast(x_TD.device.type, enabled=False):
        query_TD = scorer.query(x_TD.float())
    score = linear_scorer(query_TD, scorer.weight_MD.float(), scorer.bias_M.float())
    return lambda looks: looks.divided(score(looks), gate.temperature_L)


def _own_weights(gate: Gate) -> Linear | None:
    """The one scorer of a linear gate whose nodes have weights of their own, else None."""
    if not isinstance(gate, TopDown) or isinstance(gate, Tied) or len(gate.scorers) > 1:
        return None
    scorer = gate.scorers[0]
    return scorer if type(scorer) is Linear else None


def _check_gate(gate: Gate) -> None:
    works = "A lazy descent needs gate=top_down with gate.score=linear, or gate=tied"
    if not isinstance(gate, TopDown):
        raise ConfigError(f"gate: {type(gate).__name__} scores all nodes together. {works}.")
    if set(gate.noise_L) != {"none"} or set(gate.link_L) != {"softmax"}:
        raise ConfigError(
            f"gate.noise = {gate.noise_L}, gate.link = {gate.link_L}: a lazy descent needs "
            "gate.noise=none and gate.link=softmax on all levels."
        )
    if isinstance(gate, Tied):
        return
    scorer = _own_weights(gate)
    if scorer is None:
        raise ConfigError(f"gate.score = {gate.score_L}: {works}.")
    width = scorer.weight_MD.shape[1]
    if width % 4:
        # Strides of the grouped product must be multiples of 16 bytes: 4 float32.
        raise ConfigError(
            f"dim = {width}: a lazy descent compares with grouped products, which need a multiple "
            "of 4. Use another dim, or gate.width=64."
        )


def _options(selection: Selection) -> dict[str, Any]:
    """The options of a `top_k`."""
    if not isinstance(selection, partial) or selection.func is not top_k:
        rule = selection.func if isinstance(selection, partial) else selection
        raise ConfigError(
            f"selection = {getattr(rule, '__name__', rule)}: a lazy descent finds the best k of a "
            "beam. Use selection=top_k with a selection.beam, or ffn@model.ffn=hmoe."
        )
    return dict(selection.keywords)


def _biased(score: Scorer, bias_N: Tensor) -> Scorer:
    return lambda looks: score(looks) + bias_N.index_select(0, looks.node_C)


def _made_up(tree: Tree, num_tokens: int) -> Scorer:
    """A random linear gate around the start of a top-down one, over tokens of four numbers."""
    with torch.device("cpu"):
        generator = torch.Generator().manual_seed(0)
        x_TD = torch.randn(num_tokens, 4, generator=generator)
        weight_ND = torch.randn(tree.num_nodes, 4, generator=generator) / 2
        prior_N = tree.index("num_below_N", x_TD.device).log()
    return linear_scorer(x_TD, weight_ND.requires_grad_(), prior_N)
