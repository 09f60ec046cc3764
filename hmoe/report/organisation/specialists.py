"""Specialists: the nodes that take much more of a value's rows than of all rows.

Letters: C values of a label, P nodes of a cut.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from hmoe.metrics import vocabulary_specialisation
from hmoe.report.organisation.view import View, level_word

_LEAST = 8  # rows of a value, as in OLMoE (Muennighoff et al. 2024): of fewer, shares are chance
_MOST = 3  # of a label on a level


class SpecialistRow(NamedTuple):
    """A node and a value that it works on.

    Attributes:
        label, value: such as "package" and "json".
        level, node: what the level's nodes are called, and the node's name.
        share: of the value's rows, those at the node.
        load: share of all rows at the node.
    """

    label: str
    value: str
    level: str
    node: str
    share: float
    load: float


def specialist_rows(view: View) -> Sequence[SpecialistRow]:
    """Per label and level the pairs of node and value that add most to what the level tells.

    A pair adds p(value, node) log(share / load), so that both rare values and small differences
    come last; pairs below the node's load are none.
    """
    rows = []
    for known in view.layer.knowledge:
        for level in range(view.tree.num_levels):
            cut = view.tree.cut(level)
            counts_CP = torch.from_numpy(view.counts_CP(known, level))
            share_CP = vocabulary_specialisation(counts_CP, k=1, least=_LEAST).numpy()
            load_P = (counts_CP.sum(0) / counts_CP.sum().double()).numpy()
            with np.errstate(divide="ignore", invalid="ignore"):
                added_CP = counts_CP.numpy() * np.log(share_CP / load_P)
            added_CP = np.nan_to_num(added_CP, nan=0.0, neginf=0.0)
            for place in added_CP.argsort(axis=None, kind="stable")[::-1][:_MOST]:
                c, p = np.unravel_index(place, added_CP.shape)
                if added_CP[c, p] > 0:
                    rows.append(
                        SpecialistRow(
                            known.label,
                            known.values[c],
                            level_word(view.tree, level),
                            view.tree.path_N[cut[p]],
                            float(share_CP[c, p]),
                            float(load_P[p]),
                        )
                    )
    return rows
