"""Move: where the parameters of a moved layer come from, and the optimiser that follows them.

Letters: M rows of a stack.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from hmoe.errors import ConfigError
from hmoe.layer.rows import Origin, Origins


@dataclass(frozen=True, eq=False)
class Move:
    """Where the parameters of a new layer come from.

    Attributes:
        origins: for every parameter of the new layer the old one, and its rows.
        dropped: parameters of the old layer of which nothing is left.
    """

    origins: Origins
    dropped: tuple[nn.Parameter, ...]


def move_optimizer(optimizer: Optimizer, move: Move) -> None:
    """Let an optimiser go on with the new layer: parameters, and what it remembers of them.

    Every new parameter takes the place of its old one, in its group and under its options; all
    other parameters stay. Memories as large as the parameter (moments) move row by row, zero where
    rows are fresh; numbers (Adam's step) are kept, one a parameter. So Adam no longer corrects the
    moments of fresh rows for their start: their first updates are up to (1 - beta1) / sqrt(1 -
    beta2) times the learning rate, 3.2 at the usual 0.9 and 0.999.

    Raises:
        ConfigError: an optimiser that holds none of the old parameters, or names them, or remembers
            things of another shape.
    """
    new_of: dict[nn.Parameter, list[nn.Parameter]] = {old: [] for old in move.dropped}
    for new, origin in move.origins.items():
        new_of.setdefault(origin.parameter, []).append(new)
    held = {p for group in optimizer.param_groups for p in group["params"]}
    if new_of and not held & new_of.keys():
        raise ConfigError(
            "optimizer: holds no parameter of the old layer. Was it moved already, or is it "
            "another model's?"
        )
    if any("param_names" in group for group in optimizer.param_groups):
        raise ConfigError(
            "optimizer: was made of named parameters, and names change. Make it of "
            "model.parameters()."
        )
    states: dict[Tensor, dict[str, object]] = {
        new: {name: _remembered(name, value, origin) for name, value in state.items()}
        for new, origin in move.origins.items()
        if (state := optimizer.state.get(origin.parameter))
    }
    for group in optimizer.param_groups:
        group["params"] = [new for p in group["params"] for new in new_of.get(p, [p])]
    for old in new_of:
        optimizer.state.pop(old, None)
    optimizer.state.update(states)


def _remembered(name: str, value: object, origin: Origin) -> object:
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 0:
        return value.clone()
    if value.shape != origin.parameter.shape:
        raise ConfigError(
            f"optimizer: remembers '{name}' of shape {tuple(value.shape)} for a parameter of shape "
            f"{tuple(origin.parameter.shape)}; only memories of the parameter's shape, and "
            "numbers, can be moved. Use AdamW or SGD."
        )
    return origin.take(value)
