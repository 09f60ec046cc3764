"""ResidualMlp: vectors in, classes or values out; every block is a mixture or its control."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from hmoe.layer import Routing, own_stream


class ResidualMlp(nn.Module):
    """Linear, then blocks x + ffn(norm(x)), then norm and a linear head.

    Args:
        in_dim: features of an input vector.
        out_dim: classes, or values to predict.
        dim: width D inside.
        depth: number of blocks.
        ffn: called as ffn(dim=); a module x -> (y, Routing or None).
    """

    input_kind: Literal["vectors"] = "vectors"

    def __init__(
        self, *, in_dim: int, out_dim: int, dim: int, depth: int, ffn: Callable[..., nn.Module]
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(in_dim, dim)
        self.norms = nn.ModuleList(nn.RMSNorm(dim) for _ in range(depth))
        self.ffns = nn.ModuleList()
        for _ in range(depth):
            with own_stream():  # the rest starts the same, whatever these are
                self.ffns.append(ffn(dim=dim))
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, out_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Routing]]:
        """(B, in_dim) -> (B, out_dim) and the routing of every mixture, in order."""
        x = self.embed(x)
        routings = []
        for norm, ffn in zip(self.norms, self.ffns, strict=True):
            y, routing = ffn(norm(x))
            x = x + y
            routings.append(routing)
        return self.head(self.norm(x)), [r for r in routings if r is not None]
