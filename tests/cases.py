"""Every tree and variant once, in canonical small instances: the one place to add to."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from hmoe.layer import (
    BottomUp,
    ByUnit,
    Choice,
    Constant,
    Heads,
    HMoE,
    Identity,
    Mlp,
    Neurons,
    Routing,
    Scores,
    Shared,
    SwiGlu,
    Tied,
    TopDown,
    Tree,
    Zero,
    descend,
    expert_choice,
    soft,
    top_k,
)
from hmoe.layer.tree_ops import path_product, sibling_softmax
from hmoe.models import Dense, ResidualMlp, Transformer

TREES = {
    "flat": [8],
    "grid": [3, 4],
    "deep": [2, 2, 3],
    "ragged": {"sales": {"emea": 2, "us": 3}, "support": 2, "legal": 1},
    "lopsided": {"a": 1, "b": {"c": 1, "d": {"e": 1, "f": 2}}},
}
PLAIN_GATE = {
    "score": "linear",
    "width": None,
    "init_std": 1.0,
    "temperature": 1.0,
    "noise": "none",
    "link": "softmax",
}


def top_down(**options) -> Callable[..., TopDown]:
    """A top-down gate, with the plain options unless given."""
    return partial(TopDown, **(PLAIN_GATE | options))


def bottom_up(**options) -> Callable[..., BottomUp]:
    """A bottom-up gate, with the plain options unless given."""
    return partial(BottomUp, **({**PLAIN_GATE, "pool": "logsumexp"} | options))


def tied(**options) -> Callable[..., Tied]:
    """A gate tied per level, with the plain options unless given."""
    return partial(Tied, **(PLAIN_GATE | options))


def heads(num: int = 2, visible=None, gate=None, merge: str = "sum"):
    """Several gates, plain ones unless given."""
    return partial(Heads, num=num, gate=gate or top_down(), visible=visible, merge=merge)


def best(k: int, **options):
    """`top_k`, weighed by the path unless given."""
    plain = {"beam": None, "weights": "probs", "scale": 1.0, "capacity": None, "drop": "order"}
    return partial(top_k, k=k, **(plain | options))


def down(k, **options):
    """`descend`, weighed by the path unless given."""
    return partial(
        descend, k=k, **({"weights": "probs", "capacity": None, "drop": "order"} | options)
    )


# Gates that go with every tree.
GATES = {
    "top_down": top_down(),
    "bottom_up": bottom_up(),
    "cosine": top_down(score="cosine", temperature=0.3),
    "laplace": top_down(score="laplace"),
    "gaussian": top_down(score="gaussian", width=4, temperature=2.0),
    "mlp": top_down(score="mlp", width=6),
    "sigmoid": top_down(link="sigmoid"),
    "groups": bottom_up(link="sigmoid", pool="top_2_sum"),
    "strongest": bottom_up(score="cosine", pool="max"),
    "random": top_down(score="random"),
    "hash": top_down(score="hash"),
    "heads": heads(),
}
EXPERTS = {
    "mlp": partial(Mlp, hidden_dim=8, activation="gelu", dtype=None, implementation="loop"),
    "relu": partial(Mlp, hidden_dim=8, activation="relu", dtype=None, implementation="loop"),
    "swiglu": partial(SwiGlu, hidden_dim=8, dtype=None, implementation="loop"),
    "zero": Zero,
    "identity": Identity,
    "constant": Constant,
    "neurons": Neurons,
}
SELECTIONS = {
    "soft": soft,
    "top_1": best(1),
    "top_2": best(2, weights="renormalized"),
    "top_2_after": best(2, weights="softmax"),
    "beam_1": best(1, beam=1),
    "beam_2": best(2, beam=2, weights="renormalized"),
    "descend_1": down(1),
    "descend_2": down(2, weights="renormalized"),
    "descend_after": down(2, weights="softmax"),
    "descend_all": down(None),
    "expert_choice": partial(expert_choice, k=2.0),
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
        plain_ffn=partial(
            Dense,
            experts=partial(
                Mlp, hidden_dim=16, activation="gelu", dtype=None, implementation="loop"
            ),
        ),
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
    return layer_of(
        tree=Tree.from_spec(TREES[tree]),
        gate=GATES[gate],
        selection=SELECTIONS[selection],
        experts=EXPERTS[experts],
    )


def layer_of(**parts) -> Callable[..., HMoE]:
    """A mixture of the given parts, plain ones where none is given: called as (dim=)."""
    plain = {
        "gate": top_down(),
        "selection": SELECTIONS["top_2"],
        "eval_selection": None,
        "experts": EXPERTS["mlp"],
        "shared": NO_SHARED,
    }
    return partial(HMoE, **(plain | parts))


NO_SHARED = partial(Shared, units={}, experts=EXPERTS["mlp"])


def by_unit(tree: Tree, units: dict, default: str = "mlp"):
    """Experts that differ from unit to unit, by the names of `EXPERTS` or as given."""
    named = {
        unit: EXPERTS.get(bank, bank) if isinstance(bank, str) else bank
        for unit, bank in units.items()
    }
    return partial(ByUnit, tree=tree, default=EXPERTS[default], units=named)


def dense(experts: str = "mlp") -> Callable[..., Dense]:
    """The feed-forward of a dense control: called as ffn(dim=)."""
    return partial(Dense, experts=EXPERTS[experts])


def given(tree: Tree, probs_TN: torch.Tensor) -> Scores:
    """Scores of a top-down gate whose probabilities are written out."""
    return Scores(tree, probs_TN.log(), probs_TN, probs_TN, path_product(probs_TN, tree))


def choice_of(tree: Tree, probs_TN: torch.Tensor) -> Choice:
    """The choice of a top-down gate whose probabilities are written out."""
    return Choice(probs_TN.detach(), path_product(probs_TN, tree).detach())


def make_routing(
    tree: Tree, experts_T: Sequence[Sequence[int]], probs_TN: torch.Tensor | None = None
) -> Routing:
    """A routing written out: the experts of every token, and even probabilities unless given."""
    token_R = [token for token, experts in enumerate(experts_T) for _ in experts]
    expert_R = [expert for experts in experts_T for expert in experts]
    if probs_TN is None:
        probs_TN = sibling_softmax(torch.zeros(len(experts_T), tree.num_nodes), tree)
    return Routing(
        given(tree, probs_TN),
        torch.tensor(token_R, dtype=torch.int64),
        torch.tensor(expert_R, dtype=torch.int64),
        torch.ones(len(expert_R)),
    )


def make_input(model: str, batch: int = 4) -> torch.Tensor:
    """An input of one of `MODELS`."""
    return torch.randn(batch, 5) if model == "mlp" else torch.randint(0, 11, (batch, 6))
