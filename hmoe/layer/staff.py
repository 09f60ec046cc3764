"""Staff: experts of other kinds and sizes, and experts that are shared by all who pass a unit.

Letters: R rows, D width, E experts, M shared experts, H heads, T tokens, N nodes.
"""

import inspect
from collections.abc import Callable, Mapping
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmoe.errors import ConfigError, nearest
from hmoe.layer.gates import Merge
from hmoe.layer.routing import Routing
from hmoe.layer.tree import ROOT, Tree
from hmoe.layer.tree_ops import constant


class Zero(nn.Module):
    """E experts that answer nothing: a token may decline work (MoE++: Jin et al. 2024)."""

    def __init__(self, *, num_experts: int, dim: int) -> None:
        super().__init__()

    def forward(self, x_RD: Tensor, load_E: Tensor) -> Tensor:
        """Rows in expert order (R, D) -> zeros (R, D)."""
        return torch.zeros_like(x_RD)


class Identity(nn.Module):
    """E experts that hand their rows back (MoE++: Jin et al. 2024, "copy")."""

    def __init__(self, *, num_experts: int, dim: int) -> None:
        super().__init__()

    def forward(self, x_RD: Tensor, load_E: Tensor) -> Tensor:
        """Rows in expert order (R, D) -> the same."""
        return x_RD


class Constant(nn.Module):
    """E experts y = a x + b v, (a, b) = softmax(x W): a learnt vector, mixed with the row.

    MoE++ (Jin et al. 2024).

    Args:
        num_experts: E.
        dim: width D of a token.
    """

    def __init__(self, *, num_experts: int, dim: int) -> None:
        super().__init__()
        self.vector_ED = nn.Parameter(torch.randn(num_experts, dim) * dim**-0.5)
        self.mix_ED2 = nn.Parameter(torch.randn(num_experts, dim, 2) * dim**-0.5)

    def forward(self, x_RD: Tensor, load_E: Tensor) -> Tensor:
        """Rows in expert order (R, D) and the rows of each expert (E,) -> (R, D)."""
        expert_R = torch.arange(len(load_E), device=load_E.device).repeat_interleave(
            load_E, output_size=x_RD.shape[0]
        )
        mix_RD2 = self.mix_ED2.index_select(0, expert_R).to(x_RD.dtype)
        mix_R2 = torch.einsum("rd,rdm->rm", x_RD, mix_RD2).softmax(-1)
        vector_RD = self.vector_ED.index_select(0, expert_R).to(x_RD.dtype)
        return mix_R2[:, :1] * x_RD + mix_R2[:, 1:] * vector_RD


class ByUnit(nn.Module):
    """Experts that differ from unit to unit in kind or width: each node's own, or its unit's.

    Args:
        tree: the organisation.
        num_experts: E, those of the tree; another number are shared experts, of the default kind.
        dim: width D of a token.
        default: bank of all experts of which nothing else is said, called as
            default(num_experts=, dim=).
        units: path of a node -> bank of the experts at or below it; the longest path that holds
            an expert decides.

    Raises:
        ConfigError: a name that is no node of the tree, or what is no bank, or a bank without all
            its settings.
    """

    def __init__(
        self,
        *,
        tree: Tree,
        num_experts: int,
        dim: int,
        default: Callable[..., nn.Module],
        units: Mapping[str, Callable[..., nn.Module]],
    ) -> None:
        super().__init__()
        for name, bank in units.items():
            node_number("experts.units", name, tree)
            _check_bank(name, bank)
        # A bank of another size is one of shared experts, which are of the default kind.
        kind_E: list[str | None] = [None] * num_experts
        if num_experts == tree.num_experts:
            kind_E = [kind_of(tree.path_N[node], units) for node in tree.node_E]
        # Neighbours of one kind are one bank, so that its grouped product stays one.
        runs = [(kind, len(list(run))) for kind, run in groupby(kind_E)]
        self.sizes = [size for _, size in runs]
        self.banks = nn.ModuleList(
            (default if kind is None else units[kind])(num_experts=size, dim=dim)
            for kind, size in runs
        )

    def forward(self, x_RD: Tensor, load_E: Tensor) -> Tensor:
        """Rows in expert order (R, D) and the rows of each expert (E,) -> (R, D)."""
        loads = load_E.split(self.sizes)
        rows = x_RD.split(torch.stack([load.sum() for load in loads]).tolist())
        return torch.cat([b(x, load) for b, x, load in zip(self.banks, rows, loads, strict=True)])


