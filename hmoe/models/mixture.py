"""Mixture: whole networks as experts, from the data's vectors to its targets, blended by a tree.

Letters: T rows, D features, O targets, N nodes, E experts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hmoe.errors import ConfigError, check_names
from hmoe.layer import Routing, Tree, own_stream
from hmoe.layer.gates import Gate
from hmoe.layer.tree_ops import at_experts, path_product

Output = Literal["none", "sigmoid"]


@dataclass(frozen=True)
class Blend:
    """What a mixture of whole networks answers, with all that went into it.

    Attributes:
        mean_TO: the experts' answers, blended by reach.
        answer_TEO: the answer of every expert.
        reach_TE: P(expert | x), float32.
    """

    mean_TO: Tensor
    answer_TEO: Tensor
    reach_TE: Tensor


class Mixture(nn.Module):
    """Affine experts, with or without a sigmoid, and a gate that reads the same vector.

    Jacobs, Jordan, Nowlan & Hinton (1991) on a flat tree, Jordan & Jacobs (1994) on any other; with
    `loss=competitive` trained as there. It returns no Routing: every expert answers every row.

    Args:
        in_dim: features of an input vector.
        out_dim: classes, or values to predict.
        tree: the organisation.
        gate: called as gate(tree=, dim=in_dim); scores every node for every row.
        output: "sigmoid" squashes the experts' answers, "none" leaves them.
        init_range: first weights and intercepts of the experts are uniform in +- this.

    Raises:
        ConfigError: an unknown output, a range below 0, a gate with several heads.
    """

    input_kind: Literal["vectors"] = "vectors"

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        tree: Tree,
        gate: Callable[..., Gate],
        output: Output,
        init_range: float,
    ) -> None:
        super().__init__()
        check_names("model.output", [output], get_args(Output))
        if not init_range > 0:
            raise ConfigError(f"model.init_range = {init_range}: expected a number above 0.")
        self.tree = tree
        with own_stream():  # another gate leaves the experts as they are
            self.gate = gate(tree=tree, dim=in_dim)
        if self.gate.num_heads > 1:
            raise ConfigError(
                f"gate.num = {self.gate.num_heads}: model=mixture blends whole networks by one "
                "gate. Use gate=top_down, or heads inside model=mlp."
            )
        self.output = output
        self.weight_EDO = nn.Parameter(torch.empty(tree.num_experts, in_dim, out_dim))
        self.bias_EO = nn.Parameter(torch.empty(tree.num_experts, out_dim))
        for parameter in (self.weight_EDO, self.bias_EO):
            nn.init.uniform_(parameter, -init_range, init_range)

    def forward(self, x_TD: Tensor) -> tuple[Blend, list[Routing]]:
        """(T, D) -> the blended answers (T, O) with their parts, and no routing."""
        # Of factors that are no probabilities, such as sigmoids, the shares among siblings.
        reach_TE = at_experts(path_product(self.gate(x_TD).probs_TN, self.tree), self.tree)
        answer_TEO = torch.einsum("td,edo->teo", x_TD, self.weight_EDO) + self.bias_EO
        if self.output == "sigmoid":
            answer_TEO = answer_TEO.sigmoid()
        mean_TO = (reach_TE.unsqueeze(-1) * answer_TEO).sum(1)
        return Blend(mean_TO, answer_TEO, reach_TE), []
