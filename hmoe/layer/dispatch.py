"""Dispatch: bring rows into expert order, and sum the experts' answers back into tokens.

Letters: T tokens, R rows, D width.
"""

from torch import Tensor

from hmoe.layer.routing import Routing


def permute(x_TD: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    """Copy every token to its rows, in expert order. Returns x_RD and the order of the rows.

    Under H heads the routing counts H T tokens, head by head.
    """
    # Stable, so that the rows of one expert stay in token order and sums have one fixed order.
    order_R = routing.expert_R.argsort(stable=True)
    token_R = routing.token_R.index_select(0, order_R)
    if routing.num_tokens != x_TD.shape[0]:
        token_R = token_R % x_TD.shape[0]
    return x_TD.index_select(0, token_R), order_R


def combine(y_RD: Tensor, order_R: Tensor, routing: Routing) -> Tensor:
    """Weighted sum of the rows of each token; zero for a token without rows. (R, D) -> (T, D)."""
    weight_R = routing.weight_R.index_select(0, order_R).to(y_RD.dtype)
    token_R = routing.token_R.index_select(0, order_R)
    y_TD = y_RD.new_zeros(routing.num_tokens, y_RD.shape[-1])
    return y_TD.index_add(0, token_R, y_RD * weight_R.unsqueeze(-1))
