"""hmoe: an instrument for hierarchical mixtures of experts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hmoe.layer import HMoE

__version__ = "0.1.0"


def build(*overrides: str, dim: int, hidden_dim: int | None = None) -> "HMoE":
    """A mixture layer for a model of yours, from choices as on the command line.

    layer = hmoe.build("system=mixtral", "tree.spec=[8]", dim=512, hidden_dim=1024)
    y, routing = layer(x)

    Args:
        overrides: `system=<name>`, choices of groups and single values; the later one wins.
        dim: width D of a token.
        hidden_dim: hidden width of an expert; the experts' own setting unless given.

    Returns:
        A module that maps (..., D) to (..., D) and the routing of its tokens (None for
        `system=soft_moe`, which routes nothing). If the choices include a bias controller the layer
        has room for the bias.

    Raises:
        ConfigError: choices that are unknown or do not go together, or that are a whole model.
    """
    # Imported here, so that `hmoe --help` does not wait for torch.
    from hmoe.config import build as make
    from hmoe.config import check, compose, keys
    from hmoe.errors import ConfigError

    cfg = compose(overrides)
    if hidden_dim is not None:
        widths = {"experts.hidden_dim", "experts.default.hidden_dim"}.intersection(keys(cfg))
        if not widths:
            raise ConfigError(
                f"hidden_dim = {hidden_dim}: these experts have no width. Leave it out."
            )
        cfg = compose([*overrides, *(f"{key}={hidden_dim}" for key in widths)])
    check(cfg)
    if "ffn" not in cfg.model:
        raise ConfigError(
            f"{' '.join(overrides)}: chooses a whole model, {cfg.model._target_}, which has no "
            "layer to build. Use it by `hmoe train`, or another system."
        )
    layer: HMoE = make(cfg.model.ffn)(dim=dim)
    make(cfg.balance).attach(layer)
    return layer
