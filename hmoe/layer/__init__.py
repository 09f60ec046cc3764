"""The algorithm, torch only. Read it in this order: tree_spec, tree, tree_ops, routing, gates,
selection, experts, dispatch, hmoe."""

from hmoe.layer.experts import Mlp, SwiGlu
from hmoe.layer.gates import BottomUp, TopDown
from hmoe.layer.hmoe import HMoE
from hmoe.layer.neurons import Neurons
from hmoe.layer.routing import Routing
from hmoe.layer.selection import Selection, descend, soft, top_k
from hmoe.layer.tree import Tree

__all__ = [
    "BottomUp",
    "HMoE",
    "Mlp",
    "Neurons",
    "Routing",
    "Selection",
    "SwiGlu",
    "TopDown",
    "Tree",
    "descend",
    "soft",
    "top_k",
]
