"""Every tree and variant once, in canonical small instances: the one place to add to."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from hmoe.layer import BottomUp, HMoE, Mlp, Routing, SwiGlu, TopDown, Tree, descend, soft, top_k
from hmoe.layer.tree_ops import sibling_softmax
from hmoe.models import Dense, ResidualMlp, Transformer

TREES = {
    "flat": [8],
    "grid": [3, 4],
    "deep": [2, 2, 3],
    "ragged": {"sales": {"emea": 2, "us": 3}, "support": 2, "legal": 1},
    "lopsided": {"a": 1, "b": {"c": 1, "d": {"e": 1, "f": 2}}},
}
GATES = {
    "top_down": partial(TopDown, init_std=1.0),
    "bottom_up": partial(BottomUp, init_std=1.0),
}
EXPERTS = {
    "mlp": partial(Mlp, hidden_dim=8, implementation="loop"),
    "swiglu": partial(SwiGlu, hidden_dim=8, implementation="loop"),
}
SELECTIONS = {
    "soft": soft,
    "top_1": partial(top_k, k=1, beam=None, renormalize=False),
    "top_2": partial(top_k, k=2, beam=None, renormalize=True),
    "beam_1": partial(top_k, k=1, beam=1, renormalize=False),
    "beam_2": partial(top_k, k=2, beam=2, renormalize=True),
    "descend_1": partial(descend, k=1, renormalize=False),
    "descend_2": partial(descend, k=2, renormalize=True),
}
# All that go together: a beam needs units to keep.
CASES = [
    (tree, selection)
    for tree in TREES
    for selection in SELECTIONS
    if not (selection.startswith("beam") and tree == "flat")
]
DIM = 8
MODELS = {
    "mlp": partial(ResidualMlp, in_dim=5, out_dim=3, dim=DIM, depth=2),
    "transformer": partial(
        Transformer,
        in_dim=11,
        out_dim=7,
        context=6,
        dim=DIM,
        depth=3,
        num_heads=2,
        ffn_blocks=[0, 2],
        plain_ffn=partial(Dense, experts=partial(Mlp, hidden_dim=16, implementation="loop")),
    ),
}


def make_layer(
    tree: str, selection: str, gate: str = "top_down", experts: str = "mlp", seed: int = 0
) -> HMoE:
    """A small layer of a named combination."""
    torch.manual_seed(seed)
    return mixture(tree, selection, gate, experts)(dim=DIM)


def mixture(
    tree: str, selection: str, gate: str = "top_down", experts: str = "mlp"
) -> Callable[..., HMoE]:
    """The feed-forward of a model, a mixture: called as ffn(dim=)."""
    return partial(
        HMoE,
        tree=Tree.from_spec(TREES[tree]),
        gate=GATES[gate],
        selection=SELECTIONS[selection],
        experts=EXPERTS[experts],
    )


def dense(experts: str = "mlp") -> Callable[..., Dense]:
    """The feed-forward of a dense control: called as ffn(dim=)."""
    return partial(Dense, experts=EXPERTS[experts])


def make_routing(
    tree: Tree, experts_T: Sequence[Sequence[int]], probs_TN: torch.Tensor | None = None
) -> Routing:
    """A routing written out: the experts of every token, and even probabilities unless given."""
    token_R = [token for token, experts in enumerate(experts_T) for _ in experts]
    expert_R = [expert for experts in experts_T for expert in experts]
    if probs_TN is None:
        probs_TN = sibling_softmax(torch.zeros(len(experts_T), tree.num_nodes), tree)
    return Routing(
        tree,
        torch.tensor(token_R, dtype=torch.int64),
        torch.tensor(expert_R, dtype=torch.int64),
        torch.ones(len(expert_R)),
        probs_TN,
    )


def make_input(model: str, batch: int = 4) -> torch.Tensor:
    """An input of one of `MODELS`."""
    return torch.randn(batch, 5) if model == "mlp" else torch.randint(0, 11, (batch, 6))
