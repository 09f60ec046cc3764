"""Lazy descent: score only the children of nodes that are still in the running.

For very large trees. A dense gate scores all N nodes for every token; a token that is sent to K
experts by a beam of B needs the scores of a few sibling groups a level. The search goes down the
tree without gradients and answers which experts work. Then one differentiable look at the groups
on the chosen paths gives their weights. Groups that were searched but not chosen have no part in
the weights, so they would get no gradient from a dense gate either: the two agree exactly.

Pairs of a token and a group are sorted by group, and each group's rows meet its weights in one
product. Gathering node weights for every token is the other way; it is ten times slower.

Letters: T tokens, D width, N nodes, E experts, K experts per token, B units in the running, G
sibling groups, R pairs of a token and a sibling group, C children of all pairs, pair after pair.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hmoe.layer.tree import Tree

# Nodes whose weights are multiplied at once; bounds what a product holds besides its result.
_NODES_AT_ONCE = 16384


class Piece(NamedTuple):
    """Looks into neighbouring sibling groups of one size."""

    rows: slice
    children: slice
    nodes: slice
    size: int
    groups: slice


@dataclass(frozen=True, eq=False)
class Looks:
    """Pairs of a token and a sibling group whose nodes it compares, sorted by group.

    Attributes:
        tree: the organisation.
        token_R: int64, token of each pair.
        group_R: int64, sibling group of each pair, ascending.
    """

    tree: Tree
    token_R: Tensor
    group_R: Tensor

    @cached_property
    def size_R(self) -> Tensor:
        """Children of each pair."""
        return self._table("size_G").index_select(0, self.group_R)

    @cached_property
    def offset_R(self) -> Tensor:
        """Where the children of each pair begin."""
        return self.size_R.cumsum(0) - self.size_R

    @cached_property
    def node_C(self) -> Tensor:
        """Node of every child."""
        first_R = self._table("start_G").index_select(0, self.group_R)
        return self.spread(first_R - self.offset_R) + self._arange_C

    @cached_property
    def place_C(self) -> Tensor:
        """Place of every child among its siblings."""
        return self._arange_C - self.spread(self.offset_R)

    @cached_property
    def ends_G(self) -> Tensor:
        """int32, where the pairs of each sibling group end."""
        group_G = torch.arange(1, len(self._table("size_G")) + 1, device=self.group_R.device)
        return torch.searchsorted(self.group_R, group_G, out_int32=True)

    @cached_property
    def pieces(self) -> list[Piece]:
        """The pairs cut where the group size changes, and into pieces of bounded size."""
        cuts = []
        first = 0
        for block in (block for level in self.tree.blocks for block in level):
            step = max(1, _NODES_AT_ONCE // block.size)
            for i in range(0, block.num_groups, step):
                num_groups = min(step, block.num_groups - i)
                cuts.append((first + i, num_groups, block.start + i * block.size, block.size))
            first += block.num_groups
        edges = torch.tensor([group for group, *_ in cuts[1:]], dtype=torch.int64) - 1
        ends = [*self.ends_G[edges.to(self.ends_G.device)].tolist(), len(self.group_R)]
        pieces = []
        row = child = 0
        for (group, num_groups, node, size), end in zip(cuts, ends, strict=True):
            if end > row:
                piece = Piece(
                    rows=slice(row, end),
                    children=slice(child, child + (end - row) * size),
                    nodes=slice(node, node + num_groups * size),
                    size=size,
                    groups=slice(group, group + num_groups),
                )
                pieces.append(piece)
                row, child = end, piece.children.stop
        return pieces

    def spread(self, value_R: Tensor) -> Tensor:
        """Give every child the value of its pair. (R,) -> (C,)."""
        return value_R.repeat_interleave(self.size_R, output_size=self._num_children)

    def softmax(self, logits_C: Tensor) -> Tensor:
        """P(node | parent) of every child of every pair. (C,) -> (C,)."""
        parts = [
            logits_C[piece.children].unflatten(0, (-1, piece.size)).softmax(-1).flatten()
            for piece in self.pieces
        ]
        return torch.cat(parts) if parts else logits_C

    @property
    def _num_children(self) -> int:
        return self.pieces[-1].children.stop if self.pieces else 0

    @cached_property
    def _arange_C(self) -> Tensor:
        return torch.arange(self._num_children, device=self.group_R.device)

    def _table(self, name: str) -> Tensor:
        return self.tree.index(name, self.group_R.device)


# Scores of the children of every pair: (C,) float32, differentiable.
Scorer = Callable[[Looks], Tensor]


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

    The same search as `selection.top_k`: a beam compares units with units only, and experts that
    sit above a level stay in the running. `beams` has a number for each level but the last, and
    must be sure to leave k experts. Best first; no gradient.
    """
    is_expert_N = tree.index("is_expert_N", device)
    group_below_N = tree.index("group_below_N", device)
    group_TB = torch.zeros(num_tokens, 1, dtype=torch.int64, device=device)
    reach_TB = torch.ones(num_tokens, 1, device=device)
    best_reach_TK = reach_TB[:, :0]
    best_node_TK = group_TB[:, :0]
    with torch.no_grad():
        for level in range(tree.num_levels):
            reach_Tb, node_Tb = _step(tree, score, group_TB, reach_TB)
            if any(run.num_children == 0 for run in tree.runs[level]):
                expert_reach_Tb = reach_Tb.masked_fill(~is_expert_N[node_Tb], -1.0)
                reach = torch.cat([best_reach_TK, expert_reach_Tb], -1)
                node = torch.cat([best_node_TK, node_Tb], -1)
                best_reach_TK, place = reach.topk(min(k, reach.shape[-1]), -1)
                best_node_TK = node.gather(-1, place)
            if level < len(beams):
                unit_reach_Tb = reach_Tb.masked_fill(is_expert_N[node_Tb], -1.0)
                width = min(beams[level], unit_reach_Tb.shape[-1])
                reach_TB, place = unit_reach_Tb.topk(width, -1)
                group_TB = group_below_N[node_Tb.gather(-1, place)]
    return tree.index("expert_N", device)[best_node_TK]


