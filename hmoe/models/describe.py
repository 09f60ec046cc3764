"""Describing a model: its organisation drawn in ASCII, and what it costs."""

from torch import nn

from hmoe.layer import HMoE, SoftMoE, Tree
from hmoe.layer.tree import ROOT
from hmoe.models.cost import cost
from hmoe.models.mixture import Mixture

# A unit with more experts than this is drawn as its first few and a count.
_MOST_EXPERTS = 8
# Of a tree with more nodes only the first path down is drawn.
_MOST_NODES = 1000


def description(model: nn.Module) -> str:
    """The tree of the model's mixtures, if it has any, and the model's costs, as lines of text."""
    model_cost = cost(model)
    lines = []
    layer = next((m for m in model.modules() if isinstance(m, HMoE | Mixture | SoftMoE)), None)
    if layer is not None:
        lines += [draw(layer.tree), ""]
    met = f"{model_cost.experts_per_token:.3g}"
    if isinstance(layer, HMoE) and (heads := layer.gate.num_heads) > 1:
        met += f" ({heads} gates of {model_cost.experts_per_token / heads:.3g})"
    facts = {
        "parameters": f"{model_cost.total_params:,}",
        "active parameters": f"{model_cost.active_params:,.0f}",
        "gate parameters": f"{model_cost.gate_params:,}",
        "FLOPs per token": f"{model_cost.flops_per_token:,.0f} (forward)",
        "mixture layers": f"{model_cost.num_mixtures}",
        "experts per token": met,
    }
    return "\n".join([*lines, *(f"{name:18} {value}" for name, value in facts.items())])


def draw(tree: Tree) -> str:
    """The organisation as an ASCII tree, one node a line; of a large one the first path down."""
    children: dict[int, list[int]] = {ROOT: []}
    for node, parent in enumerate(tree.parent_N):
        children.setdefault(parent, []).append(node)
    lines = [f"company ({tree.num_experts:,} experts, {_counted(tree.num_levels, 'level')})"]

    def below(node: int, indent: str) -> None:
        own = children[node]
        if tree.num_nodes > _MOST_NODES:
            hidden = set(own[1:])
        else:
            hidden = set([n for n in own if n not in children][_MOST_EXPERTS:])
        shown = [n for n in own if n not in hidden]
        for child in shown:
            last = child == shown[-1] and not hidden
            name = tree.path_N[child].rpartition(".")[2]
            unit = f" ({tree.num_below_N[child]:,} experts)" if child in children else ""
            lines.append(f"{indent}{'`' if last else '|'}-- {name}{unit}")
            if child in children:
                below(child, indent + ("    " if last else "|   "))
        if hidden:
            units = len(hidden & children.keys())
            more = f"{units:,} more units of " if units else ""
            num_experts = sum(tree.num_below_N[n] for n in hidden)
            noun = "expert" if units else "more expert"
            lines.append(f"{indent}`-- ... {more}{_counted(num_experts, noun)}")

    below(ROOT, "")
    return "\n".join(lines)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
