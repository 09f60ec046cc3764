"""Outline: a tree taken apart, to be changed and put together again. No tensors.

Every part remembers the node and the expert of the old tree that it was, which is all that is
needed to move weights along.

Letters: N nodes, E experts, of the new tree.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, NamedTuple

from hmoe.errors import ConfigError
from hmoe.layer.staff import node_number
from hmoe.layer.tree import ROOT, Tree

FRESH = -1  # stands for the number of an old row where there is none
Into = Literal["unit", "siblings"]


@dataclass
class Outline:
    """A node on its own, or the root.

    Attributes:
        name: last part of its path.
        node: number it had; `FRESH` for a new node, `ROOT` for the root.
        expert: number it had as an expert; `FRESH` for units.
        children: in order.
    """

    name: str
    node: int
    expert: int
    children: list["Outline"] = field(default_factory=list)


class Plan(NamedTuple):
    """A tree made of another one's parts.

    Attributes:
        tree: the new tree.
        node_N: the old node that each new node was; `FRESH` for none.
        expert_E: the old expert that each new expert was.
    """

    tree: Tree
    node_N: tuple[int, ...]
    expert_E: tuple[int, ...]


def same(tree: Tree) -> Plan:
    """The plan that changes nothing."""
    return Plan(tree, tuple(range(tree.num_nodes)), tuple(range(tree.num_experts)))


def split(tree: Tree, path: str, into: Into) -> Plan:
    """An expert becomes two: a unit in its place, or a sibling more at the end of its unit.

    The experts of the unit are named 0 and 1. The sibling of an expert with a number for a name
    gets the next free number, that of `legal` is `legal_2`.

    Raises:
        ConfigError: no such node, or one that is a unit.
    """
    root, unit, part = _found(tree, path)
    if part.children:
        raise ConfigError(
            f"path = {path}: a unit, and only an expert can be split, such as "
            f"{_first_expert(part, path)}."
        )
    if into == "unit":
        part.children = [Outline(name, FRESH, part.expert) for name in ("0", "1")]
        part.expert = FRESH
    else:
        taken = {sibling.name for sibling in unit.children}
        name = next(name for name in _further_names(part.name, len(taken)) if name not in taken)
        unit.children.append(Outline(name, part.node, part.expert))
    return _plan(root)


def without(tree: Tree, path: str) -> Plan:
    """The tree without a node and all that is below it.

    A unit left with one child is that child from then on: it keeps its name, its place and its
    gate row, and takes over the child's expert or children. What is chosen there was sure anyway.

    Raises:
        ConfigError: no such node, or one expert would be all that is left.
    """
    root, unit, part = _found(tree, path)
    unit.children.remove(part)
    if len(unit.children) == 1:
        only = unit.children[0]
        if unit is root and not only.children:
            raise ConfigError(
                f"path = {path}: without it '{only.name}' would be the only expert of tree {tree}, "
                "and a mixture has two at least."
            )
        unit.expert, unit.children = only.expert, only.children
    return _plan(root)


def _found(tree: Tree, path: str) -> tuple[Outline, Outline, Outline]:
    """The root of a tree's outline, a node of it, and the unit that holds the node."""
    number = node_number("path", path, tree)
    expert = {node: e for e, node in enumerate(tree.node_E)}
    root = Outline("", ROOT, FRESH)
    parts = [
        Outline(path.rpartition(".")[2], node, expert.get(node, FRESH))
        for node, path in enumerate(tree.path_N)
    ]
    units = [root if parent == ROOT else parts[parent] for parent in tree.parent_N]
    for unit, part in zip(units, parts, strict=True):
        unit.children.append(part)
    return root, units[number], parts[number]


def _plan(root: Outline) -> Plan:
    parts, level = [], root.children
    while level:
        parts += level
        level = [child for part in level for child in part.children]
    return Plan(
        Tree.from_spec(_spec(root)),
        tuple(part.node for part in parts),
        tuple(part.expert for part in parts if not part.children),
    )


def _spec(unit: Outline) -> Any:
    """What `Tree.from_spec` takes: sizes where names are numbers and children alike, else names."""
    below: list[Any] = [_spec(child) if child.children else 1 for child in unit.children]
    numbered = [child.name for child in unit.children] == [str(i) for i in range(len(below))]
    if numbered and all(spec == below[0] and not isinstance(spec, dict) for spec in below):
        return [len(below)] + ([] if below[0] == 1 else below[0])
    # A unit of nothing but experts is a number among names.
    short = [spec[0] if isinstance(spec, list) and len(spec) == 1 else spec for spec in below]
    return {child.name: spec for child, spec in zip(unit.children, short, strict=True)}


def _further_names(name: str, num_siblings: int) -> Iterator[str]:
    if name.isdigit():
        return (str(number) for number in count(num_siblings))
    return (f"{name}_{number}" for number in count(2))


def _first_expert(part: Outline, path: str) -> str:
    while part.children:
        part = part.children[0]
        path = f"{path}.{part.name}"
    return path
