"""The algorithm, torch only. Read it in this order: tree_spec, tree, tree_ops, scores, scorers,
gates, bottom_up, branch, heads, routing, selection (with checks, beam, capacity), expert_choice,
streams, experts, staff, dispatch, hmoe. Then by itself: looks, asking, descent, lazy and neurons
(very large trees), soft_moe, and outline, rows, move, moving_gates, moving, dealing (trees that
change)."""

from hmoe.layer.bottom_up import BottomUp
from hmoe.layer.branch import Branch
from hmoe.layer.dealing import dealt
from hmoe.layer.expert_choice import expert_choice
from hmoe.layer.experts import Mlp, SwiGlu
from hmoe.layer.gates import Tied, TopDown
from hmoe.layer.heads import Heads
from hmoe.layer.hmoe import HMoE
from hmoe.layer.lazy import LazyHMoE
from hmoe.layer.move import Move, move_optimizer
from hmoe.layer.moving import drop, regroup, reinitialise, split_expert
from hmoe.layer.neurons import Neurons
from hmoe.layer.routing import Routing
from hmoe.layer.scores import Choice, Scores
from hmoe.layer.selection import Selection, descend, soft, top_k
from hmoe.layer.soft_moe import SoftMoE
from hmoe.layer.staff import ByUnit, Constant, Identity, Shared, Zero
from hmoe.layer.streams import own_stream
from hmoe.layer.tree import Tree

__all__ = [
    "BottomUp",
    "Branch",
    "ByUnit",
    "Choice",
    "Constant",
    "HMoE",
    "Heads",
    "Identity",
    "LazyHMoE",
    "Mlp",
    "Move",
    "Neurons",
    "Routing",
    "Scores",
    "Selection",
    "Shared",
    "SoftMoE",
    "SwiGlu",
    "Tied",
    "TopDown",
    "Tree",
    "Zero",
    "dealt",
    "descend",
    "drop",
    "expert_choice",
    "move_optimizer",
    "own_stream",
    "regroup",
    "reinitialise",
    "soft",
    "split_expert",
    "top_k",
]
