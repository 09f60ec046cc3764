"""An inspection in the terminal: a table a layer, a line a level, nodes by their names.

Letters: C nodes of a cut, L levels.
"""

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hmoe.layer import Tree
from hmoe.metrics import Inspection, LayerInspection

_NAMED = 3  # busiest and idle nodes that are named


def print_inspection(console: Console, inspection: Inspection) -> None:
    """Print what a level shows of balance and of each label, and which nodes matter most."""
    seen = f"{inspection.num_tokens:,} tokens of {inspection.split}, step {inspection.step}"
    console.print(escape(f"{inspection.run}: {seen}, loss {inspection.loss:.4f}"))
    for layer in inspection.layers:
        console.print(_balance(layer, inspection.tree))
        if layer.knowledge:
            console.print(_labels(layer, inspection.tree))
        for line in _lines(layer, inspection.tree):
            console.print(escape(line))
    console.print(
        "knows: share of the label's entropy that the level adds, less what chance gives; AMI: "
        "adjusted mutual information of label and cut; k-means: that of clusters of the inputs.",
        style="dim",
    )


def _balance(layer: LayerInspection, tree: Tree) -> Table:
    table = Table(title=escape(layer.name), title_justify="left")
    for column in ("level", "nodes", "load CV", "most", "entropy", "margin"):
        table.add_column(column, justify="right")
    table.add_column("busiest")
    table.add_column("idle")
    for level in range(tree.num_levels):
        table.add_row(
            str(level),
            f"{len(tree.cut(level)):,}",
            _number(layer.load["cv"][level]),
            _number(layer.load["max_violation"][level] + 1),
            _number(layer.entropy_L[level]),
            _number(layer.margin_L[level]),
            *(escape(text) for text in _busiest_and_idle(layer, tree, level)),
        )
    return table


def _labels(layer: LayerInspection, tree: Tree) -> Table:
    table = Table()
    table.add_column("label")
    for column in ("level", "knows", "p", "AMI", "k-means"):
        table.add_column(column, justify="right")
    for known in layer.knowledge:
        for level in range(tree.num_levels):
            net = known.information_L[level] - known.null_L[level]
            table.add_row(
                escape(known.label) if level == 0 else "",
                str(level),
                f"{100 * net / known.entropy:.1f} %" if known.entropy > 0 else "-",
                _number(known.p_L[level]),
                _number(known.ami_L[level]),
                _number(known.clusters_ami_L[level]),
                end_section=level == tree.num_levels - 1,
            )
    return table


def _busiest_and_idle(layer: LayerInspection, tree: Tree, level: int) -> tuple[str, str]:
    cut = np.array(tree.cut(level))
    load_C = layer.load_N[cut]
    busiest = cut[(-load_C).argsort(kind="stable")[:_NAMED]]
    idle = cut[load_C == 0]
    more = f" and {len(idle) - _NAMED:,} more" if len(idle) > _NAMED else ""
    names = ", ".join(tree.path_N[node] for node in idle[:_NAMED])
    told = ", ".join(f"{tree.path_N[node]} {100 * layer.load_N[node]:.0f} %" for node in busiest)
    return told, names + more or "-"


def _lines(layer: LayerInspection, tree: Tree) -> list[str]:
    """What is known of the layer as a whole."""
    lines = []
    tried = np.flatnonzero(~np.isnan(layer.masked_N))
    if len(tried):
        worst = tried[(-layer.masked_N[tried]).argsort(kind="stable")[:_NAMED]]
        told = ", ".join(f"{tree.path_N[node]} {layer.masked_N[node]:+.4f}" for node in worst)
        lines.append(f"loss rises most without: {told}")
    if layer.recall:
        told = ", ".join(f"{policy} {share:.3f}" for policy, share in layer.recall.items())
        lines.append(f"experts of the exact search that others find: {told}")
    if not np.isnan(layer.locality):
        near = f"{layer.locality:.3f}, drawn at random {layer.locality_random:.3f}"
        lines.append(f"distance in the tree between the experts of a token: {near}")
    if layer.history is not None and len(layer.history.step_S) > 1:
        shares = layer.history.saturation_SL[0]
        told = ", ".join(f"level {level} {share:.2f}" for level, share in enumerate(shares))
        lines.append(f"choices of step {layer.history.step_S[0]} that stayed: {told}")
    return lines


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"
