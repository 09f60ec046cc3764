"""Entries of the suite `layer`: what takes turns at one point, a number of experts and a k.

An entry is a module with an input of its own and a gradient of its output; a run is forward and
backward, and ends with no gradient left, as a training step does.

Letters: T tokens, D width, R rows, E experts, K experts per token.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

import hmoe
from hmoe.bench.floors import Dense, Floor, Kind, Plain

# Who an entry is: what it is held against, the plain mixture, ours, or others'.
Role = Literal["bound", "plain", "hmoe", "peer"]
HALF = "hmoe, bfloat16 experts"
KINDS: tuple[Kind, ...] = ("gelu", "swiglu")
_TREES: dict[int, list[list[int]]] = {
    16: [[4, 4], [2, 2, 2, 2]],
    64: [[8, 8]],
    128: [[8, 16]],
    256: [[16, 16]],
}


@dataclass(frozen=True)
class Point:
    """What all entries of one comparison share.

    Attributes:
        sequence: tokens of a sequence, for peers that count by sequence.
    """

    tokens: int
    sequence: int
    dim: int
    hidden_dim: int
    experts: int
    k: int
    dtype: torch.dtype
    device: str

    @property
    def rows(self) -> int:
        """Rows that a layer without a capacity serves."""
        return self.tokens * self.k

    @property
    def title(self) -> str:
        return f"E={self.experts}, k={self.k}"


@dataclass(frozen=True, eq=False)
class Entry:
    """One of those that take turns.

    Attributes:
        name: unique at its point.
        kind: what its experts are.
        role: see `Role`.
        layer: called as layer(x) -> y or (y, ...).
        x: the tokens (T, D), or rows (R, D) for what knows no routing.
        twin: the entry of ours that a peer is compared with.
    """

    name: str
    kind: Kind
    role: Role
    layer: nn.Module
    x: Tensor
    grad: Tensor
    twin: str | None = None

    def run(self) -> None:
        """Forward and backward, with gradients of the input and of all weights."""
        self.pass_()
        self.release()

    def pass_(self) -> None:
        """The same, gradients kept."""
        output_of(self.layer, self.x).backward(self.grad)

    def without_gradient(self) -> list[str]:
        """Names of what gets no gradient in a run: the input, or parameters."""
        self.pass_()
        named = [("input", self.x), *self.layer.named_parameters()]
        missing = [name for name, tensor in named if tensor.grad is None]
        self.release()
        return missing

    def release(self) -> None:
        """Let go of all gradients."""
        self.x.grad = None
        self.layer.zero_grad()


def output_of(layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer makes of its input, without what it says beside."""
    y = layer(x)
    return y[0] if isinstance(y, tuple) else y


def entry(
    point: Point,
    name: str,
    kind: Kind,
    role: Role,
    layer: nn.Module,
    *,
    rows: int | None = None,
    twin: str | None = None,
) -> Entry:
    """A layer in training mode, on the device and in the type of the point, with random input.

    Args:
        rows: of the input; the tokens unless given.
    """
    like = {"device": point.device, "dtype": point.dtype}
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, rows or point.tokens, point.dim, generator=generator).to(**like)
    layer = layer.to(**like).train()
    return Entry(name, kind, role, layer, x.clone().requires_grad_(), grad.clone(), twin)


def own_entries(point: Point) -> list[Entry]:
    """Bounds, the plain mixture and ours, in this order."""
    widths = {"dim": point.dim, "hidden_dim": point.hidden_dim}
    ours = [_ours(point, flat_name(kind), kind, [point.experts]) for kind in KINDS]
    ours += [_ours(point, tree_name(spec), "gelu", spec) for spec in trees(point.experts)]
    if wants_half(point) and torch.cpu._is_avx512_bf16_supported():
        ours.append(_ours(point, HALF, "gelu", [point.experts], "experts.dtype=bfloat16"))
    bounds = []
    for kind, flat in zip(KINDS, ours, strict=False):
        dense = Dense(kind=kind, **widths)
        bounds.append(entry(point, f"dense, {kind}", kind, "bound", dense, rows=point.rows))
        # The very loads that the flat layer routes.
        with torch.no_grad():
            load_E = flat.layer(flat.x)[1].load_E
        floor = Floor(kind=kind, load_E=load_E, **widths)
        bounds.append(entry(point, f"floor, {kind}", kind, "bound", floor, rows=point.rows))
    plain = Plain(kind="gelu", num_experts=point.experts, k=point.k, **widths)
    return [*bounds, entry(point, "plain, gelu", "gelu", "plain", plain), *ours]


def trees(num_experts: int) -> list[list[int]]:
    """Shapes of trees that are measured beside a flat gate over as many experts."""
    return _TREES.get(num_experts, [])


def flat_name(kind: Kind) -> str:
    return f"hmoe, {kind}"


def tree_name(spec: list[int]) -> str:
    return f"hmoe {'x'.join(map(str, spec))}, gelu"


def wants_half(point: Point) -> bool:
    """Whether experts in bfloat16 are a question at a point."""
    return point.experts <= 16 and point.dtype == torch.float32 and point.device == "cpu"


def _ours(point: Point, name: str, kind: Kind, spec: list[int], *choices: str) -> Entry:
    torch.manual_seed(0)
    layer = hmoe.build(
        *(f"tree.spec={spec}", "gate=top_down", "balance=none", "selection=top_k"),
        f"selection.k={point.k}",
        # Renormalised, one weight would be 1 whatever the gate says.
        f"selection.weights={'probs' if point.k == 1 else 'renormalized'}",
        f"experts={'mlp' if kind == 'gelu' else 'swiglu'}",
        *choices,
        dim=point.dim,
        hidden_dim=point.hidden_dim,
    )
    return entry(point, name, kind, "hmoe", layer)