def _step(tree: Tree, score: Scorer, group_TB: Tensor, reach_TB: Tensor) -> tuple[Tensor, Tensor]:
    """Look into the groups in the running: the reach of their nodes, -1 where there is none."""
    num_tokens, num_slots = group_TB.shape
    slot_R = (reach_TB.flatten() >= 0).nonzero().flatten()
    group_R, order_R = group_TB.flatten()[slot_R].sort(stable=True)
    slot_R = slot_R[order_R]
    looks = Looks(tree, slot_R // num_slots, group_R)
    reach_C = looks.spread(reach_TB.flatten()[slot_R]) * looks.softmax(score(looks))
    # Children side by side, one line a token, with room for the largest group.
    room = max(piece.size for piece in looks.pieces)
    to_C = looks.spread(slot_R) * room + looks.place_C
    num_places = group_TB.numel() * room
    reach = reach_C.new_full((num_places,), -1.0).index_copy(0, to_C, reach_C)
    node = group_TB.new_zeros(num_places).index_copy(0, to_C, looks.node_C)
    return reach.view(num_tokens, -1), node.view(num_tokens, -1)


def path_probability(tree: Tree, score: Scorer, expert_TK: Tensor) -> Tensor:
    """Product of the probabilities on the path to each chosen expert: (T, K), differentiable."""
    device = expert_TK.device
    parent_N, group_N = tree.index("parent_N", device), tree.index("group_N", device)
    start_G = tree.index("start_G", device)
    num_tokens = expert_TK.shape[0]
    token_TK = torch.arange(num_tokens, device=device)[:, None].expand_as(expert_TK)
    # Steps from the experts up to the root; a path ends at different levels of a ragged tree.
    node_S = tree.index("node_E", device)[expert_TK].flatten()
    token_S = token_TK.flatten()
    path_S = torch.arange(expert_TK.numel(), device=device)
    steps = []
    for _ in range(tree.num_levels):
        group_S = group_N[node_S]
        steps.append((group_S * num_tokens + token_S, node_S - start_G[group_S], path_S))
        node_S = parent_N[node_S]
        below_S = (node_S >= 0).nonzero().flatten()
        if len(below_S) < len(node_S):
            node_S, token_S, path_S = node_S[below_S], token_S[below_S], path_S[below_S]
    pair_S, place_S, _ = (torch.cat(parts) for parts in zip(*steps, strict=True))
    pair_R, row_S = pair_S.unique(return_inverse=True)
    looks = Looks(tree, pair_R % num_tokens, pair_R // num_tokens)
    probs_C = looks.softmax(score(looks))
    prob_S = probs_C.index_select(0, looks.offset_R[row_S] + place_S)
    reach = prob_S.new_ones(expert_TK.numel())
    # From the root down, as in `path_product`: floating point products depend on their order.
    parts = prob_S.split([len(path) for *_, path in steps])
    for prob, (*_, path) in zip(parts[::-1], steps[::-1], strict=True):
        reach = reach * torch.ones_like(reach).index_copy(0, path, prob)
    return reach.view_as(expert_TK)


def linear_scorer(x_TD: Tensor, weight_ND: Tensor, bias_N: Tensor) -> Scorer:
    """Scores of a gate with own weights at every node. All float32; D a multiple of 4."""

    def score(looks: Looks) -> Tensor:
        logits_C: Tensor = _GroupProducts.apply(x_TD, weight_ND, looks)
        return logits_C + bias_N.index_select(0, looks.node_C)

    return score


def tied_scorer(logits_by_level: Sequence[Tensor]) -> Scorer:
    """Scores of a gate whose groups on one level are scored alike: a tensor (T, b) a level."""

    def score(looks: Looks) -> Tensor:
        tree = looks.tree
        parts = []
        for piece in looks.pieces:
            level = sum(piece.nodes.start >= here.start for here in tree.level_slices[1:])
            token_r = looks.token_R[piece.rows]
            parts.append(logits_by_level[level].index_select(0, token_r).flatten())
        return torch.cat(parts)

    return score


class _GroupProducts(torch.autograd.Function):
    """Every pair's token times the weights of its group: one dense gradient for all of them.

    Autograd alone would fill a gradient of all weights for every block of the tree and add them.
    """

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_ND: Tensor, looks: Looks) -> Tensor:
        ctx.save_for_backward(x_TD, weight_ND)
        ctx.looks = looks
        logits = []
        for piece in looks.pieces:
            x_rD = x_TD.index_select(0, looks.token_R[piece.rows])
            weight_gbD = weight_ND[piece.nodes].unflatten(0, (-1, piece.size))
            y_rb = F.grouped_mm(x_rD, weight_gbD.mT, offs=_ends(looks, piece))
            logits.append(y_rb.flatten())
        return torch.cat(logits)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_C: Tensor) -> tuple[Tensor, Tensor, None]:
        x_TD, weight_ND = ctx.saved_tensors
        looks: Looks = ctx.looks
        grad_x_TD, grad_weight_ND = torch.zeros_like(x_TD), torch.zeros_like(weight_ND)
        for piece in looks.pieces:
            ends_g = _ends(looks, piece)
            token_r = looks.token_R[piece.rows]
            grad_rb = grad_C[piece.children].unflatten(0, (-1, piece.size))
            # Strides must be multiples of 16 bytes.
            grad_rb = F.pad(grad_rb, (0, -piece.size % 4))[:, : piece.size]
            weight_gbD = weight_ND[piece.nodes].unflatten(0, (-1, piece.size))
            grad_x_TD.index_add_(0, token_r, F.grouped_mm(grad_rb, weight_gbD, offs=ends_g))
            grad_gbD = F.grouped_mm(grad_rb.mT, x_TD.index_select(0, token_r), offs=ends_g)
            grad_weight_ND[piece.nodes] = grad_gbD.flatten(0, 1)
        return grad_x_TD, grad_weight_ND, None


def _ends(looks: Looks, piece: Piece) -> Tensor:
    """int32, where the rows of each group of a piece end, counted from the first of the piece."""
    return looks.ends_G[piece.groups] - piece.rows.start
