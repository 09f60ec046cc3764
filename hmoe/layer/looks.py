"""Looks: on one level of a tree every token compares the children of its groups in the running.

Which tokens ask for which nodes is a sparse matrix, a line a token. Forward takes the entries of
x W^T that are asked for, backward multiplies the sparse gradient by W and by x. So nothing is
sorted by node or copied for a product on the way down; on the way back only entries are sorted.
Where a level is small beside what is asked of it, one dense product of the level is cheaper.

Letters: T tokens, D width, N nodes, n nodes of a level, B groups in the running, b room for the
children of a group (those of the largest of its level), C = B b places of a token, P entries of a
sparse matrix.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hmoe.layer.tree import Tree

# Nodes of a level that are scored densely in the time of one that is asked for. Measured: "where
# dense scoring ends" in reports/bench/routing.md.
_DENSE_PER_ASKED = 2.5


def is_uniform(tree: Tree) -> bool:
    """Whether all units of a level are of one size, and all experts on the last level."""
    return all(len(level) == 1 for level in tree.blocks) and not tree.has_shallow_experts


@dataclass(frozen=True, eq=False)
class Look:
    """Sibling groups of one level that each token looks into, in ascending order.

    Attributes:
        tree: the organisation.
        level: whose nodes are compared.
        group_TB: int64, the groups.
        alive_TB: which of them a token does look into; None on uniform trees: into all of them.
    """

    tree: Tree
    level: int
    group_TB: Tensor
    alive_TB: Tensor | None

    @property
    def nodes(self) -> slice:
        """The nodes of the level."""
        return self.tree.level_slices[self.level]

    @cached_property
    def room(self) -> int:
        """b, places a group is given."""
        return max(block.size for block in self.tree.blocks[self.level])

    @property
    def num_places(self) -> int:
        """C."""
        return self.group_TB.shape[1] * self.room

    @property
    def is_whole(self) -> bool:
        """Whether scoring the whole level is cheaper than what is asked of it."""
        num_nodes: int = self.nodes.stop - self.nodes.start
        return num_nodes <= _DENSE_PER_ASKED * self.num_places

    @cached_property
    def node_TC(self) -> Tensor:
        """int64, node of each place; some node of the level where a group has fewer children."""
        place_b = torch.arange(self.room, device=self.group_TB.device)
        if self.level == 0:
            return place_b.expand(len(self.group_TB), -1)
        node_TC = (self._table("start_G")[self.group_TB].unsqueeze(-1) + place_b).flatten(1)
        if self.alive_TB is None:
            return node_TC
        return node_TC.clamp(self.nodes.start, self.nodes.stop - 1)

    @cached_property
    def is_child_TC(self) -> Tensor | None:
        """Which places have a child of their group; None: all."""
        if self.alive_TB is None:
            return None
        place_b = torch.arange(self.room, device=self.group_TB.device)
        return (place_b < self._table("size_G")[self.group_TB].unsqueeze(-1)).flatten(1)

    @cached_property
    def asked_TC(self) -> Tensor | None:
        """Which places have a node that the token looks at; None: all."""
        if self.alive_TB is None or self.is_child_TC is None:
            return None
        return self.is_child_TC & self.alive_TB.repeat_interleave(self.room, 1)

    def node_at(self, place: Tensor) -> Tensor:
        """Nodes of some places of each token. (T, K) -> (T, K)."""
        if self.alive_TB is not None:
            return self.node_TC.gather(1, place)
        group = self.group_TB.gather(1, place // self.room)
        return self._table("start_G")[group] + place % self.room

    def num_asked(self) -> int:
        """Nodes that tokens look at, over all tokens."""
        if self.asked_TC is None:
            return len(self.group_TB) * self.num_places
        return int(self.asked_TC.sum())

    def num_compared(self) -> int:
        """Nodes that tokens are compared with, over all tokens."""
        num_nodes = self.nodes.stop - self.nodes.start
        return len(self.group_TB) * num_nodes if self.is_whole else self.num_asked()

    def _table(self, name: str) -> Tensor:
        return self.tree.index(name, self.group_TB.device)


@dataclass(frozen=True, eq=False)
class LinearScorer:
    """A gate with own weights at every node, asked for a few: (x w + b) / temperature, float32."""

    tree: Tree
    x_TD: Tensor
    weight_ND: Tensor
    bias_N: Tensor
    temperature_L: Sequence[float]

    @property
    def num_tokens(self) -> int:
        return self.x_TD.shape[0]

    @property
    def device(self) -> torch.device:
        return self.x_TD.device

    @torch.no_grad()
    def look(self, look: Look) -> Tensor:
        """Raw scores of all places, (T, C), without gradient.

        A group has minus infinity beyond its children. What a group has that no token looks into is
        finite and means nothing.
        """
        compare = _compare_level if look.is_whole else _compare_asked
        weight_nD, bias_n = self.weight_ND[look.nodes], self.bias_N[look.nodes]
        with torch.autocast(self.x_TD.device.type, enabled=False):
            logits_TC = compare(self.x_TD, weight_nD, bias_n, look)
        if self.temperature_L[look.level] != 1:
            logits_TC = logits_TC / self.temperature_L[look.level]
        if look.is_child_TC is None:
            return logits_TC
        return logits_TC.masked_fill(~look.is_child_TC, float("-inf"))

    def recall(self, looks: Sequence[Look], logits: Sequence[Tensor]) -> Sequence[Tensor]:
        """The scores that `look` gave, differentiable. To be asked once, of all looks together."""
        recalled: Sequence[Tensor] = _Recalled.apply(  # type: ignore[no-untyped-call]
            self.x_TD, self.weight_ND, self.bias_N, self.temperature_L, looks, *logits
        )
        return recalled


@dataclass(frozen=True, eq=False)
class TiedScorer:
    """A gate whose groups on one level are scored alike: raw scores (T, b) of each level."""

    tree: Tree
    logits_by_level: Sequence[Tensor]

    @property
    def num_tokens(self) -> int:
        return self.logits_by_level[0].shape[0]

    @property
    def device(self) -> torch.device:
        return self.logits_by_level[0].device

    def look(self, look: Look) -> Tensor:
        """As of `LinearScorer`."""
        return self.recall([look], [])[0].detach()

    def recall(self, looks: Sequence[Look], logits: Sequence[Tensor]) -> Sequence[Tensor]:
        """As of `LinearScorer`."""
        return [self.logits_by_level[k.level].repeat(1, k.group_TB.shape[1]) for k in looks]


Scorer = LinearScorer | TiedScorer


def _compare_level(x_TD: Tensor, weight_nD: Tensor, bias_n: Tensor, look: Look) -> Tensor:
    """x w + b of every place, out of those of the whole level."""
    logits_Tn = F.linear(x_TD, weight_nD, bias_n)
    if look.level == 0:  # one group, which every token looks into
        return logits_Tn
    return logits_Tn.gather(1, look.node_TC - look.nodes.start)


def _compare_asked(x_TD: Tensor, weight_nD: Tensor, bias_n: Tensor, look: Look) -> Tensor:
    """x w + b of every place that is asked for; 0 elsewhere."""
    node_TC, asked_TC = look.node_TC - look.nodes.start, look.asked_TC
    num_tokens, num_places = node_TC.shape
    if asked_TC is None:
        count_T = torch.full((num_tokens,), num_places, device=x_TD.device)
        node_P = node_TC.flatten()
    else:
        count_T, node_P = asked_TC.sum(1), node_TC[asked_TC]
    asked = _sparse(count_T, node_P, torch.zeros_like(node_P, dtype=x_TD.dtype), len(weight_nD))
    product_P: Tensor = torch.sparse.sampled_addmm(asked, x_TD, weight_nD.T, beta=0.0).values()
    logits_P = product_P.add_(bias_n.index_select(0, node_P))
    if asked_TC is None:
        return logits_P.view(num_tokens, num_places)
    logits_TC: Tensor = x_TD.new_zeros(num_tokens, num_places)
    return logits_TC.masked_scatter(asked_TC, logits_P)


class _Recalled(torch.autograd.Function):
    """Scores that are known already, as a function of tokens, weights and biases.

    For all levels together, so that the gradient of the weights is one buffer whose every entry is
    written once. Autograd would fill one a level, and add them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weight_ND: Tensor,
        bias_N: Tensor,
        temperature_L: Sequence[float],
        looks: Sequence[Look],
        *logits: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x_TD, weight_ND, bias_N)
        ctx.temperature_L, ctx.looks = temperature_L, looks
        return tuple(logits_TC.detach() for logits_TC in logits)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_ND, bias_N = ctx.saved_tensors
        grad_x_TD, grad_weight_ND = torch.zeros_like(x_TD), torch.empty_like(weight_ND)
        grad_bias_N = torch.zeros_like(bias_N)
        with torch.autocast(x_TD.device.type, enabled=False):
            for look, grad_TC in zip(ctx.looks, grads, strict=True):
                return_level = _return_level if look.is_whole else _return_asked
                if ctx.temperature_L[look.level] != 1:
                    grad_TC = grad_TC / ctx.temperature_L[look.level]
                # Views, to be written into.
                into = grad_x_TD, grad_weight_ND[look.nodes], grad_bias_N[look.nodes]
                return_level(grad_TC, look, x_TD, weight_ND[look.nodes], into)
        unasked = (None,) * (2 + len(grads))
        return grad_x_TD, grad_weight_ND, grad_bias_N, *unasked


