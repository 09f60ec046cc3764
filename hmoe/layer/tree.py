"""Tree: the organisation. Companies have departments, departments have teams, teams have experts.

A `Tree` is immutable and knows nothing of tensors' values. The root (the company) has no number;
all other nodes are numbered breadth first, so that siblings, and the nodes of one level, are
contiguous. The experts are the leaves, numbered in node order. A flat mixture is the tree with one
level; nothing in hmoe asks whether a tree is flat.

Letters: N nodes, E experts, G sibling groups, L levels.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hmoe.errors import ConfigError

_NAME = re.compile(r"[a-z0-9_]+")
ROOT = -1


class Block(NamedTuple):
    """A run of neighbouring sibling groups of equal size, so that a view (groups, size) exists."""

    start: int
    num_groups: int
    size: int

    @property
    def stop(self) -> int:
        return self.start + self.num_groups * self.size


@dataclass(frozen=True, eq=False)
class Tree:
    """An organisation of experts; make one with `Tree.from_spec`.

    Attributes:
        text: the specification in short, "4x4" or JSON for a named tree.
        path_N: the dotted name of every node, such as "sales.emea.0".
        parent_N: number of every node's parent, `ROOT` (-1) for the nodes of level 0.
        level_N: level of every node; children of the root are on level 0.
    """

    text: str
    path_N: tuple[str, ...]
    parent_N: tuple[int, ...]
    level_N: tuple[int, ...]

    @classmethod
    def from_spec(cls, spec: "Sequence[int] | Mapping[str, Any]") -> "Tree":
        """Build a tree from a list of branching factors or from named units.

        `[4, 4]` is four departments of four experts. `{"sales": {"emea": 2, "us": 3}, "legal": 1}`
        names its units: a number is that many experts, 1 is a single expert of that name, a list
        is a uniform subtree, a mapping goes on.

        Raises:
            ConfigError: an empty unit, a unit with one child, a size that is not a positive whole
                number, a badly spelt name; the message holds the path in the tree.
        """
        if isinstance(spec, str) or not isinstance(spec, Sequence | Mapping):
            raise ConfigError(
                f"tree.spec = {spec!r}: expected a list of branching factors such as [4, 4], "
                "or named units such as {sales: {emea: 2, us: 3}, legal: 1}."
            )
        paths: list[str] = []
        parents: list[int] = []
        levels: list[int] = []
        # One queue entry is a unit whose children are yet to be numbered.
        queue: list[tuple[int, str, Any]] = [(ROOT, "", spec)]
        for parent, path, unit in queue:
            level = levels[parent] + 1 if parent != ROOT else 0
            for name, child in _children(unit, path):
                child_path = f"{path}.{name}" if path else name
                number = len(paths)
                paths.append(child_path)
                parents.append(parent)
                levels.append(level)
                if child is not None:
                    queue.append((number, child_path, child))
        return cls(_text(spec), tuple(paths), tuple(parents), tuple(levels))

    @property
    def num_nodes(self) -> int:
        return len(self.parent_N)

    @property
    def num_levels(self) -> int:
        return self.level_N[-1] + 1

    @property
    def num_experts(self) -> int:
        return len(self.node_E)

    @cached_property
    def node_E(self) -> tuple[int, ...]:
        """Node number of every expert, ascending."""
        inner = set(self.parent_N)
        return tuple(n for n in range(self.num_nodes) if n not in inner)

    @cached_property
    def level_slices(self) -> tuple[slice, ...]:
        """The nodes of each level, as slices of the node axis."""
        starts = [self.level_N.index(level) for level in range(self.num_levels)]
        return tuple(
            slice(a, b) for a, b in zip(starts, [*starts[1:], self.num_nodes], strict=True)
        )

    @cached_property
    def inner_levels(self) -> tuple[tuple[int, ...], ...]:
        """For each level the numbers of its nodes that have children (none on the last level)."""
        leaves = set(self.node_E)
        return tuple(
            tuple(n for n in range(s.start, s.stop) if n not in leaves) for s in self.level_slices
        )

    @cached_property
    def has_shallow_experts(self) -> bool:
        """Whether some expert sits above the last level."""
        return self.level_N[self.node_E[0]] != self.num_levels - 1

    @cached_property
    def leaves_first_N(self) -> tuple[int, ...]:
        """Per level, where its nodes lie when its experts are listed before its inner nodes."""
        order: list[int] = []
        for s, inner in zip(self.level_slices, self.inner_levels, strict=True):
            listed = [*sorted(set(range(s.start, s.stop)) - set(inner)), *inner]
            place = {node: i for i, node in enumerate(listed)}
            order += [place[n] for n in range(s.start, s.stop)]
        return tuple(order)

    @cached_property
    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """For each level its sibling groups as runs of equal size. A uniform level is one block."""
        result = []
        for level_slice in self.level_slices:
            runs: list[Block] = []
            start = level_slice.start
            while start < level_slice.stop:
                stop = start
                while stop < level_slice.stop and self.parent_N[stop] == self.parent_N[start]:
                    stop += 1
                if runs and runs[-1].size == stop - start:
                    last = runs.pop()
                    runs.append(Block(last.start, last.num_groups + 1, last.size))
                else:
                    runs.append(Block(start, 1, stop - start))
                start = stop
            result.append(tuple(runs))
        return tuple(result)

    @cached_property
    def num_below_N(self) -> tuple[int, ...]:
        """Number of experts at or below every node."""
        count = [0] * self.num_nodes
        for node, _ in self.below:
            count[node] += 1
        return tuple(count)

    @cached_property
    def share_N(self) -> tuple[float, ...]:
        """The even load of a node among its siblings: its share of the experts below its parent."""
        below = self.num_below_N
        whole = [self.num_experts if p == ROOT else below[p] for p in self.parent_N]
        return tuple(n / w for n, w in zip(below, whole, strict=True))

    @cached_property
    def below(self) -> tuple[tuple[int, int], ...]:
        """All pairs (node, expert at or below it)."""
        pairs = []
        for expert, node in enumerate(self.node_E):
            while node != ROOT:
                pairs.append((node, expert))
                node = self.parent_N[node]
        return tuple(pairs)

    def cut(self, level: int) -> tuple[int, ...]:
        """The nodes of a level together with the experts above it: a partition of all experts."""
        above = [n for n in self.node_E if self.level_N[n] < level]
        here = self.level_slices[level]
        return (*above, *range(here.start, here.stop))

    def index(self, name: str, device: torch.device) -> Tensor:
        """A table of the tree as a tensor on `device`, made once: see `_TABLES` for the names."""
        key = (name, device)
        if key not in self._tensors:
            # A table has values even while a model is being laid out on the meta device.
            with torch.device("cpu"):
                table = _TABLES[name](self)
            self._tensors[key] = table.to(device)
        return self._tensors[key]

    @cached_property
    def _tensors(self) -> dict[tuple[str, torch.device], Tensor]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {k: self.__dict__[k] for k in ("text", "path_N", "parent_N", "level_N")}

    def __str__(self) -> str:
        return self.text


_TABLES: dict[str, Callable[[Tree], Tensor]] = {
    "leaves_first_N": lambda tree: torch.tensor(tree.leaves_first_N),
    "is_expert_N": lambda tree: (
        torch.zeros(tree.num_nodes).bool().index_fill(0, torch.tensor(tree.node_E), True)
    ),
    "node_E": lambda tree: torch.tensor(tree.node_E),
    "level_N": lambda tree: torch.tensor(tree.level_N),
    "parent_N": lambda tree: torch.tensor(tree.parent_N),
    "share_N": lambda tree: torch.tensor(tree.share_N),
    "num_below_N": lambda tree: torch.tensor(tree.num_below_N),
    "below_node": lambda tree: torch.tensor([node for node, _ in tree.below]),
    "below_expert": lambda tree: torch.tensor([expert for _, expert in tree.below]),
}


def _children(unit: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (name, specification of the child or None for an expert) of one unit."""
    where = f"tree.spec.{path}" if path else "tree.spec"
    if isinstance(unit, Mapping):
        children = [(name, _named(child, f"{where}.{name}")) for name, child in unit.items()]
        for name, _ in children:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                hint = re.sub(r"[^a-z0-9_]+", "_", str(name).lower())
                raise ConfigError(
                    f"{where} has a unit named {name!r}: names are made of a-z, 0-9 and _. "
                    f"Did you mean '{hint}'?"
                )
    else:
        sizes = [unit] if isinstance(unit, int) and not isinstance(unit, bool) else list(unit)
        for i, size in enumerate(sizes):
            _check_size(size, f"{where}[{i}]" if not isinstance(unit, int) else where)
        rest = sizes[1:] or None
        children = [(str(i), rest) for i in range(sizes[0])] if sizes else []
    if not children:
        raise ConfigError(f"{where} is empty: a unit needs at least two children.")
    if len(children) == 1:
        raise ConfigError(
            f"{where} has one child: a gate with one choice decides nothing. Give the unit at "
            "least two children, or (among named units) write 1 for a single expert."
        )
    yield from children


def _named(child: Any, where: str) -> Any:
    """The specification of a named unit, None for a single expert."""
    if isinstance(child, Mapping) or (isinstance(child, Sequence) and not isinstance(child, str)):
        return child
    _check_size(child, where)
    return None if child == 1 else child


def _check_size(size: Any, where: str) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigError(f"{where} = {size!r}: a size is a whole number of at least 1.")


def _text(spec: Any) -> str:
    if isinstance(spec, Mapping):
        return json.dumps(_plain(spec))
    return "x".join(str(size) for size in spec)


def _plain(unit: Any) -> Any:
    """Mappings and sequences of any library as dict and list, for JSON."""
    if isinstance(unit, Mapping):
        return {str(name): _plain(child) for name, child in unit.items()}
    return list(unit) if isinstance(unit, Sequence) else unit
