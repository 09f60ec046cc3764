"""What a layer is held against: a dense network, grouped products alone, and the plain mixture.

All three leave the backward pass to autograd. The networks are those of `hmoe.layer`: without
biases, GELU between two matrices or SwiGLU of three.

Letters: T tokens, D width, F hidden width, R rows, E experts, K experts per token.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kind = Literal["gelu", "swiglu"]
Product = Callable[[Tensor, Tensor], Tensor]


def _network(kind: Kind, product: Product, x_RD: Tensor, weights: nn.ParameterList) -> Tensor:
    if kind == "gelu":
        return product(F.gelu(product(x_RD, weights[0])), weights[1])
    return product(F.silu(product(x_RD, weights[0])) * product(x_RD, weights[1]), weights[2])


def _weights(kind: Kind, dim: int, hidden_dim: int, *stacked: int) -> nn.ParameterList:
    """Way in (twice for SwiGLU) and way out, of one network or of E stacked ones."""
    ways_in = [(dim, hidden_dim)] * (1 if kind == "gelu" else 2)
    shapes = [*ways_in, (hidden_dim, dim)]
    return nn.ParameterList(torch.randn(*stacked, i, o) * i**-0.5 for i, o in shapes)


class Dense(nn.Module):
    """One network for all rows: (R, D) -> (R, D). With R = T K its FLOPs are a mixture's."""

    def __init__(self, *, kind: Kind, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.kind = kind
        self.weights = _weights(kind, dim, hidden_dim)

    def forward(self, x_RD: Tensor) -> Tensor:
        return _network(self.kind, torch.matmul, x_RD, self.weights)


class Floor(nn.Module):
    """Grouped products alone, on rows that are already in expert order: (R, D) -> (R, D)."""

    def __init__(self, *, kind: Kind, dim: int, hidden_dim: int, load_E: Tensor) -> None:
        super().__init__()
        self.kind = kind
        self.weights = _weights(kind, dim, hidden_dim, len(load_E))
        self.ends_E: Tensor
        self.register_buffer("ends_E", load_E.cumsum(0).to(torch.int32))

    def forward(self, x_RD: Tensor) -> Tensor:
        return _grouped(self.kind, x_RD, self.ends_E, self.weights)


class Plain(nn.Module):
    """The mixture as one would write it: softmax, top k, sort, grouped products, index_add."""

    def __init__(self, *, kind: Kind, dim: int, hidden_dim: int, num_experts: int, k: int) -> None:
        super().__init__()
        self.kind, self.num_experts, self.k = kind, num_experts, k
        self.router = nn.Linear(dim, num_experts, bias=False)
        nn.init.normal_(self.router.weight, std=0.02)
        self.weights = _weights(kind, dim, hidden_dim, num_experts)

    def forward(self, x_TD: Tensor) -> Tensor:
        weight_TK, expert_TK = self.router(x_TD).softmax(-1).topk(self.k, -1)
        if self.k > 1:
            weight_TK = weight_TK / weight_TK.sum(-1, keepdim=True)
        expert_R = expert_TK.flatten()
        order_R = expert_R.argsort(stable=True)
        token_R = order_R // self.k
        ends_E = expert_R.bincount(minlength=self.num_experts).cumsum(0).to(torch.int32)
        y_RD = _grouped(self.kind, x_TD.index_select(0, token_R), ends_E, self.weights)
        y_RD = y_RD * weight_TK.flatten().index_select(0, order_R).unsqueeze(-1)
        return torch.zeros_like(x_TD).index_add(0, token_R, y_RD)


def _grouped(kind: Kind, x_RD: Tensor, ends_E: Tensor, weights: nn.ParameterList) -> Tensor:
    return _network(kind, lambda x, w: F.grouped_mm(x, w, offs=ends_E), x_RD, weights)
