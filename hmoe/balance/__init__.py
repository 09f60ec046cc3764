"""What uneven load costs: losses per level (pure), and the bias controller (state)."""

from hmoe.balance.balance import Balance, mixture_layers
from hmoe.balance.bias import BiasController
from hmoe.balance.cv import importance_cv2, load_cv2
from hmoe.balance.entropy import doubt_loss, spread_loss
from hmoe.balance.smooth import smooth_load
from hmoe.balance.switch import switch_loss
from hmoe.balance.z import z_loss

__all__ = [
    "Balance",
    "BiasController",
    "doubt_loss",
    "importance_cv2",
    "load_cv2",
    "mixture_layers",
    "smooth_load",
    "spread_loss",
    "switch_loss",
    "z_loss",
]
