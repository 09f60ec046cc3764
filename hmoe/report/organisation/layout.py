"""Where the boxes of an organisation chart lie: upper levels as boxes, crowded ones as strips.

Boxes are measured in slots: every box without boxes beneath has one. The root's box is at y = 0, a
level at -1 - level. A strip has the nodes of one level in their order, a column after the other,
so that below a uniform level each unit has its own columns.

Letters: N nodes, E experts.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np

from hmoe.layer import Tree

MOST_BOXES = 40  # a level with more nodes, and those below, are strips
_CELLS, _COLUMNS = 4096, 256  # at most, in one strip


@dataclass(frozen=True)
class Layout:
    """A chart without its colours.

    Attributes:
        num_slots: width of the chart.
        num_boxes: nodes 0 ... num_boxes - 1 are boxes.
        x_N: middle of each box, in slots.
        width_N: slots that are beneath it.
        strips: levels that are strips.
    """

    num_slots: int
    num_boxes: int
    x_N: tuple[float, ...]
    width_N: tuple[int, ...]
    strips: tuple[int, ...]


def lay_out_tree(tree: Tree) -> Layout:
    """The chart of a tree; boxes are as in the tree, from left to right."""
    sizes = [level.stop - level.start for level in tree.level_slices]
    boxed = next((i for i, n in enumerate(sizes) if n > MOST_BOXES), tree.num_levels)
    num_boxes = sum(sizes[:boxed])
    children: dict[int, list[int]] = {}
    for node in range(num_boxes):
        children.setdefault(tree.parent_N[node], []).append(node)
    x_N, width_N = [0.0] * num_boxes, [1] * num_boxes

    def place(node: int, left: int) -> int:
        """Put a node and all beneath it from slot `left` on; returns the first slot after it."""
        right = left
        for child in children.get(node, []):
            right = place(child, right)
        right = max(right, left + 1)
        if node >= 0:
            x_N[node], width_N[node] = (left + right) / 2, right - left
        return right

    num_slots = place(-1, 0)
    return Layout(
        num_slots, num_boxes, tuple(x_N), tuple(width_N), tuple(range(boxed, tree.num_levels))
    )


@dataclass(frozen=True)
class Cells:
    """A strip of neighbouring nodes as a grid, filled column by column.

    Attributes:
        starts: first node of each cell.
        stop: the node after the last cell.
        rows: cells in a column.
    """

    starts: tuple[int, ...]
    stop: int
    rows: int

    @property
    def columns(self) -> int:
        return ceil(len(self.starts) / self.rows)

    def grid(self, values: np.ndarray) -> np.ndarray:
        """One value a cell as (rows, columns); NaN where no cell is left."""
        full = np.full(self.rows * self.columns, np.nan)
        full[: len(values)] = values
        return full.reshape(self.columns, self.rows).T

    def means(self, values_N: np.ndarray) -> np.ndarray:
        """Mean of the nodes of each cell."""
        sums = np.add.reduceat(values_N[: self.stop], self.starts)
        return sums / np.diff([*self.starts, self.stop])


def strip_cells(tree: Tree, level: int) -> Cells:
    """The cells of a level: one a node, or where they are too many, one for neighbours."""
    here = tree.level_slices[level]
    step = ceil((here.stop - here.start) / _CELLS)
    starts = tuple(range(here.start, here.stop, step))
    return Cells(starts, here.stop, ceil(len(starts) / _COLUMNS))
