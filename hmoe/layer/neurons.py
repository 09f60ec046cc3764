"""Neurons: a bank of experts of one neuron each, gathered row by row rather than grouped.

A grouped product pays for every expert; with a million experts and a handful of rows each, looking
up two vectors a row is the cheaper way. An expert is a line of two tables.

Letters: R rows, D width, E experts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmoe.errors import ConfigError


class Neurons(nn.Module):
    """E networks y = gelu(x . u) v, without biases: `Mlp` with a hidden width of 1.

    He (2024), the experts of PEER; with product keys as the gate (`Tied`) this is PEER with one
    head. We differ in the weight of an expert, which is a probability of the whole path.

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
        self.u_ED = nn.Parameter(torch.randn(num_experts, dim) * dim**-0.5)
        self.v_ED = nn.Parameter(torch.randn(num_experts, dim))

    def forward(self, x_RD: Tensor, load_E: Tensor) -> Tensor:
        """Rows in expert order (R, D) and the rows of each expert (E,) -> (R, D)."""
        expert_E = torch.arange(len(load_E), device=load_E.device)
        expert_R = expert_E.repeat_interleave(load_E, output_size=len(x_RD))
        device = x_RD.device.type
        if torch.is_autocast_enabled(device):
            # Products by element are not on autocast's list; do as it would for a linear layer.
            x_RD = x_RD.to(torch.get_autocast_dtype(device))
        u_RD = self.u_ED.index_select(0, expert_R).to(x_RD.dtype)
        v_RD = self.v_ED.index_select(0, expert_R).to(x_RD.dtype)
        return F.gelu((x_RD * u_RD).sum(-1, keepdim=True)) * v_RD
