"""Experts: banks of E small networks with stacked weights.

Rows come in expert order, `load_E` of them for each expert. There are two implementations of the
same bank: `grouped` multiplies all experts' rows in one grouped product, `loop` takes one expert
after the other. The loop is the slow twin: plain enough to be believed, kept to be compared with.

Letters: R rows, D width, F hidden width, E experts.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmoe.errors import ConfigError
from hmoe.layer.checks import check_names

Implementation = Literal["grouped", "loop"]
Activation = Literal["gelu", "relu", "silu"]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
}


class Mlp(nn.Module):
    """E networks y = activation(x W_in) W_out, without biases.

    Args:
        num_experts: E.
        dim: width D of a token.
        hidden_dim: hidden width F of one expert.
        activation: "gelu", "relu" or "silu".
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
        implementation: Implementation,
    ) -> None:
        super().__init__()
        _check_widths(dim, hidden_dim, implementation)
        check_names("experts.activation", [activation], tuple(_ACTIVATIONS))
        self.activation = activation
        self.implementation = implementation
        self.w_in_EDF = _init(num_experts, dim, hidden_dim)
        self.w_out_EFD = _init(num_experts, hidden_dim, dim)

    def forward(self, x_RD: Tensor, load_E: Tensor) -> Tensor:
        """Rows in expert order (R, D) and the rows of each expert (E,) -> (R, D)."""
        network = partial(_mlp, _ACTIVATIONS[self.activation])
        return _run(self.implementation, network, x_RD, load_E, self.w_in_EDF, self.w_out_EFD)


class SwiGlu(nn.Module):
    """E networks y = (silu(x W_gate) * (x W_up)) W_out, without biases (Shazeer 2020, eq. 6).

    Arguments and errors are those of `Mlp`, but for the activation; a SwiGLU of the same cost has
    2/3 of its hidden width.
    """

    def __init__(
        self, *, num_experts: int, dim: int, hidden_dim: int, implementation: Implementation
    ) -> None:
        super().__init__()
        _check_widths(dim, hidden_dim, implementation)
        self.implementation = implementation
        self.w_gate_EDF = _init(num_experts, dim, hidden_dim)
        self.w_up_EDF = _init(num_experts, dim, hidden_dim)
        self.w_out_EFD = _init(num_experts, hidden_dim, dim)

    def forward(self, x_RD: Tensor, load_E: Tensor) -> Tensor:
        """Rows in expert order (R, D) and the rows of each expert (E,) -> (R, D)."""
        weights = (self.w_gate_EDF, self.w_up_EDF, self.w_out_EFD)
        return _run(self.implementation, _swiglu, x_RD, load_E, *weights)


Product = Callable[[Tensor, Tensor], Tensor]


def _mlp(
    activation: Callable[[Tensor], Tensor], product: Product, x: Tensor, *weights: Tensor
) -> Tensor:
    w_in, w_out = weights
    return product(activation(product(x, w_in)), w_out)


def _swiglu(product: Product, x: Tensor, *weights: Tensor) -> Tensor:
    w_gate, w_up, w_out = weights
    return product(F.silu(product(x, w_gate)) * product(x, w_up), w_out)


def _run(
    implementation: Implementation,
    network: Callable[..., Tensor],
    x_RD: Tensor,
    load_E: Tensor,
    *weights: Tensor,
) -> Tensor:
    """Apply `network` to the rows of every expert with its slice of the stacked weights."""
    device = x_RD.device.type
    if torch.is_autocast_enabled(device):
        # Grouped products are not on autocast's list; do as it would for a linear layer.
        dtype = torch.get_autocast_dtype(device)
        x_RD, weights = x_RD.to(dtype), tuple(w.to(dtype) for w in weights)
    # Grouped products know no float64.
    if implementation == "loop" or x_RD.dtype == torch.float64:
        # unbind once: indexing w[e] would fill a whole zero gradient for every expert.
        rows = x_RD.split(load_E.tolist())
        outputs = [
            network(torch.matmul, x, *ws)
            for x, *ws in zip(rows, *(w.unbind(0) for w in weights), strict=True)
        ]
        return torch.cat(outputs)
    ends_E = load_E.cumsum(0).to(torch.int32)
    y_RD = network(lambda a, w: F.grouped_mm(a, w, offs=ends_E), x_RD, *weights)
    if y_RD.requires_grad:
        # The backward of a grouped product refuses an expanded gradient, such as that of sum().
        y_RD.register_hook(lambda grad: grad.contiguous())
    return y_RD


def _init(num_experts: int, fan_in: int, fan_out: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(num_experts, fan_in, fan_out) * fan_in**-0.5)


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
