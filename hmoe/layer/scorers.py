"""Scorers: how a token is compared with a node. A gate is made of them, one for a run of levels.

A scorer turns tokens (T, D) into raw scores (T, M) of M nodes (experts, or children, as the gate
has it). All of them compute in float32 whatever the autocast: near ties decide who works.

Letters: T tokens, D width, W width of the query, M nodes that are scored.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmoe.errors import ConfigError, check_names

Score = Literal["linear", "cosine", "laplace", "gaussian", "mlp", "random", "hash"]


class Linear(nn.Module):
    """q w + b, with the query q = x, or q = x P for a query of its own width.

    Args:
        prior_M: where the biases start, or zero everywhere.
        dim: width D of a token.
        width: width W of a query; None compares the token itself.
        init_std: standard deviation of the initial weights; a query keeps the token's scale.
    """

    def __init__(self, *, prior_M: Tensor, dim: int, width: int | None, init_std: float) -> None:
        super().__init__()
        self.query_DW = None
        if width is not None:
            self.query_DW = nn.Parameter(torch.randn(dim, width) * dim**-0.5)
        self.weight_MD = nn.Parameter(torch.randn(len(prior_M), width or dim) * init_std)
        self.bias_M = nn.Parameter(prior_M.clone())

    def forward(self, x_TD: Tensor, key_T: Tensor | None) -> Tensor:
        """(T, D) of any dtype -> raw scores (T, M), float32. `key_T` is for `Hash` alone."""
        with torch.autocast(x_TD.device.type, enabled=False):
            return self.compare(self.query(x_TD.float())).add_(self.bias_M.float())

    def query(self, x_TD: Tensor) -> Tensor:
        """What is compared with the nodes: (T, D) -> (T, W)."""
        return x_TD if self.query_DW is None else x_TD @ self.query_DW.float()

    def compare(self, query_TW: Tensor) -> Tensor:
        """(T, W) -> (T, M)."""
        return F.linear(query_TW, self.weight_MD.float())


class Cosine(Linear):
    """cos(q, w) + b (X-MoE: Chi et al. 2022). Their learnt temperature is an option here."""

    def compare(self, query_TW: Tensor) -> Tensor:
        return F.linear(F.normalize(query_TW, dim=-1), F.normalize(self.weight_MD.float(), dim=-1))


class Gaussian(Linear):
    """-||q - w||^2 / 2 + b: log-density of a unit Gaussian around each node, up to a constant."""

    def compare(self, query_TW: Tensor) -> Tensor:
        weight_MW = self.weight_MD.float()
        square_T1, square_M = query_TW.square().sum(-1, keepdim=True), weight_MW.square().sum(-1)
        return query_TW @ weight_MW.T - (square_T1 + square_M) / 2


class Laplace(Gaussian):
    """-||q - w|| + b (Nguyen et al. 2024, the Laplace gate).

    The distance is the root of |q|^2 - 2 q w + |w|^2, one product for all nodes. In float32 it is
    right to about |q| / 500, so of nodes that are nearer than this, which is nearest is chance.
    """

    def compare(self, query_TW: Tensor) -> Tensor:
        # The bound keeps the gradient of the root finite where a token sits on its node.
        return -(-2 * super().compare(query_TW)).clamp(min=1e-12).sqrt()


class Mlp(Linear):
    """gelu(x P) w + b: one hidden layer."""

    def query(self, x_TD: Tensor) -> Tensor:
        return F.gelu(super().query(x_TD))


class Random(nn.Module):
    """x w with weights that are drawn once and never learn: the control for a gate that learns."""

    weight_MD: Tensor
    bias_M: Tensor

    def __init__(self, *, prior_M: Tensor, dim: int, width: int | None, init_std: float) -> None:
        super().__init__()
        self.register_buffer("weight_MD", torch.randn(len(prior_M), dim) * init_std)
        self.register_buffer("bias_M", prior_M.clone())

    def forward(self, x_TD: Tensor, key_T: Tensor | None) -> Tensor:
        """(T, D) -> raw scores (T, M), float32, without gradient for the gate."""
        with torch.autocast(x_TD.device.type, enabled=False):
            return F.linear(x_TD.float(), self.weight_MD.float(), self.bias_M.float())


class Hash(nn.Module):
    """A fixed pseudo-random score of (key, node): hash layers (Roller et al. 2021, section 3.1).

    The key is the token's id where the model reads ids; for vectors it is the signs of 16 fixed
    random projections (a locality-sensitive hash). Scores are Gumbel distributed around the prior,
    so that the best of M equal nodes is each of them equally often, over all keys.
    """

    bits = 16
    plane_BD: Tensor
    salt_M: Tensor
    bias_M: Tensor

    def __init__(self, *, prior_M: Tensor, dim: int, width: int | None, init_std: float) -> None:
        super().__init__()
        self.register_buffer("plane_BD", torch.randn(self.bits, dim))
        self.register_buffer("salt_M", torch.randint(2**62, (len(prior_M),)))
        self.register_buffer("bias_M", prior_M.clone())

    def forward(self, x_TD: Tensor, key_T: Tensor | None) -> Tensor:
        """(T, D) and ids (T,) or None -> raw scores (T, M), float32, without gradient."""
        if key_T is None:
            sign_TB = F.linear(x_TD.detach().float(), self.plane_BD.float()) > 0
            key_T = (sign_TB * 2 ** torch.arange(self.bits, device=x_TD.device)).sum(-1)
        mixed_TM = _mix(_mix(key_T).unsqueeze(-1) ^ self.salt_M)
        # 23 bits and a half are what float32 holds exactly: of 24 the largest would round to 1.
        uniform_TM = ((mixed_TM & (2**23 - 1)).float() + 0.5) / 2**23
        gumbel_TM: Tensor = -(-uniform_TM.log()).log() + self.bias_M.float()
        return gumbel_TM


def _mix(value: Tensor) -> Tensor:
    """A bijection of int64 that scatters neighbours (the finaliser of splitmix64, signed)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        # A shift of a negative number brings in ones; masking makes it the unsigned shift.
        value = (value ^ ((value >> shift) & (2 ** (64 - shift) - 1))) * factor
    return value ^ ((value >> 31) & (2**33 - 1))


SCORERS = {
    "linear": Linear,
    "cosine": Cosine,
    "laplace": Laplace,
    "gaussian": Gaussian,
    "mlp": Mlp,
    "random": Random,
    "hash": Hash,
}


def check_scorers(scores: list[Score], width: int | None) -> None:
    """Refuse unknown scores, and a query width that a score needs or has no use for."""
    check_names("gate.score", scores, SCORERS)
    if width is not None and width < 1:
        raise ConfigError(f"gate.width = {width}: a width is at least 1; null compares the token.")
    if width is None and "mlp" in scores:
        raise ConfigError("gate.width = null: gate.score = mlp needs a hidden width, such as 64.")
    if width is not None and {"random", "hash"} >= set(scores):
        raise ConfigError(
            f"gate.width = {width}: gate.score = {' and '.join(scores)} makes no query. Use null."
        )
