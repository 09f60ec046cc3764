"""Which level of the organisation is uneven: three measures of imbalance, each a sum over levels.

Every node has received `ratio` times its even load: its share of all rows, over its share of all
experts. The root's ratio is 1. A level adds what its nodes' ratios differ from their parents', and
nothing is left over: the sums are the measures among all experts, exactly, on any tree. A
department that is overloaded as a whole shows on level 0; a team with a favourite expert on the
level of its experts.

Letters: N nodes, E experts, L levels, C nodes of a cut.
"""

import torch
from torch import Tensor

from hmoe.layer import Tree
from hmoe.layer.tree import ROOT
from hmoe.layer.tree_ops import sum_below


def decompose(load_E: Tensor, tree: Tree) -> dict[str, Tensor]:
    """What each level adds to the imbalance among experts: name -> (L,) float64.

    With F the share of all rows, U the even share, f and u the same among siblings, v the parents:

    "kl": sum_v F_v KL(f_.|v || u_.|v), the chain rule. The sum is KL(F || U) over the experts, in
        nats: ln E less the entropy of the load.
    "cv2": sum_c U_c (ratio_c - ratio_v)^2 over the nodes c of the level, the law of total variance
        under U. The sum is the squared `cv` of the experts.
    "violation": ln(f_c|v / u_c|v) for the node c of the level that is on the path to the busiest
        expert, the first of equals; 0 below it. The sum is ln(1 + `max_violation`) of the experts:
        exp makes it factors. Negative where that expert is in a node less busy than its siblings.

    All are 0 at even load. Without any rows they are NaN.
    """
    share_N = sum_below(load_E, tree).double() / load_E.sum()
    even_N = tree.index("num_below_N", load_E.device).double() / tree.num_experts
    ratio_N = share_N / even_N
    parent_N = tree.index("parent_N", load_E.device)
    # One place more, where -1 finds the root.
    above_N = torch.cat([ratio_N, ratio_N.new_ones(1)])[parent_N]
    # Rows of a node are its parent's: where the parent has none, 0 of 0 is left out.
    factor_N = torch.where(share_N > 0, ratio_N / above_N, share_N)
    path_N = torch.zeros_like(share_N)
    path_N[path_to(int(load_E.argmax()), tree)] = 1
    parts = {
        "kl": share_N.xlogy(factor_N),
        "cv2": even_N * (ratio_N - above_N).square(),
        "violation": path_N.xlogy(factor_N),
    }
    return {
        name: torch.stack([part_N[here].sum() for here in tree.level_slices])
        for name, part_N in parts.items()
    }


def path_to(expert: int, tree: Tree) -> list[int]:
    """The nodes on the path to an expert, itself included, from the bottom up."""
    node = tree.node_E[expert]
    path = []
    while node != ROOT:
        path.append(node)
        node = tree.parent_N[node]
    return path


def level_counts(counts_E: Tensor, tree: Tree, level: int) -> Tensor:
    """Sum over the experts at or below every node of a level's cut. (..., E) -> (..., C)."""
    total_C = counts_E.new_zeros(*counts_E.shape[:-1], len(tree.cut(level)))
    return total_C.index_add(-1, place_at_cut(tree, level, counts_E.device), counts_E)


def place_at_cut(tree: Tree, level: int, device: torch.device) -> Tensor:
    """Where in a level's cut the node is that each expert is at or below: (E,) int64."""
    node, expert = tree.index("below_node", device), tree.index("below_expert", device)
    cut = torch.tensor(tree.cut(level), device=device)
    place_N = torch.full((tree.num_nodes,), -1, device=device)
    place_N[cut] = torch.arange(len(cut), device=device)
    in_cut = place_N[node] >= 0
    place_E = torch.empty(tree.num_experts, dtype=torch.int64, device=device)
    place_E[expert[in_cut]] = place_N[node[in_cut]]
    return place_E