class Shared(nn.Module):
    """Experts that work on every token which reaches their unit: the staff of the company, of a
    department, of a team (DeepSeekMoE: Dai et al. 2024, section 3.2, has them at the root).

    A token's weight for a shared expert is what its rows below the unit weigh together, and 1 at
    the root: a department's staff counts as much as the department.

    Args:
        tree: the organisation.
        dim: width D of a token.
        units: "company" (the root), "level_n" (every unit of a level) or the path of a unit ->
            number of shared experts there.
        experts: their bank, called as experts(num_experts=, dim=).

    Raises:
        ConfigError: a name that is no unit of the tree, or a number below 1.
    """

    def __init__(
        self, *, tree: Tree, dim: int, units: Mapping[str, int], experts: Callable[..., nn.Module]
    ) -> None:
        super().__init__()
        self.unit_M = [
            node
            for name, number in units.items()
            for node in _units("shared.units", name, number, tree)
            for _ in range(number)
        ]
        self.experts = experts(num_experts=len(self.unit_M), dim=dim) if self.unit_M else None

    def forward(self, x_TD: Tensor, weight_TM: Tensor) -> Tensor:
        """Tokens (T, D) and what each shared expert weighs for them -> (T, D).

        With a weight for each token of H heads, (H T, M), the answers are those of all heads.
        """
        # By expert: the rows of one expert follow each other, in token order.
        num_tokens, num_shared = weight_TM.shape
        if self._is_company:
            # All work on all tokens; to look for them would be to wait for the device.
            pair_R = torch.arange(num_shared * num_tokens, device=x_TD.device)
            token_R, expert_R = pair_R % max(num_tokens, 1), pair_R // max(num_tokens, 1)
        else:
            expert_R, token_R = (weight_TM.detach().T > 0).nonzero(as_tuple=True)
        load_M = torch.zeros(num_shared, dtype=torch.int64, device=x_TD.device)
        load_M = load_M.index_add(0, expert_R, torch.ones_like(expert_R))
        assert self.experts is not None
        y_RD: Tensor = self.experts(x_TD.index_select(0, token_R % x_TD.shape[0]), load_M)
        weight_R = weight_TM[token_R, expert_R].to(y_RD.dtype)
        y_TD = y_RD.new_zeros(num_tokens, x_TD.shape[-1])
        return y_TD.index_add(0, token_R, y_RD * weight_R.unsqueeze(-1))

    def weights(self, routing: Routing, merge: Merge, num_heads: int) -> Tensor:
        """What every shared expert weighs for every token, 0 where it does not work.

        (T, M), or (H T, M) where the heads' answers are stacked. The company's staff works once for
        a token, however many heads it has.
        """
        merged = 1 if merge == "stack" else num_heads
        if self._is_company:
            ones_T1 = routing.weight_R.new_ones(routing.num_tokens // merged, 1)
            return ones_T1.expand(-1, len(self.unit_M))
        weight_TM = self._sums(routing)
        if merged > 1:
            weight_HTM: Tensor = weight_TM.unflatten(0, (num_heads, -1))
            weight_TM = weight_HTM.sum(0) if merge == "sum" else weight_HTM.mean(0)
        is_root_M = constant(tuple(self.unit_M), weight_TM.device) == ROOT
        return weight_TM.masked_fill(is_root_M, 1.0)

    @property
    def _is_company(self) -> bool:
        """Whether all sit at the root, so that every token meets all of them."""
        return set(self.unit_M) == {ROOT}

    def _sums(self, routing: Routing) -> Tensor:
        """What the rows of every token weigh together below every shared expert's unit: (T, M).

        Row by row up the tree, never all tokens with all nodes: trees may be very large.
        """
        tree, device = routing.tree, routing.weight_R.device
        units = sorted(set(self.unit_M))
        shape = (routing.num_tokens, len(units) + 1)
        # Nodes that are none of the units share one more column. Index -1 is the root's, ROOT = -1.
        column_N = torch.full((tree.num_nodes + 1,), len(units), device=device)
        column_N[constant(tuple(units), device)] = torch.arange(len(units), device=device)
        parent_N = F.pad(tree.index("parent_N", device), (0, 1), value=ROOT)
        node_R = tree.index("node_E", device).index_select(0, routing.expert_R)
        places = []
        for _ in range(tree.num_levels):
            places.append(routing.token_R * shape[1] + column_N[node_R])
            node_R = parent_N[node_R]
        sums = routing.weight_R.new_zeros(shape).flatten()
        sums = sums.index_add(0, torch.cat(places), routing.weight_R.repeat(tree.num_levels))
        column_M = constant(tuple(units.index(unit) for unit in self.unit_M), device)
        return sums.view(shape).index_select(1, column_M)


def _check_bank(name: str, bank: object) -> None:
    like = "{_target_: hmoe.layer.Mlp, _partial_: true, hidden_dim: 64, ...}"
    if not callable(bank):
        raise ConfigError(
            f"experts.units.{name} = {bank!r}: must be a bank of experts with all its settings, "
            f"such as {{_target_: hmoe.layer.Zero, _partial_: true}} or {like}."
        )
    try:
        inspect.signature(bank).bind(num_experts=1, dim=1)
    except TypeError as error:
        raise ConfigError(f"experts.units.{name}: {error}; a bank is given as {like}.") from error


def node_number(option: str, name: str, tree: Tree) -> int:
    """The number of the node with a path.

    Raises:
        ConfigError: there is none.
    """
    if name not in tree.path_N:
        shown = ", ".join(tree.path_N[:12]) + (", ..." if tree.num_nodes > 12 else "")
        raise ConfigError(
            f"{option} has {name!r}: no node of tree {tree}. Nodes: {shown}."
            f"{nearest(name, tree.path_N)}"
        )
    return tree.path_N.index(name)


def _units(option: str, name: str, number: int, tree: Tree) -> list[int]:
    if number < 1:
        raise ConfigError(f"{option}.{name} = {number}: a number of experts is at least 1.")
    if name == "company":
        return [ROOT]
    levels = {f"level_{level}": inner for level, inner in enumerate(tree.inner_levels) if inner}
    if name in levels:
        return list(levels[name])
    known = ["company", *levels, *(tree.path_N[n] for inner in tree.inner_levels for n in inner)]
    if name not in known:
        raise ConfigError(
            f"{option} has {name!r}: no unit of tree {tree}. Units: {', '.join(known[:12])}"
            f"{', ...' if len(known) > 12 else ''}.{nearest(name, known)}"
        )
    return [tree.path_N.index(name)]


def kind_of(path: str, units: Mapping[str, object]) -> str | None:
    """Which of `units` an expert belongs to: the longest that its path begins with, if any."""
    holding = [name for name in units if path == name or path.startswith(f"{name}.")]
    return max(holding, key=len, default=None)
