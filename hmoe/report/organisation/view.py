"""One layer of an inspected run as figures, tables and words look at it.

Letters: N nodes, E experts, L levels, C values of a label, P nodes of a cut.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from hmoe.layer import Tree
from hmoe.metrics import Inspection, Knowledge, LayerInspection, level_counts, place_at_cut
from hmoe.report.numbers import number

Array = np.ndarray
SIGNIFICANT = 0.05  # share of permutations, for all that is asked of a run together


@dataclass(frozen=True, eq=False)
class View:
    """A layer with its organisation.

    Attributes:
        inspection: the record of the run.
        layer: one of its layers.
    """

    inspection: Inspection
    layer: LayerInspection

    @property
    def tree(self) -> Tree:
        return self.inspection.tree

    @cached_property
    def even_N(self) -> Array:
        """Share of all rows that each node would have if every expert got the same."""
        return np.array(self.tree.num_below_N) / self.tree.num_experts

    @cached_property
    def ratio_N(self) -> Array:
        """Load of each node over its even share: 1 is even, 0 is idle."""
        return self.layer.load_N / self.even_N

    def place_E(self, level: int) -> Array:
        """For each expert the place in the cut of a level of the node above it, or of itself."""
        return place_at_cut(self.tree, level, torch.device("cpu")).numpy()

    def counts_CP(self, knowledge: Knowledge, level: int) -> Array:
        """Rows by value of a label and node of a cut."""
        return level_counts(torch.from_numpy(knowledge.counts_CE), self.tree, level).numpy()

    @property
    def best_known(self) -> Knowledge | None:
        """The label of which the choice of experts tells the largest share."""
        return max(self.layer.knowledge, key=known_share, default=None)

    @property
    def knows(self) -> float:
        """The largest share of a label's entropy that the choice of experts tells."""
        return known_share(self.best_known) if self.best_known else 0.0


def views(inspection: Inspection) -> list[View]:
    """The layers of a run, the one that knows most of a label first."""
    return sorted((View(inspection, each) for each in inspection.layers), key=lambda v: -v.knows)


def net_L(knowledge: Knowledge) -> Array:
    """Information on each level beyond what chance gives; chance may give more, so 0 at least."""
    return np.clip(knowledge.information_L - knowledge.null_L, 0, None)


def significant_L(knowledge: Knowledge) -> Array:
    """Whether each level tells more of a label than permuted labels do."""
    return (knowledge.p_L <= SIGNIFICANT) & (net_L(knowledge) > 0)


def known_L(knowledge: Knowledge) -> Array:
    """Information on each level beyond chance, 0 where chance often gives as much."""
    return np.where(significant_L(knowledge), net_L(knowledge), 0.0)


def known_share(knowledge: Knowledge) -> float:
    """Share of a label's entropy that the choice of experts tells beyond chance."""
    return float(known_L(knowledge).sum() / knowledge.entropy) if knowledge.entropy > 0 else 0.0


def level_word(tree: Tree, level: int) -> str:
    """What the nodes of a level are called: departments, teams, ..., experts on the last."""
    if level == tree.num_levels - 1:
        return "experts"
    return ("departments", "teams")[level] if level < 2 else f"level {level}"


def counted(tree: Tree, level: int, count: int) -> str:
    """So many nodes of a level, such as "4 departments"."""
    word = level_word(tree, level)
    return f"{number(count)} {f'on {word}' if word.startswith('level') else word}"


def node_words(tree: Tree, node: int) -> str:
    """A node in words, such as "team `b` of department `web`"."""
    path = tree.path_N[node].split(".")
    if node in _experts(tree):
        return f"expert `{'.'.join(path)}`"
    if len(path) > 2:
        return f"unit `{'.'.join(path)}`"
    department = f"department `{path[0]}`"
    return f"team `{path[1]}` of {department}" if len(path) == 2 else department


def idle_nodes(view: View) -> list[int]:
    """Nodes without a row, of each branch the topmost."""
    parent_N, load_N = view.tree.parent_N, view.layer.load_N
    return [
        node
        for node in np.flatnonzero(load_N == 0).tolist()
        if parent_N[node] < 0 or load_N[parent_N[node]] > 0
    ]


def _experts(tree: Tree) -> frozenset[int]:
    return frozenset(tree.node_E)
