"""MultiTask: one organisation of experts for several tasks, each with a tower of its own.

With one gate a task (`gate=heads gate.merge=stack`) it is MMoE (Ma et al. 2018) on any tree; with
units that only some tasks see (`gate.visible`) PLE's CGC (Tang et al. 2020); with one gate OMoE; as
`model=multi_task_dense` the shared bottom.

Letters: B rows, D width, K tasks, F units of a tower.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from hmoe.errors import ConfigError
from hmoe.layer import HMoE, Routing, own_stream


class MultiTask(nn.Module):
    """Linear and ReLU, a mixture, and for every task a tower with one hidden layer.

    The papers' experts read the input itself and answer with a narrower vector; ours, as all of
    hmoe's, give back the width that they read, hence the linear layer before them.

    Args:
        in_dim: features of an input vector.
        out_dim: tasks K, one value each.
        dim: width D inside.
        tower_dim: F.
        ffn: called as ffn(dim=); a module x -> (y, Routing or None), y (B, D) or (K, B, D).

    Raises:
        ConfigError: the gate's stacked heads are not as many as the tasks.
    """

    input_kind: Literal["vectors"] = "vectors"

    def __init__(
        self, *, in_dim: int, out_dim: int, dim: int, tower_dim: int, ffn: Callable[..., nn.Module]
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(in_dim, dim)
        with own_stream():  # the rest starts the same, whatever this is
            self.ffn = ffn(dim=dim)
        gate = self.ffn.gate if isinstance(self.ffn, HMoE) else None
        if gate is not None and gate.merge == "stack" and gate.num_heads != out_dim:
            raise ConfigError(
                f"gate.num = {gate.num_heads}: with gate.merge=stack every task has a head of its "
                f"own, and the data have {out_dim} tasks. Use gate.num={out_dim}."
            )
        self.hidden = nn.ModuleList(nn.Linear(dim, tower_dim) for _ in range(out_dim))
        self.out = nn.ModuleList(nn.Linear(tower_dim, 1) for _ in range(out_dim))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Routing]]:
        """(B, in_dim) -> (B, K) and the routing of the mixture, if it is one."""
        y, routing = self.ffn(self.embed(x).relu())
        y_KBD = y if y.ndim == 3 else y.expand(len(self.out), *y.shape)
        answers = [
            out(hidden(y_BD).relu())
            for hidden, out, y_BD in zip(self.hidden, self.out, y_KBD, strict=True)
        ]
        return torch.cat(answers, -1), [] if routing is None else [routing]
