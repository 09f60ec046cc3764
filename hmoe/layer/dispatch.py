"""Dispatch: bring rows into expert order, and sum the experts' answers back into tokens.

Both sums over the rows of a token, of answers on the way out and of gradients on the way back, are
one gather: rows are numbered by token, so that a token's are a run, and nothing is scattered. Their
derivatives are written by hand, for autograd would keep the weighted answers and fill zeros to add
to. Plainly said they are `x_TD[token_R]` and `zeros.index_add(0, token_R, weight_R * y_RD)`.

Letters: T tokens, R rows, D width, H heads.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hmoe.layer.routing import Routing


class Order(NamedTuple):
    """Where rows lie when those of one expert lie together.

    Attributes:
        row_R: which row of the routing lies at each place.
        place_R: at which place each row of the routing lies.
        token_R: the token of each place.
        start_T: the first row of each token.
    """

    row_R: Tensor
    place_R: Tensor
    token_R: Tensor
    start_T: Tensor


def expert_order(routing: Routing) -> Order:
    """Sort the rows by expert, once. The routing's rows must ascend by token.

    Not checked here, which would wait for the device: tests check it for every selection.
    """
    # Stable, so that the rows of one expert stay in token order and sums have one fixed order.
    row_R = routing.expert_R.argsort(stable=True)
    number_R = torch.arange(len(row_R), device=row_R.device)
    place_R = torch.empty_like(row_R).scatter_(0, row_R, number_R)
    token_R = routing.token_R.index_select(0, row_R)
    token_T = torch.arange(routing.num_tokens, device=row_R.device)
    return Order(row_R, place_R, token_R, torch.searchsorted(routing.token_R.contiguous(), token_T))


def permute(x_TD: Tensor, order: Order) -> Tensor:
    """Copy every token to its rows, in expert order. (T, D) -> (R, D).

    Under H heads the routing counts H T tokens, head by head, which are the same T.
    """
    return _Copied.apply(x_TD, order)  # type: ignore[no-untyped-call, no-any-return]


def combine(y_RD: Tensor, weight_R: Tensor, order: Order) -> Tensor:
    """Weighted sum of the rows of each token; zero for a token without rows. (R, D) -> (T, D).

    Args:
        weight_R: weights of the routing's rows, in the order of the routing.
    """
    return _Summed.apply(y_RD, weight_R.to(y_RD.dtype), order)  # type: ignore[no-untyped-call, no-any-return]


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, order: Order) -> Tensor:
        ctx.order, ctx.num_tokens = order, x_TD.shape[0]
        token_R = order.token_R
        if len(order.start_T) != x_TD.shape[0]:
            token_R = token_R % x_TD.shape[0]
        return x_TD.index_select(0, token_R)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor, None]:
        grad_TD = _sum_rows(grad_RD, None, ctx.order)
        if len(grad_TD) != ctx.num_tokens:
            grad_TD = grad_TD.unflatten(0, (-1, ctx.num_tokens)).sum(0)
        return grad_TD, None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_RD: Tensor, weight_R: Tensor, order: Order) -> Tensor:
        ctx.order = order
        # The answers themselves are asked for by the gradient of the weights alone.
        ctx.save_for_backward(y_RD if weight_R.requires_grad else None, weight_R)
        return _sum_rows(y_RD, weight_R, order)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, Tensor | None, None]:
        y_RD, weight_R = ctx.saved_tensors
        order: Order = ctx.order
        grad_RD = grad_TD.index_select(0, order.token_R)
        grad_weight_R = None
        if y_RD is not None:
            grad_weight_R = (grad_RD * y_RD).sum(-1).index_select(0, order.place_R)
        return grad_RD.mul_(weight_R.index_select(0, order.row_R)[:, None]), grad_weight_R, None


def _sum_rows(value_RD: Tensor, weight_R: Tensor | None, order: Order) -> Tensor:
    """Sum over the rows of each token of values in expert order: (R, D) -> (T, D)."""
    return F.embedding_bag(
        order.place_R, value_RD, order.start_T, mode="sum", per_sample_weights=weight_R
    )
