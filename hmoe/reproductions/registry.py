"""All reproductions, in the order of their years."""

from hmoe.reproductions.branch_covertype import REPRODUCTION as BRANCH_COVERTYPE
from hmoe.reproductions.jacobs_1991_vowels import VOWELS_1991
from hmoe.reproductions.jordan_jacobs_1994_arm import ARM
from hmoe.reproductions.jordan_jacobs_1994_trees import TREES
from hmoe.reproductions.ma_2018_census import REPRODUCTION as MA_2018_CENSUS
from hmoe.reproductions.ma_2018_synthetic import MA_2018_SYNTHETIC
from hmoe.reproductions.nguyen_2023_rate import RATE
from hmoe.reproductions.record import Reproduction
from hmoe.reproductions.shazeer_2017_hierarchy import SHAZEER_2017_HIERARCHY
from hmoe.reproductions.shazeer_2017_losses import SHAZEER_2017_LOSSES
from hmoe.reproductions.wang_2024_loss_free import WANG_2024_LOSS_FREE

REPRODUCTIONS: dict[str, Reproduction] = {
    r.name: r
    for r in (
        VOWELS_1991,
        ARM,
        TREES,
        SHAZEER_2017_LOSSES,
        SHAZEER_2017_HIERARCHY,
        MA_2018_SYNTHETIC,
        MA_2018_CENSUS,
        RATE,
        WANG_2024_LOSS_FREE,
        BRANCH_COVERTYPE,
    )
}
