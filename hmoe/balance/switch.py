"""Switch loss: what uneven load costs at every unit of the organisation.

Letters: T tokens, N nodes, S sequences (1 where all tokens are counted together).
"""

from typing import Literal

from torch import Tensor

from hmoe.balance.ranks import num_ranks, over_ranks
from hmoe.errors import ConfigError, check_names
from hmoe.layer import Routing
from hmoe.layer.tree_ops import at_parents


def switch_loss(
    routing: Routing, *, statistics: Literal["micro", "global", "sequence"]
) -> dict[str, Tensor]:
    """Switch loss at every sibling group, averaged over a level by traffic: 1.0 at equal load.

    For the children c of a node v: sum_c f(c|v) P(c|v) / s(c|v), where f is the share of v's rows
    that go to c, P the mean probability of c over v's rows, and s the share of v's experts that
    sit below c (1/b for b equal children). On a flat tree this is E sum_i f_i P_i of Fedus et al.
    (2021, eq. 4), with f over all k choices, before a capacity drops any. Groups of a level count
    by the rows they receive.

    A level's value is 1.0 at equal load on every expert of every tree, and b when each token is
    sure of one of b children. Gradients flow through P only, as published.

    Args:
        statistics: which tokens f and P are taken over.
            "micro": all tokens of this forward pass.
            "global": f is that of all processes of a distributed run (Qwen: Qiu et al. 2025), P is
            of this one, scaled so that the mean over processes, which is what data parallelism
            makes of gradients, is exactly the loss of all tokens together. Without such a run it
            is "micro".
            "sequence": each sequence by itself, then the mean over sequences (DeepSeek-AI 2024,
            eq. 17-20). A sequence that sends nobody to a level has no say there.

    Raises:
        ConfigError: an unknown name; "sequence" where tokens form no sequences.
    """
    check_names("statistics", [statistics], ("micro", "global", "sequence"))
    routing, tree = routing.before_drops, routing.tree
    num_sequences = _num_sequences(routing) if statistics == "sequence" else 1
    rows_STN = routing.rows_TN.unflatten(0, (num_sequences, -1))
    probs_STN = routing.probs_TN.unflatten(0, (num_sequences, -1))
    mass_SN = (at_parents(rows_STN, tree) * probs_STN).sum(1)
    load_SN = rows_STN.sum(1)
    if statistics == "global":
        load_SN = over_ranks(load_SN)
        mass_SN = mass_SN * num_ranks()
    prob_SN = mass_SN / at_parents(load_SN, tree).clamp(min=1)
    term_SN = load_SN * prob_SN / tree.index("share_N", load_SN.device)
    values = {}
    for level, here in enumerate(tree.level_slices):
        load_S = load_SN[:, here].sum(-1)
        value_S = term_SN[:, here].sum(-1) / load_S.clamp(min=1)
        values[f"level_{level}"] = value_S.sum() / (load_S > 0).sum().clamp(min=1)
    return values


def _num_sequences(routing: Routing) -> int:
    if routing.num_sequences is None:
        raise ConfigError(
            "statistics = sequence: needs a model that reads sequences, such as model=transformer, "
            "whose mixtures get tokens as (batch, positions, width); here every item is one "
            "vector. Use statistics=micro."
        )
    return routing.num_sequences
