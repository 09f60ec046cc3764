"""The truth behind planted data: a mixture whose tree, centres and functions are known.

What the functions have in common is one thing, where their experts lie another: `related` makes the
functions of relatives alike, `shuffled` and `flattened` undo the one or the other organisation.
"""

from dataclasses import dataclass, replace

import numpy as np

from hmoe.layer import Tree
from hmoe.layer.tree import ROOT

Array = np.ndarray


@dataclass(frozen=True)
class Truth:
    """A mixture that makes data.

    Letters: N nodes, E experts, M functions, D features, F hidden units, O targets.

    Attributes:
        tree: how a row finds its expert.
        center_ND: where each node lies; the root lies at zero.
        inner_MDF: of each function the weights of its hidden units; None for linear functions.
        outer_MFO: from hidden units, or features, to targets.
        share_EM: how much of each function an expert says; the squares of a row add up to one.
    """

    tree: Tree
    center_ND: Array
    inner_MDF: Array | None
    outer_MFO: Array
    share_EM: Array

    @classmethod
    def drawn(
        cls,
        tree: Tree,
        draw: np.random.RandomState,
        *,
        in_dim: int,
        out_dim: int,
        distance: list[float],
        hidden_dim: int | None,
    ) -> "Truth":
        """A truth with centres at the given distances, one a level, and a function an expert."""
        way_ND = draw.normal(size=(tree.num_nodes, in_dim))
        way_ND /= np.linalg.norm(way_ND, axis=1, keepdims=True)
        center_ND = np.zeros_like(way_ND)
        for node, parent in enumerate(tree.parent_N):
            above_D = 0.0 if parent == ROOT else center_ND[parent]
            center_ND[node] = above_D + distance[tree.level_N[node]] * way_ND[node]
        num, sizes = tree.num_experts, (in_dim, hidden_dim, out_dim)
        inner_EDF, outer_EFO = _functions(draw, num, *sizes)
        return cls(tree, center_ND, inner_EDF, outer_EFO, np.eye(num))

    def related(self, kinship: float, draw: np.random.RandomState) -> "Truth":
        """The same with functions for units, the root's too, which those below them inherit.

        A node says sqrt(1 - kinship) of its own function and sqrt(kinship) of what its parent
        says. The variance stays; of two experts, a and b levels below the unit where their ways
        part, the functions correlate by kinship^((a + b) / 2): those of siblings by kinship.
        """
        if kinship == 0:
            return self
        tree = self.tree
        expert_at = {node: expert for expert, node in enumerate(tree.node_E)}
        units = [ROOT, *(node for node in range(tree.num_nodes) if node not in expert_at)]
        own_at = {unit: tree.num_experts + m for m, unit in enumerate(units)} | expert_at
        share_M = np.zeros(len(own_at))
        share_M[own_at[ROOT]] = 1.0
        shares = {ROOT: share_M}
        for node, parent in enumerate(tree.parent_N):  # breadth first: after its parent
            shares[node] = kinship**0.5 * shares[parent]
            shares[node][own_at[node]] = (1 - kinship) ** 0.5
        in_dim, out_dim = self.center_ND.shape[1], self.outer_MFO.shape[2]
        hidden_dim = None if self.inner_MDF is None else self.inner_MDF.shape[2]
        inner, outer = _functions(draw, len(units), in_dim, hidden_dim, out_dim)
        return replace(
            self,
            inner_MDF=None if inner is None else np.concatenate([self.inner_MDF, inner]),
            outer_MFO=np.concatenate([self.outer_MFO, outer]),
            share_EM=np.stack([shares[node] for node in tree.node_E]),
        )

    def shuffled(self, draw: np.random.RandomState) -> "Truth":
        """The same places with the functions dealt out anew: neighbours are no relatives."""
        return replace(self, share_EM=self.share_EM[draw.permutation(len(self.share_EM))])

    def flattened(self) -> "Truth":
        """The same functions with every expert straight around the root, in its own direction.

        Its distance is what the distances on its way down would come to in independent directions:
        the root of the sum of their squares.
        """
        tree, node_E = self.tree, list(self.tree.node_E)
        center_ED = np.empty((tree.num_experts, self.center_ND.shape[1]))
        for expert, node in enumerate(node_E):
            step_D, square = self._step(node), 0.0
            way_D, at = step_D / np.linalg.norm(step_D), node
            while at != ROOT:
                square += np.square(self._step(at)).sum()
                at = tree.parent_N[at]
            center_ED[expert] = square**0.5 * way_D
        return replace(self, tree=Tree.from_spec([tree.num_experts]), center_ND=center_ED)

    def _step(self, node: int) -> Array:
        """From a node's parent to the node."""
        parent = self.tree.parent_N[node]
        return self.center_ND[node] - (0.0 if parent == ROOT else self.center_ND[parent])

    def expert_of(self, x_RD: Array) -> Array:
        """The expert of each row, (R,): the nearest child, from the root down."""
        node_R = np.full(len(x_RD), ROOT)
        children: dict[int, list[int]] = {}
        for node, parent in enumerate(self.tree.parent_N):
            children.setdefault(parent, []).append(node)
        for unit, below in children.items():  # breadth first: units come after their parents
            here = node_R == unit
            # |x - c|^2 without |x|^2, which is the same for all: no array of all differences.
            center_CD = self.center_ND[below]
            apart_RC = np.square(center_CD).sum(1) - 2 * (x_RD[here] @ center_CD.T)
            node_R[here] = np.array(below)[apart_RC.argmin(1)]
        expert_N = np.full(self.tree.num_nodes, -1)
        expert_N[list(self.tree.node_E)] = np.arange(self.tree.num_experts)
        return expert_N[node_R]

    def answers(self, x_RD: Array) -> Array:
        """What the rows' experts say of them, without noise: (R, O)."""
        expert_R = self.expert_of(x_RD)
        result = np.empty((len(x_RD), self.outer_MFO.shape[-1]))
        for expert, node in enumerate(self.tree.node_E):
            here = expert_R == expert
            result[here] = self.says(expert, x_RD[here] - self.center_ND[node])
        return result

    def says(self, expert: int, seen_RD: Array) -> Array:
        """What an expert says of rows as seen from its centre: (R, O)."""
        share_M = self.share_EM[expert]
        answer_RO = np.zeros((len(seen_RD), self.outer_MFO.shape[-1]))
        for function in np.flatnonzero(share_M):
            unit_RF = seen_RD
            if self.inner_MDF is not None:
                unit_RF = np.tanh(seen_RD @ self.inner_MDF[function])
            answer_RO += share_M[function] * (unit_RF @ self.outer_MFO[function])
        return answer_RO


def _functions(
    draw: np.random.RandomState, num: int, in_dim: int, hidden_dim: int | None, out_dim: int
) -> tuple[Array | None, Array]:
    """Draw the weights of functions with outputs of variance 1, or less for networks."""
    inner_MDF, fan_in = None, in_dim
    if hidden_dim is not None:
        # Of variance 4, so that a tanh bends.
        inner_MDF = draw.normal(size=(num, in_dim, hidden_dim)) * 2 / in_dim**0.5
        fan_in = hidden_dim
    return inner_MDF, draw.normal(size=(num, fan_in, out_dim)) / fan_in**0.5
