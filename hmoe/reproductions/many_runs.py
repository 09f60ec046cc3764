"""The networks of Ma et al. (2018), of many runs at once: weights of all runs stacked, one product.

A network of 13,000 weights is too small for a processor to be busy with it; sixty of them side by
side are not. Runs share nothing: the loss is a sum over runs, and Adam works weight by weight, so
every run learns what it would learn alone.

Letters: N runs, B rows, D features, E experts, F units of an expert, G gates, K tasks, U units of a
tower, H = E F units of all experts, J columns of a product.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """One of the paper's systems.

    Attributes:
        num_experts, expert_dim: E and F; an expert is a linear layer and a ReLU.
        num_gates: G; 0 where a single expert is the shared bottom, 1 where all tasks share a gate
            (OMoE), K where each task has its own (MMoE).
    """

    num_experts: int
    expert_dim: int
    num_gates: int


class ManyRuns(nn.Module):
    """N networks of one shape: experts, gates, and for each of K tasks a tower with a hidden layer.

    Weights and biases start uniformly within 1 / sqrt(fan in), as torch's linear layers do. Gates
    have no bias, as published.

    Args:
        shape: of a network.
        in_dim: D.
        num_tasks: K.
        tower_dim: U.
        seeds: of the N networks' weights. The first weights of a run's experts and towers do not
            depend on how many gates there are.
    """

    def __init__(
        self, shape: Shape, *, in_dim: int, num_tasks: int, tower_dim: int, seeds: list[int]
    ) -> None:
        super().__init__()
        self.shape = shape
        units, width = shape.num_experts * shape.expert_dim, shape.expert_dim
        sizes = {  # name -> (shape of a run's, fan in)
            "w_in_NDH": ((in_dim, units), in_dim),
            "b_in_N1H": ((1, units), in_dim),
            "w_hidden_NKFU": ((num_tasks, width, tower_dim), width),
            "b_hidden_NKU": ((num_tasks, tower_dim), width),
            "w_out_NKU": ((num_tasks, tower_dim), tower_dim),
            "b_out_NK": ((num_tasks,), tower_dim),
        }
        if shape.num_gates:
            sizes["w_gate_NDJ"] = ((in_dim, shape.num_gates * shape.num_experts), in_dim)
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        for name, (size, fan_in) in sizes.items():
            drawn = torch.stack([torch.rand(size, generator=draw) for draw in draws])
            self.register_parameter(name, nn.Parameter((2 * drawn - 1) / fan_in**0.5))

    def forward(self, x_NBD: Tensor) -> Tensor:
        """Inputs (N, B, D) -> answers (N, B, K)."""
        h_NBH = torch.baddbmm(self.b_in_N1H, x_NBD, self.w_in_NDH).relu()
        mixed = self._mixed(x_NBD, h_NBH) if self.shape.num_gates else [h_NBH]
        if len(mixed) == 1:  # all tasks look at the same
            return self._towers(mixed[0], slice(None))
        return torch.cat([self._towers(m, slice(k, k + 1)) for k, m in enumerate(mixed)], -1)

    def _mixed(self, x_NBD: Tensor, h_NBH: Tensor) -> list[Tensor]:
        """What every gate makes of the experts' answers, (N, B, F) each."""
        h_NBEF = h_NBH.unflatten(-1, (self.shape.num_experts, -1))
        gates = (x_NBD @ self.w_gate_NDJ).unflatten(-1, (self.shape.num_gates, -1)).softmax(-1)
        return [(gate_NBE.unsqueeze(-1) * h_NBEF).sum(2) for gate_NBE in gates.unbind(2)]

    def _towers(self, h_NBF: Tensor, tasks: slice) -> Tensor:
        """The answers to those tasks that look at h, (N, B, their number)."""
        # One product for all of them: towers alone are too narrow to be multiplied fast.
        w_NFJ = self.w_hidden_NKFU[:, tasks].transpose(1, 2).flatten(2)
        b_N1J = self.b_hidden_NKU[:, tasks].flatten(1).unsqueeze(1)
        tower_NBJ = torch.baddbmm(b_N1J, h_NBF, w_NFJ).relu()
        tower_NBKU = tower_NBJ.unflatten(-1, (-1, self.w_out_NKU.shape[-1]))
        w_N1KU, b_N1K = self.w_out_NKU[:, None, tasks], self.b_out_NK[:, None, tasks]
        return (tower_NBKU * w_N1KU).sum(-1) + b_N1K
