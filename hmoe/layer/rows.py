"""Rows: modules made anew of the rows of old ones, with a record of where every row came from.

In hmoe the letters behind a name's last underscore are its axes. Tensors whose first axis is E, M
or N (experts, or nodes that are scored) are stacks with a row each; all others, such as the query
that a gate compares, belong to all rows and stay whole.

Letters: E experts, M rows of a stack.
"""

import copy
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hmoe.errors import ConfigError
from hmoe.layer.outline import FRESH
from hmoe.layer.staff import ByUnit


class Origin(NamedTuple):
    """Where a parameter comes from.

    Attributes:
        parameter: of the old layer.
        row_M: int64, its row that each row was; `FRESH` for none. None: the parameter is as it was.
    """

    parameter: nn.Parameter
    row_M: Tensor | None

    def take(self, value: Tensor) -> Tensor:
        """Of a tensor shaped as the old parameter the rows of the new one, zeros where fresh."""
        return take_rows(value, self.row_M)


Origins = dict[nn.Parameter, Origin]


def is_stack(name: str) -> bool:
    """Whether a tensor of this name has a row for every expert or node."""
    return name.rpartition("_")[2][:1] in ("E", "M", "N")


def stacks(module: nn.Module) -> list[Tensor]:
    """A module's own stacks, learnt or drawn."""
    return [tensor for name, tensor in _tensors(module) if is_stack(name)]


def take_rows(value: Tensor, row_M: Tensor | None) -> Tensor:
    """Rows of a tensor, zeros where they are `FRESH`; a copy of it all for None."""
    if row_M is None:
        return value.detach().clone()
    row_M = row_M.to(value.device)
    taken = value.detach().index_select(0, row_M.clamp(min=0))
    taken[row_M == FRESH] = 0
    return taken


def moved(old: nn.Parameter, row_M: Tensor | None, origins: Origins) -> nn.Parameter:
    """A parameter made of rows of another one; the origin is written down."""
    new = nn.Parameter(take_rows(old, row_M), requires_grad=old.requires_grad)
    origins[new] = Origin(old, row_M)
    return new


def restacked(module: nn.Module, rows: Sequence[int], origins: Origins) -> nn.Module:
    """A copy of a module without children whose stacks hold these rows of the old ones."""
    row_M = torch.tensor(rows, dtype=torch.int64, device="cpu")
    new_of: dict[int, Tensor] = {}
    for name, old in _tensors(module):
        rows_M = row_M if is_stack(name) else None
        learnt = isinstance(old, nn.Parameter)
        new_of[id(old)] = moved(old, rows_M, origins) if learnt else take_rows(old, rows_M)  # type: ignore[arg-type]
    new: nn.Module = copy.deepcopy(module, new_of)
    return new


def banks(bank: nn.Module, num_experts: int) -> list[tuple[nn.Module, range]]:
    """The banks that a bank is made of, itself unless units differ, and the experts of each.

    Raises:
        ConfigError: a bank with parameters of which nobody knows which expert's they are.
    """
    by_unit = isinstance(bank, ByUnit)
    parts: list[nn.Module] = list(bank.banks) if by_unit else [bank]  # type: ignore[arg-type]
    found, stop = [], 0
    for part, size in zip(parts, bank.sizes if by_unit else [num_experts], strict=True):  # type: ignore[arg-type]
        for name, _ in part.named_parameters():
            if "." in name or not is_stack(name):
                raise ConfigError(
                    f"experts: {type(part).__name__} has '{name}', which is no stack with a row "
                    "for every expert, so its experts cannot be moved one by one."
                )
        start, stop = stop, stop + size
        found.append((part, range(start, stop)))
    return found


def restacked_bank(
    bank: nn.Module, num_experts: int, expert_E: Sequence[int], origins: Origins
) -> nn.Module:
    """A copy of a bank of experts that holds these of the old ones, in this order."""
    parts = banks(bank, num_experts)
    if not isinstance(bank, ByUnit):
        return restacked(bank, expert_E, origins)
    place = {e: (part, e - experts.start) for part, experts in parts for e in experts}
    runs = [
        (part, [place[e][1] for e in run])
        for part, run in ((k, list(g)) for k, g in groupby(expert_E, key=lambda e: place[e][0]))
    ]
    new_banks = nn.ModuleList(restacked(part, rows, origins) for part, rows in runs)
    new: ByUnit = copy.deepcopy(bank, {id(bank.banks): new_banks})
    new.sizes = [len(rows) for _, rows in runs]
    return new


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """A module's own parameters and buffers."""
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
