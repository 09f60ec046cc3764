"""Dealing: who sits in which group, and the same staff dealt out to other groups. No tensors.

The control of an organisation that carries information: of experts that differ from unit to unit,
and of groups that a clustering found. `regroup` takes what `dealt` returns:

    clustered, move = regroup(layer, tree, order)
    shuffled, move = regroup(layer, tree, dealt(tree, order, seed=0))

Letters: N nodes, E experts.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from random import Random
from typing import TypeVar

from hmoe.errors import ConfigError
from hmoe.layer.tree import ROOT, Tree

_MOST_DRAWS = 100

Kind = TypeVar("Kind", bound=Hashable)


def organisation(tree: Tree, kind_E: Sequence[Hashable], staff_N: Sequence[int]) -> Hashable:
    """Who works together with whom, whatever units are called and in whatever order they come.

    Two organisations are equal if one becomes the other by putting siblings in another order. A
    layer starts alike under both, since new weights of siblings are drawn alike.

    Args:
        kind_E: what each expert is; experts of one kind may take each other's places.
        staff_N: the number of experts shared at each node; not looked at for experts.
    """
    below: dict[int, Counter[Hashable]] = defaultdict(Counter)
    kinds = dict(zip(tree.node_E, kind_E, strict=True))
    for node in reversed(range(tree.num_nodes)):
        is_expert = node in kinds
        made_of = kinds[node] if is_expert else (staff_N[node], frozenset(below.pop(node).items()))
        below[tree.parent_N[node]][is_expert, made_of] += 1
    return frozenset(below[ROOT].items())


def deals(kind_E: Sequence[Kind], *, seed: int) -> Iterator[tuple[Kind, ...]]:
    """Some random orders of the experts, the same for a seed under every version of Python."""
    draw = Random(seed)
    for _ in range(_MOST_DRAWS):
        # Of all draws only those of random() are promised to stay the same.
        yield tuple(sorted(kind_E, key=lambda _: draw.random()))


def dealt(tree: Tree, kind_E: Sequence[Kind], *, seed: int) -> tuple[Kind, ...]:
    """The same experts at random places of the tree, such that others work together.

    Args:
        kind_E: what sits at each place: kinds of experts, or the `order` that `regroup` was given
            (of a layer as it is, range(num_experts)).

    Raises:
        ConfigError: all orders are the same organisation: a tree without units, or experts alike.
    """
    nobody = (0,) * tree.num_nodes
    before = organisation(tree, kind_E, nobody)
    for other in deals(kind_E, seed=seed):
        if organisation(tree, other, nobody) != before:
            return other
    raise ConfigError(
        f"tree = {tree}: dealing out its experts again would be the same organisation again. "
        "It takes units, and experts that differ."
    )
