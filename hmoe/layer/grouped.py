"""Grouped: the networks of all experts in grouped products, with derivatives written by hand.

What autograd would do too, but with fewer arrays of R x F, the largest there are: the derivative of
the activation is written over the gradient that came in, and what was kept goes when it was used.

Letters: R rows in expert order, D width, F hidden width, E experts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_aten = torch.ops.aten


def _product(a: Tensor, b: Tensor, ends_E: Tensor) -> Tensor:
    """Grouped product: (R, n) and (E, n, m) -> (R, m), or (n, R) and (R, m) -> (E, n, m)."""
    if torch.compiler.is_compiling() and a.dtype == torch.float32:
        return _opaque_product(a, b, ends_E)  # type: ignore[no-any-return]
    product: Tensor = F.grouped_mm(a, b, offs=ends_E)
    return product


@torch.library.custom_op("hmoe::grouped_product", mutates_args=())
def _opaque_product(a: Tensor, b: Tensor, ends_E: Tensor) -> Tensor:
    """What a compiler does not look into: of float32 it would say that it must be bfloat16."""
    return F.grouped_mm(a, b, offs=ends_E)


@_opaque_product.register_fake
def _(a: Tensor, b: Tensor, ends_E: Tensor) -> Tensor:
    shape = (a.shape[0], b.shape[2]) if b.dim() == 3 else (*ends_E.shape, a.shape[0], b.shape[1])
    return a.new_empty(shape)


class Activation(NamedTuple):
    """A function by element, and its derivative times a gradient, written over that gradient."""

    value: Callable[[Tensor], Tensor]
    backward_: Callable[[Tensor, Tensor], Tensor]


ACTIVATIONS = {
    "gelu": Activation(
        F.gelu, lambda grad, x: _aten.gelu_backward.grad_input(grad, x, grad_input=grad)
    ),
    "relu": Activation(
        F.relu, lambda grad, x: _aten.threshold_backward.grad_input(grad, x, 0, grad_input=grad)
    ),
    "silu": Activation(
        F.silu, lambda grad, x: _aten.silu_backward.grad_input(grad, x, grad_input=grad)
    ),
}


class GroupedMlp(torch.autograd.Function):
    """y = activation(x W_in) W_out for the rows of every expert."""

    @staticmethod
    def forward(
        ctx: Any, x_RD: Tensor, ends_E: Tensor, activation: str, w_in: Tensor, w_out: Tensor
    ) -> Tensor:
        raw_RF = _product(x_RD, w_in, ends_E)
        hidden_RF = ACTIVATIONS[activation].value(raw_RF)
        ctx.activation = activation
        ctx.save_for_backward(x_RD, raw_RF, hidden_RF, ends_E, w_in, w_out)
        return _product(hidden_RF, w_out, ends_E)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor | None, ...]:
        x_RD, raw_RF, hidden_RF, ends_E, w_in, w_out = _kept(ctx)
        wants_x, _, _, wants_in, wants_out = ctx.needs_input_grad
        grad_RD = grad_RD.contiguous()  # a product refuses an expanded one, such as that of sum()
        grad_out = _weight_grad(hidden_RF, grad_RD, ends_E, wants_out)
        del hidden_RF
        grad_RF = _product(grad_RD, w_out.mT, ends_E)
        grad_RF = ACTIVATIONS[ctx.activation].backward_(grad_RF, raw_RF)
        del raw_RF
        grad_in = _weight_grad(x_RD, grad_RF, ends_E, wants_in)
        grad_x_RD = _product(grad_RF, w_in.mT, ends_E) if wants_x else None
        return grad_x_RD, None, None, grad_in, grad_out


class GroupedSwiGlu(torch.autograd.Function):
    """y = (silu(x W_gate) * (x W_up)) W_out for the rows of every expert."""

    @staticmethod
    def forward(
        ctx: Any, x_RD: Tensor, ends_E: Tensor, w_gate: Tensor, w_up: Tensor, w_out: Tensor
    ) -> Tensor:
        raw_RF = _product(x_RD, w_gate, ends_E)
        up_RF = _product(x_RD, w_up, ends_E)
        hidden_RF = F.silu(raw_RF).mul_(up_RF)
        ctx.save_for_backward(x_RD, raw_RF, up_RF, hidden_RF, ends_E, w_gate, w_up, w_out)
        return _product(hidden_RF, w_out, ends_E)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor | None, ...]:
        x_RD, raw_RF, up_RF, hidden_RF, ends_E, w_gate, w_up, w_out = _kept(ctx)
        wants_x, _, wants_gate, wants_up, wants_out = ctx.needs_input_grad
        grad_RD = grad_RD.contiguous()
        grad_out = _weight_grad(hidden_RF, grad_RD, ends_E, wants_out)
        del hidden_RF
        grad_RF = _product(grad_RD, w_out.mT, ends_E)
        grad_up_RF = F.silu(raw_RF).mul_(grad_RF)
        grad_raw_RF = ACTIVATIONS["silu"].backward_(grad_RF.mul_(up_RF), raw_RF)
        del up_RF, raw_RF
        grad_gate = _weight_grad(x_RD, grad_raw_RF, ends_E, wants_gate)
        grad_up = _weight_grad(x_RD, grad_up_RF, ends_E, wants_up)
        grad_x_RD = None
        if wants_x:
            grad_x_RD = _product(grad_raw_RF, w_gate.mT, ends_E)
            grad_x_RD.add_(_product(grad_up_RF, w_up.mT, ends_E))
        return grad_x_RD, None, grad_gate, grad_up, grad_out


def _weight_grad(x_R: Tensor, grad_R: Tensor, ends_E: Tensor, wanted: bool) -> Tensor | None:
    """Gradient of stacked weights (E, in, out) from their inputs and the gradient of outputs."""
    return _product(x_R.mT, grad_R, ends_E) if wanted else None


def _kept(ctx: Any) -> list[Tensor]:
    """What the forward saved; a name that is deleted frees it, unless the graph is retained."""
    kept = list(ctx.saved_tensors)
    if not torch.compiler.is_compiling():
        ctx.maybe_clear_saved_tensors()
    return kept
