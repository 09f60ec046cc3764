"""What uneven load costs: losses per level (pure), and the bias controller (state)."""

from hmoe.balance.balance import Balance, mixture_layers
from hmoe.balance.bias import BiasController
from hmoe.balance.losses import switch_loss, z_loss

__all__ = ["Balance", "BiasController", "mixture_layers", "switch_loss", "z_loss"]
