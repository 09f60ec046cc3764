"""Experts: banks of E small networks with stacked weights.

Rows come in expert order, `load_E` of them for each expert. There are two implementations of the
same bank: `grouped` multiplies all experts' rows in one grouped product, `loop` takes one expert
after the other. The loop is the slow twin: plain enough to be believed, kept to be compared with.

Letters: R rows, D width, F hidden width, E experts.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmoe.errors import ConfigError, check_names
from hmoe.layer.grouped import ACTIVATIONS, GroupedMlp, GroupedSwiGlu
from hmoe.layer.streams import normal_units

Implementation = Literal["grouped", "loop"]
Activation = Literal["gelu", "relu", "silu"]
Dtype = Literal["bfloat16"]
_DTYPES = {"bfloat16": torch.bfloat16}


class Mlp(nn.Module):
    """E networks y = activation(x W_in) W_out, without biases.

    Args:
        num_experts: E.
        dim: width D of a token.
        hidden_dim: hidden width F of one expert.
        activation: "gelu", "relu" or "silu".
        dtype: of the products, "bfloat16", whatever the weights are kept in; None: that of the
            rows, or what autocast says.
        implementation: "grouped" or its slow twin "loop".

    Raises:
        ConfigError: a width below 1, or one that the grouped product cannot take.
    """

    def __init__(
        self,
        *,
        num_experts: int,
        dim: int,
        hidden_dim: int,
        activation: Activation,
        dtype: Dtype | None,
        implementation: Implementation,
    ) -> None:
        super().__init__()
        _check_widths(dim, hidden_dim, implementation)
        self.dtype = _dtype(dtype)
        check_names("experts.activation", [activation], tuple(ACTIVATIONS))
        self.activation = activation
        self.implementation = implementation
        self.w_in_EDF = _first_in(num_experts, dim, hidden_dim)
        self.w_out_EFD = _first_out(num_experts, dim, hidden_dim)

    def forward(self, x_RD: Tensor, load_E: Tensor) -> Tensor:
        """Rows in expert order (R, D) and the rows of each expert (E,) -> (R, D)."""
        x_RD, *weights = _cast(self.dtype, x_RD, self.w_in_EDF, self.w_out_EFD)
        if _is_grouped(self.implementation, x_RD):
            ends_E = load_E.cumsum(0).to(torch.int32)
            return GroupedMlp.apply(x_RD, ends_E, self.activation, *weights)  # type: ignore[no-untyped-call, no-any-return]
        value = ACTIVATIONS[self.activation].value
        return _loop(lambda x, w_in, w_out: value(x @ w_in) @ w_out, x_RD, load_E, *weights)


class SwiGlu(nn.Module):
    """E networks y = (silu(x W_gate) * (x W_up)) W_out, without biases (Shazeer 2020, eq. 6).

    Arguments and errors are those of `Mlp`, but for the activation; a SwiGLU of the same cost has
    2/3 of its hidden width.
    """

    def __init__(
        self,
        *,
        num_experts: int,
        dim: int,
        hidden_dim: int,
        dtype: Dtype | None,
        implementation: Implementation,
    ) -> None:
        super().__init__()
        _check_widths(dim, hidden_dim, implementation)
        self.dtype = _dtype(dtype)
        self.implementation = implementation
        self.w_gate_EDF = _first_in(num_experts, dim, hidden_dim)
        self.w_up_EDF = _first_in(num_experts, dim, hidden_dim)
        self.w_out_EFD = _first_out(num_experts, dim, hidden_dim)

    def forward(self, x_RD: Tensor, load_E: Tensor) -> Tensor:
        """Rows in expert order (R, D) and the rows of each expert (E,) -> (R, D)."""
        x_RD, *weights = _cast(self.dtype, x_RD, self.w_gate_EDF, self.w_up_EDF, self.w_out_EFD)
        if _is_grouped(self.implementation, x_RD):
            ends_E = load_E.cumsum(0).to(torch.int32)
            return GroupedSwiGlu.apply(x_RD, ends_E, *weights)  # type: ignore[no-untyped-call, no-any-return]
        return _loop(
            lambda x, w_gate, w_up, w_out: (F.silu(x @ w_gate) * (x @ w_up)) @ w_out,
            *(x_RD, load_E, *weights),
        )


def _is_grouped(implementation: Implementation, x_RD: Tensor) -> bool:
    """Whether to multiply in groups; grouped products know no float64."""
    return implementation == "grouped" and x_RD.dtype != torch.float64


def _cast(dtype: torch.dtype | None, x_RD: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """Rows and weights as they are multiplied."""
    device = x_RD.device.type
    if dtype is None and torch.is_autocast_enabled(device):
        # Grouped products are not on autocast's list; do as it would for a linear layer.
        dtype = torch.get_autocast_dtype(device)
    if dtype is None:
        return x_RD, *weights
    return tuple(tensor.to(dtype) for tensor in (x_RD, *weights))


def _dtype(name: Dtype | None) -> torch.dtype | None:
    if name is None:
        return None
    check_names("experts.dtype", [name], tuple(_DTYPES))
    return _DTYPES[name]


def _loop(network: Callable[..., Tensor], x_RD: Tensor, load_E: Tensor, *weights: Tensor) -> Tensor:
    """Apply `network` to the rows of one expert after the other with its slice of the weights."""
    rows = x_RD.split(load_E.tolist())
    # unbind once: indexing w[e] would fill a whole zero gradient for every expert.
    slices = zip(*(w.unbind(0) for w in weights), strict=True)
    return torch.cat([network(x, *ws) for x, ws in zip(rows, slices, strict=True)])


def _first_in(num_experts: int, dim: int, hidden_dim: int) -> nn.Parameter:
    """Weights from tokens to hidden units, (E, D, F), of variance 1 / D."""
    unit_FED = normal_units(num_experts, dim, hidden_dim)
    return nn.Parameter((unit_FED * dim**-0.5).permute(1, 2, 0).contiguous())


def _first_out(num_experts: int, dim: int, hidden_dim: int) -> nn.Parameter:
    """Weights from hidden units to tokens, (E, F, D), of variance 1 / F."""
    unit_FED = normal_units(num_experts, dim, hidden_dim)
    return nn.Parameter((unit_FED * hidden_dim**-0.5).permute(1, 0, 2).contiguous())


def _check_widths(dim: int, hidden_dim: int, implementation: Implementation) -> None:
    for name, width in (("dim", dim), ("experts.hidden_dim", hidden_dim)):
        if width < 1:
            raise ConfigError(f"{name} = {width}: a width is at least 1.")
        if implementation == "grouped" and width % 8:
            # Strides must be multiples of 16 bytes: 4 float32 or 8 bfloat16.
            raise ConfigError(
                f"{name} = {width}: the grouped product needs a multiple of 8, such as "
                f"{max(8, round(width / 8) * 8)}; or use experts.implementation=loop."
            )
