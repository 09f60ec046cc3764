"""Tables of an organisation: per level its load and what it knows, over the seeds of an arm.

Letters: L levels, T tokens, E experts.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch

from hmoe.metrics import NONE, Inspection, Knowledge, agreement
from hmoe.report.numbers import number
from hmoe.report.organisation.view import View, level_word
from hmoe.report.tables import Spread, spread

_MOST_COMPARED = 256  # nodes of a level: adjusted information of more takes minutes


class LevelRow(NamedTuple):
    """One level, as mean and spread over runs; None where nothing was measured.

    Attributes:
        level: what its nodes are called.
        num_nodes: of its cut.
        cv: coefficient of variation of the load.
        entropy: normalised entropy of the load, 1 is even.
        part: share of the whole unevenness (KL) that arises here.
        doubt: mean entropy of the gate over its largest value.
        margin: mean lead of the best sibling over the second, in log-probability.
        saturation: choices half-way through the training that are those of its end.
    """

    level: str
    num_nodes: int
    cv: Spread | None
    entropy: Spread | None
    part: Spread | None
    doubt: Spread | None
    margin: Spread | None
    saturation: Spread | None


class KnowledgeRow(NamedTuple):
    """What one level tells of one label.

    Attributes:
        information: nats that the level adds, what chance gives taken off.
        p: the largest share of permutations with as much, over runs; NaN if none tells.
        ami, clusters_ami: adjusted mutual information of nodes, and of k-means clusters.
    """

    label: str
    level: str
    information: Spread | None
    p: float
    ami: Spread | None
    clusters_ami: Spread | None


class AgreementRow(NamedTuple):
    """How alike two runs sort the same tokens into the nodes of a level, as AMI over pairs."""

    level: str
    pairs: int
    ami: Spread | None


def level_rows(same: Sequence[View]) -> list[LevelRow]:
    """One row a level of a layer, over runs that have the same tree."""
    tree = same[0].tree
    return [
        LevelRow(
            level_word(tree, level),
            len(tree.cut(level)),
            _over(same, lambda v, i=level: v.layer.load["cv"][i] if "cv" in v.layer.load else None),
            _over(
                same,
                lambda v, i=level: (
                    v.layer.load["entropy"][i] if "entropy" in v.layer.load else None
                ),
            ),
            _over(same, lambda v, i=level: _part(v, i)),
            _over(same, lambda v, i=level: v.layer.entropy_L[i]),
            _over(same, lambda v, i=level: v.layer.margin_L[i]),
            _over(same, lambda v, i=level: _half_way(v, i)),
        )
        for level in range(tree.num_levels)
    ]


def knowledge_rows(same: Sequence[View]) -> list[KnowledgeRow]:
    """One row a label and level, over the runs that know the label."""
    tree = same[0].tree
    labels = dict.fromkeys(k.label for view in same for k in view.layer.knowledge)
    rows = []
    for name in labels:
        known = [k for view in same for k in view.layer.knowledge if k.label == name]
        for level in range(tree.num_levels):
            rows.append(_knowledge_row(name, level_word(tree, level), known, level))
    return rows


def agreement_rows(same: Sequence[View]) -> list[AgreementRow]:
    """One row a level, over pairs of runs that were inspected on the same tokens."""
    tree, rows = same[0].tree, []
    pairs = [
        (a, b)
        for a, b in combinations(same, 2)
        if a.inspection.tokens == b.inspection.tokens
        and len(a.layer.choice_T) == len(b.layer.choice_T)
    ]
    for level in range(tree.num_levels):
        if pairs and 1 < len(tree.cut(level)) <= _MOST_COMPARED:
            found = [agreement(_nodes_T(a, level), _nodes_T(b, level)) for a, b in pairs]
            rows.append(AgreementRow(level_word(tree, level), len(pairs), spread_of(found)))
    return rows


def _nodes_T(view: View, level: int) -> torch.Tensor:
    """The place in a cut of each token's heaviest expert, `NONE` for a token without."""
    choice_T = view.layer.choice_T
    return torch.from_numpy(np.where(choice_T == NONE, NONE, view.place_E(level)[choice_T]))


def spread_of(values: Sequence[float]) -> Spread | None:
    """Summary of those values that are numbers; None if none is."""
    return spread(float(v) for v in values if np.isfinite(v))


def _over(same: Sequence[View], measure: Callable[[View], float | None]) -> Spread | None:
    return spread_of([v for view in same if (v := measure(view)) is not None])


def _part(view: View, level: int) -> float | None:
    kl_L = view.layer.decomposition.get("kl")
    return None if kl_L is None or kl_L.sum() <= 0 else float(kl_L[level] / kl_L.sum())


def _half_way(view: View, level: int) -> float | None:
    """Saturation at the moment nearest to half of the steps; not where the end is nearest."""
    history = view.layer.history
    if history is None or len(history.step_S) < 2:
        return None
    nearest = int(np.abs(history.step_S[:-1] - history.step_S[-1] / 2).argmin())
    return float(history.saturation_SL[nearest, level])


def _knowledge_row(name: str, word: str, known: Sequence[Knowledge], level: int) -> KnowledgeRow:
    p = [float(k.p_L[level]) for k in known if np.isfinite(k.p_L[level])]
    return KnowledgeRow(
        name,
        word,
        spread_of([k.information_L[level] - k.null_L[level] for k in known]),
        max(p, default=float("nan")),
        spread_of([k.ami_L[level] for k in known]),
        spread_of([k.clusters_ami_L[level] for k in known]),
    )


def same_organisation(inspections: Sequence[Inspection]) -> list[Inspection]:
    """The runs asked about the same tokens that have the tree of the median loss, that one first.

    Of several sets of tokens it is the one that most runs were asked about; where two are equal,
    that of the run with the median loss of all, else the first.
    """
    numbers = Counter(each.tokens for each in inspections)
    most = [tokens for tokens, runs in numbers.items() if runs == max(numbers.values())]
    middle = _median(inspections).tokens
    asked = middle if middle in most else most[0]
    comparable = [each for each in inspections if each.tokens == asked]
    typical = _median(comparable)
    rest = [each for each in comparable if each is not typical]
    return [typical, *(each for each in rest if each.tree_spec == typical.tree_spec)]


def _median(inspections: Sequence[Inspection]) -> Inspection:
    by_loss = sorted(inspections, key=lambda each: each.loss)
    return by_loss[(len(by_loss) - 1) // 2]


def left_out(inspections: Sequence[Inspection], same: Sequence[Inspection]) -> str:
    """Which runs are not among those put together, and why, in words; "" if all are."""
    told = []
    for each in inspections:
        if each.tokens != same[0].tokens:
            told.append(
                f"{each.run} (inspected on other tokens: {number(each.num_tokens)} of {each.split})"
            )
        elif all(each is not one for one in same):
            told.append(f"{each.run} (has another tree)")
    return ", ".join(told)
