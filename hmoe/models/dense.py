"""Dense: the control. A feed-forward of one expert that works on every token, with no gate."""

from collections.abc import Callable

from torch import Tensor, nn


class Dense(nn.Module):
    """The same bank as in a mixture with a single expert, so that only the routing is missing.

    Args:
        experts: called as experts(num_experts=1, dim=).
        dim: width D of a token.
    """

    def __init__(self, *, experts: Callable[..., nn.Module], dim: int) -> None:
        super().__init__()
        self.experts = experts(num_experts=1, dim=dim)

    def forward(self, x: Tensor, key: Tensor | None = None) -> tuple[Tensor, None]:
        """(..., D) -> (..., D) and no routing; there is no gate to look at the tokens' ids."""
        x_TD = x.reshape(-1, x.shape[-1])
        load_E = x.new_full((1,), x_TD.shape[0], dtype=int)
        return self.experts(x_TD, load_E).reshape(x.shape), None
