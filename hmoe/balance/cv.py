"""Squared coefficients of variation of what nodes receive: Shazeer's pair, at every level.

A level is measured on its cut, the nodes of the level together with the experts above it, so its
value holds the unevenness of the levels above as well. The even share of a node is its share of all
experts. Zero is equal per expert; all at one of b equal nodes is b - 1.

Letters: N nodes, E experts.
"""

from torch import Tensor

from hmoe.balance.smooth import smooth_load
from hmoe.layer import Routing, Tree
from hmoe.layer.tree_ops import sum_below


def importance_cv2(routing: Routing) -> dict[str, Tensor]:
    """CV^2 of importance, the sum of the weights that a node's rows have: 0 at equal weights.

    Shazeer et al. (2017), eq. 6-7: Importance(i) = sum over tokens of G(x)_i with the sparse gate
    G, that is the weights of rows, whatever the selection makes of them; a unit's is the sum over
    the experts below it, Importance_H of appendix B. V-MoE (Riquelme et al. 2021) sums the
    probabilities of all experts instead: that is `spread_loss` in another measure.
    """
    routing = routing.before_drops
    weight_E = routing.weight_R.new_zeros(routing.tree.num_experts)
    weight_E = weight_E.index_add(0, routing.expert_R, routing.weight_R)
    return _cv2(sum_below(weight_E, routing.tree), routing.tree)


def load_cv2(routing: Routing) -> dict[str, Tensor]:
    """CV^2 of the smooth load: 0 at equal load. Shazeer et al. (2017), eq. 11.

    Needs a gate with learnt noise to have a gradient; without, it is CV^2 of the rows (see
    `smooth_load`, also for what Load_H is on trees of more than two levels).
    """
    return _cv2(smooth_load(routing), routing.tree)


def _cv2(value_N: Tensor, tree: Tree) -> dict[str, Tensor]:
    """sum_c even_c (share_c / even_c - 1)^2 over each cut: var / mean^2 among equal nodes."""
    even_N = tree.index("num_below_N", value_N.device) / tree.num_experts
    level_N = tree.index("level_N", value_N.device)
    is_expert_N = tree.index("is_expert_N", value_N.device)
    values = {}
    for level in range(tree.num_levels):
        in_cut_N = (level_N == level) | ((level_N < level) & is_expert_N)
        value_C = value_N * in_cut_N
        share_N = value_C / value_C.sum().clamp(min=1e-20)
        term_N = even_N * (share_N / even_N - 1).square()
        values[f"level_{level}"] = (term_N * in_cut_N).sum()
    return values
