"""Tree: the organisation. Companies have departments, departments have teams, teams have experts.

A `Tree` is immutable and knows nothing of tensors' values. The root (the company) has no number;
all other nodes are numbered breadth first, so that siblings, and the nodes of one level, are
contiguous. The experts are the leaves, numbered in node order. A flat mixture is the tree with one
level; nothing in hmoe asks whether a tree is flat.

A tree holds, for each level, how many nodes in a row have how many children. That is all there is
to know, in a few numbers even for a million experts; tables of all nodes are made when asked for.

Letters: N nodes, E experts, G sibling groups, L levels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hmoe.errors import ConfigError
from hmoe.layer.tree_spec import checked, children, text

ROOT = -1


class Run(NamedTuple):
    """Neighbouring nodes of one level with the same number of children; 0 for experts."""

    num_nodes: int
    num_children: int


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
        runs: for each level its nodes as runs; children of the root are on level 0.
        name_of: the names of the nodes that the specification names; others are called by their
            place among their siblings.
    """

    text: str
    runs: tuple[tuple[Run, ...], ...]
    name_of: Mapping[int, str]

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
        levels: list[tuple[Run, ...]] = []
        name_of: dict[int, str] = {}
        number = 0
        # The nodes of one level: (name, nodes in a row, what each is made of, None for an expert).
        here = children(checked(spec, "tree.spec"), 1)
        while here:
            below = [children(unit, num_nodes) for _, num_nodes, unit in here]
            runs = []
            for (name, num_nodes, _), own in zip(here, below, strict=True):
                if name is not None:
                    name_of[number] = name
                number += num_nodes
                runs.append(Run(num_nodes, sum(n for _, n, _ in own) // num_nodes))
            levels.append(tuple(runs))
            here = [child for own in below for child in own]
        return cls(text(spec), tuple(levels), name_of)

    @cached_property
    def num_nodes(self) -> int:
        return sum(run.num_nodes for runs in self.runs for run in runs)

    @property
    def num_levels(self) -> int:
        return len(self.runs)

    @cached_property
    def num_experts(self) -> int:
        return sum(r.num_nodes for runs in self.runs for r in runs if not r.num_children)

    @cached_property
    def level_slices(self) -> tuple[slice, ...]:
        """The nodes of each level, as slices of the node axis."""
        stops = list(accumulate(sum(r.num_nodes for r in runs) for runs in self.runs))
        return tuple(slice(a, b) for a, b in zip([0, *stops], stops, strict=False))

    @cached_property
    def has_shallow_experts(self) -> bool:
        """Whether some expert sits above the last level."""
        return any(run.num_children == 0 for runs in self.runs[:-1] for run in runs)

    @cached_property
    def blocks(self) -> tuple[tuple[Block, ...], ...]:
        """For each level its sibling groups as runs of equal size. A uniform level is one block."""
        root = Run(1, sum(r.num_nodes for r in self.runs[0]))
        result = []
        for level_slice, parents in zip(self.level_slices, ((root,), *self.runs), strict=False):
            blocks: list[Block] = []
            start = level_slice.start
            for num_groups, size in parents:
                if blocks and size == blocks[-1].size:
                    last = blocks.pop()
                    blocks.append(Block(last.start, last.num_groups + num_groups, size))
                elif size:
                    blocks.append(Block(start, num_groups, size))
                start += num_groups * size
            result.append(tuple(blocks))
        return tuple(result)

    # Tables of all nodes, as tuples: for people, and for loops over small trees.

    @cached_property
    def path_N(self) -> tuple[str, ...]:
        """The dotted name of every node, such as "sales.emea.0"."""
        paths: list[str] = []
        place = 0
        for node, parent in enumerate(self.parent_N):
            place = place + 1 if node and parent == self.parent_N[node - 1] else 0
            name = self.name_of.get(node, str(place))
            paths.append(name if parent == ROOT else f"{paths[parent]}.{name}")
        return tuple(paths)

    @cached_property
    def parent_N(self) -> tuple[int, ...]:
        """Number of every node's parent, `ROOT` (-1) for the nodes of level 0."""
        return self._tuple("parent_N")

    @cached_property
    def level_N(self) -> tuple[int, ...]:
        """Level of every node; children of the root are on level 0."""
        return self._tuple("level_N")

    @cached_property
    def node_E(self) -> tuple[int, ...]:
        """Node number of every expert, ascending."""
        return self._tuple("node_E")

    @cached_property
    def num_below_N(self) -> tuple[int, ...]:
        """Number of experts at or below every node."""
        return self._tuple("num_below_N")

    @cached_property
    def share_N(self) -> tuple[float, ...]:
        """The even load of a node among its siblings: its share of the experts below its parent."""
        return tuple(_share_N(self).tolist())

    @cached_property
    def below(self) -> tuple[tuple[int, int], ...]:
        """All pairs (node, expert at or below it)."""
        return tuple(zip(self._tuple("below_node"), self._tuple("below_expert"), strict=True))

    @cached_property
    def inner_levels(self) -> tuple[tuple[int, ...], ...]:
        """For each level the numbers of its nodes that have children (none on the last level)."""
        inner = ~self.index("is_expert_N", torch.device("cpu"))
        return tuple(
            tuple((inner[s].nonzero().flatten() + s.start).tolist()) for s in self.level_slices
        )

    def cut(self, level: int) -> tuple[int, ...]:
        """The nodes of a level together with the experts above it: a partition of all experts."""
        here = self.level_slices[level]
        above = self.index("is_expert_N", torch.device("cpu"))[: here.start].nonzero().flatten()
        return (*above.tolist(), *range(here.start, here.stop))

    def index(self, name: str, device: torch.device) -> Tensor:
        """A table of the tree as a tensor on `device`, made once: see `_TABLES` for the names."""
        key = (name, device)
        if key not in self._tensors:
            # A table has values even while a model is being laid out on the meta device.
            # It outlives the call that asks first, which may be one of inference.
            with torch.device("cpu"), torch.inference_mode(False):
                table = _TABLES[name](self)
            with torch.inference_mode(False):
                self._tensors[key] = table.to(device)
        return self._tensors[key]

    def _tuple(self, name: str) -> tuple[int, ...]:
        return tuple(self.index(name, torch.device("cpu")).tolist())

    @cached_property
    def _tensors(self) -> dict[tuple[str, torch.device], Tensor]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {k: self.__dict__[k] for k in ("text", "runs", "name_of")}

    def __str__(self) -> str:
        return self.text


# Tables of all nodes, as tensors: for the layer.


def _num_children_N(tree: Tree) -> Tensor:
    runs = torch.tensor([run for runs in tree.runs for run in runs])
    return runs[:, 1].repeat_interleave(runs[:, 0])


def _parent_N(tree: Tree) -> Tensor:
    roots = torch.full((tree.level_slices[0].stop,), ROOT)
    nodes = torch.arange(tree.num_nodes)
    return torch.cat([roots, nodes.repeat_interleave(_num_children_N(tree))])


def _level_N(tree: Tree) -> Tensor:
    sizes = torch.tensor([s.stop - s.start for s in tree.level_slices])
    return torch.arange(tree.num_levels).repeat_interleave(sizes)


def _size_G(tree: Tree) -> Tensor:
    """Nodes in each sibling group. Group 0 has the children of the root, then follow the units."""
    children = _num_children_N(tree)
    return torch.cat([torch.tensor([tree.level_slices[0].stop]), children[children > 0]])


def _group_below_N(tree: Tree) -> Tensor:
    """The sibling group that the children of each node are; -1 for an expert."""
    is_unit = _num_children_N(tree) > 0
    return torch.where(is_unit, is_unit.cumsum(0), -1)


def _start_G(tree: Tree) -> Tensor:
    """First node of each sibling group."""
    size = _size_G(tree)
    return size.cumsum(0) - size


def _group_N(tree: Tree) -> Tensor:
    """The sibling group that each node is in."""
    size = _size_G(tree)
    return torch.arange(len(size)).repeat_interleave(size)


def _num_below_N(tree: Tree) -> Tensor:
    parent = _parent_N(tree)
    below: Tensor = (_num_children_N(tree) == 0).long()
    for here in reversed(tree.level_slices[1:]):
        below.index_add_(0, parent[here], below[here].clone())
    return below


def _below(tree: Tree) -> tuple[Tensor, Tensor]:
    """All pairs of a node and an expert at or below it, as two tensors."""
    parent, node = _parent_N(tree), tree.index("node_E", torch.device("cpu"))
    expert = torch.arange(tree.num_experts)
    pairs = []
    while len(node):
        pairs.append((node, expert))
        above = parent[node]
        node, expert = above[above != ROOT], expert[above != ROOT]
    nodes, experts = zip(*pairs, strict=True)
    return torch.cat(nodes), torch.cat(experts)


def _share_N(tree: Tree) -> Tensor:
    below, parent = _num_below_N(tree), _parent_N(tree)
    whole = torch.where(parent == ROOT, tree.num_experts, below[parent.clamp(min=0)])
    return below.double() / whole


def _leaves_first_N(tree: Tree) -> Tensor:
    """Per level, where its nodes lie when its experts are listed before its inner nodes."""
    expert = _num_children_N(tree) == 0
    places = []
    for here in tree.level_slices:
        leaf = expert[here]
        inner_place = leaf.sum() + (~leaf).cumsum(0) - 1
        places.append(torch.where(leaf, leaf.cumsum(0) - 1, inner_place))
    return torch.cat(places)


_TABLES: dict[str, Callable[[Tree], Tensor]] = {
    "size_G": _size_G,
    "start_G": _start_G,
    "group_N": _group_N,
    "group_below_N": _group_below_N,
    "parent_N": _parent_N,
    "level_N": _level_N,
    "num_below_N": _num_below_N,
    "share_N": lambda tree: _share_N(tree).float(),
    "below_node": lambda tree: _below(tree)[0],
    "below_expert": lambda tree: _below(tree)[1],
    "leaves_first_N": _leaves_first_N,
    "is_expert_N": lambda tree: _num_children_N(tree) == 0,
    "node_E": lambda tree: (_num_children_N(tree) == 0).nonzero().flatten(),
    "expert_N": lambda tree: (_num_children_N(tree) == 0).cumsum(0) - 1,  # meaningless for units
}
