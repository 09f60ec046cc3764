"""All reproductions, in the order of their years."""

from hmoe.reproductions.ma_2018_synthetic import MA_2018_SYNTHETIC
from hmoe.reproductions.record import Reproduction
from hmoe.reproductions.shazeer_2017_hierarchy import SHAZEER_2017_HIERARCHY
from hmoe.reproductions.shazeer_2017_losses import SHAZEER_2017_LOSSES
from hmoe.reproductions.wang_2024_loss_free import WANG_2024_LOSS_FREE

REPRODUCTIONS: dict[str, Reproduction] = {
    r.name: r
    for r in (
        SHAZEER_2017_LOSSES,
        SHAZEER_2017_HIERARCHY,
        MA_2018_SYNTHETIC,
        WANG_2024_LOSS_FREE,
    )
}