def _return_level(
    grad_TC: Tensor, look: Look, x_TD: Tensor, weight_nD: Tensor, into: tuple[Tensor, ...]
) -> None:
    """Gradients of `_compare_level`: added to that of x, written over those of the level."""
    grad_x_TD, grad_weight_nD, grad_bias_n = into
    grad_Tn = grad_TC
    if look.level > 0:
        grad_Tn = x_TD.new_zeros(len(x_TD), len(weight_nD))
        grad_Tn.scatter_add_(1, look.node_TC - look.nodes.start, grad_TC)
    grad_x_TD.addmm_(grad_Tn, weight_nD)
    torch.mm(grad_Tn.T, x_TD, out=grad_weight_nD)
    torch.sum(grad_Tn, 0, out=grad_bias_n)


def _return_asked(
    grad_TC: Tensor, look: Look, x_TD: Tensor, weight_nD: Tensor, into: tuple[Tensor, ...]
) -> None:
    """Gradients of `_compare_asked`: added to that of x, written over those of the level."""
    grad_x_TD, grad_weight_nD, grad_bias_n = into
    # Groups that were looked into, but not chosen, have no gradient.
    some_TC = grad_TC != 0
    grad_P, node_P = grad_TC[some_TC], look.node_TC[some_TC] - look.nodes.start
    count_T = some_TC.sum(1)
    grad_x_TD += F.embedding_bag(
        node_P, weight_nD, count_T.cumsum(0) - count_T, mode="sum", per_sample_weights=grad_P
    )
    grad_bias_n.index_add_(0, node_P, grad_P)
    token_T = torch.arange(len(x_TD), device=x_TD.device)
    token_P = token_T.repeat_interleave(count_T, output_size=len(node_P))
    node_P, order_P = node_P.int().sort(stable=True)
    by_node = _sparse(
        torch.bincount(node_P, minlength=len(weight_nD)),
        token_P.index_select(0, order_P),
        grad_P.index_select(0, order_P),
        len(x_TD),
    )
    torch.addmm(grad_weight_nD, by_node, x_TD, beta=0, out=grad_weight_nD)


def _sparse(count_R: Tensor, column_P: Tensor, value_P: Tensor, num_columns: int) -> Tensor:
    """A sparse matrix in compressed rows: entries in each row, and their columns, ascending."""
    _accept_sparse()
    ends_R = F.pad(count_R.cumsum(0), (1, 0)).int()
    shape = (len(count_R), num_columns)
    # Checked by tests; the check itself takes as long as a product.
    return torch.sparse_csr_tensor(ends_R, column_P.int(), value_P, shape, check_invariants=False)


@lru_cache
def _accept_sparse() -> None:
    """Take note of torch's word, given once a process, that such matrices are in beta state."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        torch.sparse_csr_tensor([0], [], [], (0, 0), check_invariants=False)
