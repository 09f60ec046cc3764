"""What a layer works: rows, dropped pairs and FLOPs of its expert products, seen, not believed.

One forward pass is watched below autograd. A product counts as the experts' if one factor lies in
the memory of a parameter, or of its copy in another type, and its shape is D to F, D to 2 F (two
matrices side by side) or F to D. So the same count is taken of stacked weights, of lists of linear
layers, of anyone's layer. Rows that are all zero are padding, the empty slots of layers with a
capacity: computed but not served.

A multiply-add is 2 FLOPs, and a backward pass takes twice the forward.

Letters: T tokens, D width, F hidden width, R rows, E experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hmoe.errors import ConfigError


@dataclass(frozen=True)
class Work:
    """The expert products of one layer on its tokens.

    Attributes:
        rows: rows computed, padding included.
        served: rows that hold a token.
        flops: of forward and backward, padding included.
    """

    rows: int
    served: int
    flops: int

    def dropped(self, wanted: int) -> float:
        """Share of the `wanted` rows, T k of them, that were not served."""
        return 1 - self.served / wanted

    def matrices(self, dim: int, hidden_dim: int) -> int:
        """How many D x F matrices an expert has: 2, or 3 with a gate; 0 where nothing was seen."""
        return round(self.flops / (6 * self.rows * dim * hidden_dim)) if self.rows else 0


def check_countable(*, dim: int, hidden_dim: int, experts: Sequence[int]) -> None:
    """Refuse shapes under which products of experts look like others.

    Raises:
        ConfigError: F is D, so that the way in looks like the way out; or E is F or 2 F, so that
            a router's product looks like the way in.
    """
    if hidden_dim == dim:
        raise ConfigError(f"hidden_dim = {hidden_dim}: rows cannot be counted where it equals dim.")
    for num_experts in experts:
        if num_experts in (hidden_dim, 2 * hidden_dim):
            raise ConfigError(
                f"experts = {num_experts}: rows cannot be counted where it is hidden_dim or twice "
                f"that. Use another hidden_dim, such as {hidden_dim + 8}."
            )


def work_of(layer: nn.Module, x: Tensor, *, dim: int, hidden_dim: int) -> Work:
    """Watch one forward pass of a layer. Rows are 0 where its products cannot be seen."""
    with torch.no_grad(), _Products(layer, dim, hidden_dim) as seen:
        layer(x)
    # What goes in may be multiplied twice, by gate and up; what comes out, once.
    served = round(seen.out_rows * seen.in_served / seen.in_rows) if seen.in_rows else 0
    return Work(seen.out_rows, served, 3 * seen.flops)


class _Products(TorchDispatchMode):
    """Counts the rows of products with expert weights."""

    def __init__(self, layer: nn.Module, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self._storages = {p.untyped_storage().data_ptr() for p in layer.parameters()}
        self._copies: list[Tensor] = []  # kept, so that nothing else comes to lie there
        self._dim, self._hidden_dim = dim, hidden_dim
        self.in_rows = self.in_served = self.out_rows = self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        kwargs = kwargs or {}
        if name in ("mm", "bmm"):
            self._see(*args[:2])
        elif name in ("addmm", "baddbmm"):
            self._see(*args[1:3])
        elif name.endswith("grouped_mm"):
            ends_E = kwargs["offs"] if "offs" in kwargs else args[2]
            self._see(args[0][: int(ends_E[-1])], args[1])
        result = func(*args, **kwargs)
        if name in ("_to_copy", "clone") and self._is_weight(args[0]):
            self._copies.append(result)
            self._storages.add(result.untyped_storage().data_ptr())
        return result

    def _see(self, left: Tensor, right: Tensor) -> None:
        if self._is_weight(left):  # y^T = W^T x^T
            left, right = right.mT, left.mT
        if not self._is_weight(right):
            return
        shape = (right.shape[-2], right.shape[-1])
        rows = left.shape[:-1].numel()
        if shape == (self._hidden_dim, self._dim):
            self.out_rows += rows
        elif shape in ((self._dim, self._hidden_dim), (self._dim, 2 * self._hidden_dim)):
            self.in_rows += rows
            self.in_served += int((left != 0).any(-1).sum())
        else:
            return
        self.flops += 2 * rows * shape[0] * shape[1]

    def _is_weight(self, factor: Tensor) -> bool:
        return factor.untyped_storage().data_ptr() in self._storages
