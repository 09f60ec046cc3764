"""Looks: on one level of a tree every token compares the children of its groups in the running.

Letters: T tokens, K places of a token, B groups in the running, b room for the children of a group
(those of the largest of its level), C = B b places of a token, R pairs of a token and a group.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hmoe.layer.tree import Tree

# Nodes of a level that are scored densely in the time of one that is asked for. Measured: "where
# dense scoring ends" in reports/bench/routing.md.
_DENSE_PER_ASKED = 3.0


def is_uniform(tree: Tree) -> bool:
    """Whether all units of a level are of one size, and all experts on the last level."""
    return all(len(level) == 1 for level in tree.blocks) and not tree.has_shallow_experts


@dataclass(frozen=True, eq=False)
class Look:
    """Sibling groups of one level that each token looks into, in ascending order.

    Attributes:
        tree: the organisation.
        level: whose nodes are compared.
        group_TB: int64, the groups.
        alive_TB: which of them a token does look into; None on uniform trees: into all of them.
    """

    tree: Tree
    level: int
    group_TB: Tensor
    alive_TB: Tensor | None

    @property
    def nodes(self) -> slice:
        """The nodes of the level."""
        return self.tree.level_slices[self.level]

    @cached_property
    def room(self) -> int:
        """b, places a group is given."""
        return max(block.size for block in self.tree.blocks[self.level])

    @property
    def num_places(self) -> int:
        """C."""
        return self.group_TB.shape[1] * self.room

    @property
    def is_whole(self) -> bool:
        """Whether scoring the whole level is cheaper than what is asked of it."""
        num_nodes: int = self.nodes.stop - self.nodes.start
        return num_nodes <= _DENSE_PER_ASKED * self.num_places

    @cached_property
    def node_TC(self) -> Tensor:
        """int64, node of each place; some node of the level where a group has fewer children."""
        place_b = torch.arange(self.room, device=self.group_TB.device)
        if self.level == 0:
            return place_b.expand(len(self.group_TB), -1)
        node_TC = (self.starts(self.group_TB).unsqueeze(-1) + place_b).flatten(1)
        if self.alive_TB is None:
            return node_TC
        return node_TC.clamp(self.nodes.start, self.nodes.stop - 1)

    @cached_property
    def is_child_TC(self) -> Tensor | None:
        """Which places have a child of their group; None: all."""
        if self.alive_TB is None:
            return None
        place_b = torch.arange(self.room, device=self.group_TB.device)
        return (place_b < self.sizes(self.group_TB).unsqueeze(-1)).flatten(1)

    @cached_property
    def asked_TC(self) -> Tensor | None:
        """Which places have a node that the token looks at; None: all."""
        if self.alive_TB is None or self.is_child_TC is None:
            return None
        return self.is_child_TC & self.alive_TB.repeat_interleave(self.room, 1)

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """Pairs of a token and a group it looks into, by group: group, and number of its slot."""
        group_S = self.group_TB.flatten()
        if self.alive_TB is None:
            group_R, slot_R = group_S.sort()
            return group_R, slot_R
        slot_R = self.alive_TB.flatten().nonzero().flatten()
        group_R, order_R = group_S[slot_R].sort()
        return group_R, slot_R[order_R]

    def node_at(self, place: Tensor) -> Tensor:
        """Nodes of some places of each token. (T, K) -> (T, K)."""
        if self.alive_TB is not None:
            return self.node_TC.gather(1, place)
        group = self.group_TB.gather(1, place // self.room)
        return self.starts(group) + place % self.room

    def starts(self, group: Tensor) -> Tensor:
        """The first node of each group."""
        return self._table("start_G")[group]

    def sizes(self, group: Tensor) -> Tensor:
        """The number of children of each group."""
        return self._table("size_G")[group]

    def num_asked(self) -> int:
        """Nodes that tokens look at, over all tokens."""
        if self.asked_TC is None:
            return len(self.group_TB) * self.num_places
        return int(self.asked_TC.sum())

    def num_compared(self) -> int:
        """Nodes that tokens are compared with, over all tokens."""
        num_nodes = self.nodes.stop - self.nodes.start
        return len(self.group_TB) * num_nodes if self.is_whole else self.num_asked()

    def _table(self, name: str) -> Tensor:
        return self.tree.index(name, self.group_TB.device)
