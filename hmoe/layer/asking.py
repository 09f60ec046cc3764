"""Asking: a gate that is asked for the scores of a few nodes, those of a look.

Which tokens ask for which nodes is a sparse matrix. Forward takes the entries of x W^T that are
asked for, a line a token and group, in the order of the groups, so that W is read once from front
to back and never copied. Backward multiplies the sparse gradient by W and by x. Where a level is
small beside what is asked of it, one dense product of the level is cheaper.

Letters: T tokens, D width, N nodes, n nodes of a level, B groups in the running, b room for the
children of a group, C = B b places of a token, R pairs of a token and a group, S = T B slots of
such pairs, P entries of a sparse matrix.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hmoe.layer.looks import Look
from hmoe.layer.tree import Tree


@dataclass(frozen=True, eq=False)
class LinearScorer:
    """A gate with own weights at every node, asked for a few: (x w + b) / temperature, float32."""

    tree: Tree
    x_TD: Tensor
    weight_ND: Tensor
    bias_N: Tensor
    temperature_L: Sequence[float]

    @torch.no_grad()
    def look(self, look: Look) -> Tensor:
        """Raw scores of all places, (T, C), without gradient.

        A group has minus infinity beyond its children. What a group has that no token looks into is
        finite and means nothing.
        """
        compare = compare_level if look.is_whole else compare_asked
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
    """A gate whose groups on one level are scored alike.

    Attributes:
        tree: the organisation.
        x_TD: the tokens.
        score_L: from tokens to raw scores (T, b), of each level. Asked level by level, so that
            those of one are gone before those of the next are there.
    """

    tree: Tree
    x_TD: Tensor
    score_L: Sequence[Callable[[Tensor], Tensor]]

    def look(self, look: Look) -> Tensor:
        """As of `LinearScorer`."""
        return self.recall([look], [])[0].detach()

    def recall(self, looks: Sequence[Look], logits: Sequence[Tensor]) -> Sequence[Tensor]:
        """As of `LinearScorer`."""
        return [self.score_L[k.level](self.x_TD).repeat(1, k.group_TB.shape[1]) for k in looks]


Scorer = LinearScorer | TiedScorer


def compare_level(x_TD: Tensor, weight_nD: Tensor, bias_n: Tensor, look: Look) -> Tensor:
    """x w + b of every place, out of those of the whole level."""
    logits_Tn = F.linear(x_TD, weight_nD, bias_n)
    if look.level == 0:  # one group, which every token looks into
        return logits_Tn
    return logits_Tn.gather(1, look.node_TC - look.nodes.start)


def compare_asked(x_TD: Tensor, weight_nD: Tensor, bias_n: Tensor, look: Look) -> Tensor:
    """x w + b of every place that is asked for; 0 elsewhere."""
    num_tokens, num_slots = look.group_TB.shape
    group_R, slot_R = look.pairs
    place_b = torch.arange(look.room, device=x_TD.device)
    node_Rb = look.starts(group_R).unsqueeze(-1) - look.nodes.start + place_b
    asked_Rb = None if look.alive_TB is None else place_b < look.sizes(group_R).unsqueeze(-1)
    node_P = node_Rb.flatten() if asked_Rb is None else node_Rb[asked_Rb]
    count_R = torch.full_like(group_R, look.room) if asked_Rb is None else asked_Rb.sum(1)
    asked = _sparse(count_R, node_P, torch.zeros_like(node_P, dtype=x_TD.dtype), len(weight_nD))
    x_RD = x_TD.index_select(0, slot_R // num_slots)
    product_P: Tensor = torch.sparse.sampled_addmm(asked, x_RD, weight_nD.T, beta=0.0).values()
    logits_P = product_P.add_(bias_n.index_select(0, node_P))
    if asked_Rb is None:
        logits_Rb = logits_P.view(-1, look.room)
    else:
        logits_Rb = x_TD.new_zeros(asked_Rb.shape).masked_scatter(asked_Rb, logits_P)
    logits_Sb = x_TD.new_zeros(num_tokens * num_slots, look.room)
    return logits_Sb.index_copy_(0, slot_R, logits_Rb).view(num_tokens, look.num_places)


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
    """Gradients of `compare_level`: added to that of x, written over those of the level."""
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
    """Gradients of `compare_asked`: added to that of x, written over those of the level."""
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
