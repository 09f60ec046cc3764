"""Looks: a token looks into a sibling group and compares its nodes, instead of all nodes of a tree.

Pairs of a token and a group are sorted by group, and each group's tokens meet its weights in one
product. Gathering node weights for every token is the other way; it is ten times slower.

Letters: T tokens, D width, N nodes, G sibling groups, R pairs of a token and a sibling group, C
children of all pairs, pair after pair; b children of a group, g and r groups and pairs of a piece.
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
    level: int


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
        blocks = [(n, block) for n, level in enumerate(self.tree.blocks) for block in level]
        for level, block in blocks:
            step = max(1, _NODES_AT_ONCE // block.size)
            for i in range(0, block.num_groups, step):
                num_groups = min(step, block.num_groups - i)
                node = block.start + i * block.size
                cuts.append((first + i, num_groups, node, block.size, level))
            first += block.num_groups
        edges = torch.tensor([group for group, *_ in cuts[1:]], dtype=torch.int64) - 1
        ends = [*self.ends_G[edges.to(self.ends_G.device)].tolist(), len(self.group_R)]
        pieces = []
        row = child = 0
        for (group, num_groups, node, size, level), end in zip(cuts, ends, strict=True):
            if end > row:
                piece = Piece(
                    rows=slice(row, end),
                    children=slice(child, child + (end - row) * size),
                    nodes=slice(node, node + num_groups * size),
                    size=size,
                    groups=slice(group, group + num_groups),
                    level=level,
                )
                pieces.append(piece)
                row, child = end, piece.children.stop
        return pieces

    def spread(self, value_R: Tensor) -> Tensor:
        """Give every child the value of its pair. (R,) -> (C,)."""
        return value_R.repeat_interleave(self.size_R, output_size=self.num_children)

    def softmax(self, logits_C: Tensor) -> Tensor:
        """P(node | parent) of every child of every pair. (C,) -> (C,)."""
        return self._among_siblings(lambda group: group.softmax(-1), logits_C)

    def log_softmax(self, logits_C: Tensor) -> Tensor:
        """log P(node | parent) of every child of every pair. (C,) -> (C,)."""
        return self._among_siblings(lambda group: group.log_softmax(-1), logits_C)

    def divided(self, logits_C: Tensor, temperature_L: Sequence[float]) -> Tensor:
        """Raw scores of the children over the temperatures of their levels. (C,) -> (C,)."""
        parts = [logits_C[p.children] / temperature_L[p.level] for p in self.pieces]
        return torch.cat([logits_C[:0], *parts])

    @property
    def num_children(self) -> int:
        """Children of all pairs, counted once for every pair."""
        return self.pieces[-1].children.stop if self.pieces else 0

    def _among_siblings(self, rule: Callable[[Tensor], Tensor], value_C: Tensor) -> Tensor:
        parts = [
            rule(value_C[piece.children].unflatten(0, (-1, piece.size))).flatten()
            for piece in self.pieces
        ]
        return torch.cat([value_C[:0], *parts])  # without any pair there is nothing else to join

    @cached_property
    def _arange_C(self) -> Tensor:
        return torch.arange(self.num_children, device=self.group_R.device)

    def _table(self, name: str) -> Tensor:
        return self.tree.index(name, self.group_R.device)


# Scores of the children of every pair: (C,) float32, differentiable.
Scorer = Callable[[Looks], Tensor]


def linear_scorer(x_TD: Tensor, weight_ND: Tensor, bias_N: Tensor) -> Scorer:
    """Scores x w + b of a gate with own weights at every node. All float32; D a multiple of 4."""

    def score(looks: Looks) -> Tensor:
        product_C: Tensor = _GroupProducts.apply(x_TD, weight_ND, looks)  # type: ignore[no-untyped-call]
        return product_C + bias_N.index_select(0, looks.node_C)

    return score


def tied_scorer(logits_by_level: Sequence[Tensor]) -> Scorer:
    """Scores of a gate whose groups on one level are scored alike: a tensor (T, b) a level."""

    def score(looks: Looks) -> Tensor:
        parts = [logits_by_level[0].flatten()[:0]]
        for piece in looks.pieces:
            token_r = looks.token_R[piece.rows]
            parts.append(logits_by_level[piece.level].index_select(0, token_r).flatten())
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
        logits = [x_TD.new_empty(0)]
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
    ends_g: Tensor = looks.ends_G[piece.groups] - piece.rows.start
    return ends_g
