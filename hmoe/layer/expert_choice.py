"""Expert choice: experts take tokens, not tokens experts, so every load is even by construction.

Letters: T tokens, N nodes, E experts, C tokens that one node takes.
"""

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor

from hmoe.errors import ConfigError
from hmoe.layer.checks import per_level
from hmoe.layer.routing import Routing
from hmoe.layer.scores import Choice, Scores
from hmoe.layer.selection import seen_rows
from hmoe.layer.tree import ROOT
from hmoe.layer.tree_ops import at_experts


def expert_choice(scores: Scores, choice: Choice, *, k: float | Sequence[float]) -> Routing:
    """Every expert takes the C = ceil(k T / E) tokens that want it most.

    Zhou et al. (2022). A token's weight for an expert is its path weight; a token may get
    from none to E experts. A decision depends on the other tokens of the batch, later ones too: do
    not read language model losses under it as those of a causal model.

    With one k a level the choice goes down the tree: a node of share s (of its parent's experts)
    takes ceil(k s C) of its parent's C tokens, at most all of them, and its children choose among
    these alone. So loads are even at every node.

    Args:
        k: experts per token as a mean over tokens; one number for the experts of the whole tree,
            or one a level whose product that is.

    Raises:
        ConfigError: k that is not positive or above the number of experts, a list of another
            length.
    """
    tree = scores.tree
    k_L: list[float] = per_level("selection.k", k, tree.num_levels)
    if not all(0 < one <= tree.num_experts for one in k_L):
        raise ConfigError(
            f"selection.k = {k!r}: must be above 0, and at most {tree.num_experts}, the number of "
            "experts."
        )
    if isinstance(k, Sequence):
        taken = _down(scores, choice, k_L)
    else:
        taken = _flat(at_experts(choice.weight_TN, tree), k)
    expert_R = torch.cat([torch.full_like(token_C, e) for e, token_C in enumerate(taken)])
    token_R = torch.cat(taken)
    pair_R = (token_R * tree.num_experts + expert_R).sort().values
    weight_R = at_experts(scores.weight_TN, tree).flatten().index_select(0, pair_R)
    routing = Routing(scores, pair_R // tree.num_experts, pair_R % tree.num_experts, weight_R)
    return seen_rows(routing, choice)  # an expert shown to too few tokens took others as well


def _flat(choice_TE: Tensor, k: float) -> list[Tensor]:
    """For every expert the tokens it takes of all."""
    num_tokens, num_experts = choice_TE.shape
    return list(choice_TE.topk(_size(k * num_tokens / num_experts, num_tokens), 0).indices.T)


def _down(scores: Scores, choice: Choice, k_L: Sequence[float]) -> list[Tensor]:
    """For every expert the tokens it takes of its unit's."""
    tree = scores.tree
    tokens: dict[int, Tensor] = {
        ROOT: torch.arange(choice.weight_TN.shape[0], device=choice.weight_TN.device)
    }
    for node, parent in enumerate(tree.parent_N):
        available = tokens[parent]
        size = _size(k_L[tree.level_N[node]] * tree.share_N[node] * len(available), len(available))
        wanted = choice.weight_TN[:, node].index_select(0, available)
        tokens[node] = available.index_select(0, wanted.topk(size).indices)
    return [tokens[node] for node in tree.node_E]


def _size(wanted: float, available: int) -> int:
    """Rounded before the ceiling, so that 3 * (1 / 3) stays 1."""
    return min(ceil(round(wanted, 6)), available)
