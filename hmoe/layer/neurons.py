"""Neurons: a bank of experts of one neuron each, gathered row by row rather than grouped.

A grouped product pays for every expert; with a million experts and a handful of rows each, looking
up two vectors a row is the cheaper way. An expert is a line of two tables.

Letters: R rows, D width, F hidden width, here 1, E experts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmoe.errors import ConfigError


class Neurons(nn.Module):
    """E networks y = gelu(x . u) v, without biases: `Mlp` with one hidden unit, and its weights.

    He (2024), the experts of PEER; with product keys as the gate (`Tied`) this is PEER with one
    head.

    Args:
        num_experts: E.
        dim: width D of a token.

    Raises:
        ConfigError: a width below 1.
    """

    def __init__(self, *, num_experts: int, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ConfigError(f"dim = {dim}: a width is at least 1.")
        # Named and shaped as those of `Mlp`, with F = 1.
        self.w_in_EDF = nn.Parameter(torch.randn(num_experts, dim, 1) * dim**-0.5)
        self.w_out_EFD = nn.Parameter(torch.randn(num_experts, 1, dim))

    def forward(self, x_RD: Tensor, load_E: Tensor) -> Tensor:
        """Rows in expert order (R, D) and the rows of each expert (E,) -> (R, D)."""
        expert_E = torch.arange(len(load_E), device=load_E.device)
        expert_R = expert_E.repeat_interleave(load_E, output_size=len(x_RD))
        device = x_RD.device.type
        if torch.is_autocast_enabled(device):
            # Products by element are not on autocast's list; do as it would for a linear layer.
            x_RD = x_RD.to(torch.get_autocast_dtype(device))
        in_RD = self.w_in_EDF.squeeze(2).index_select(0, expert_R).to(x_RD.dtype)
        out_RD = self.w_out_EFD.squeeze(1).index_select(0, expert_R).to(x_RD.dtype)
        return F.gelu((x_RD * in_RD).sum(-1, keepdim=True)) * out_RD
