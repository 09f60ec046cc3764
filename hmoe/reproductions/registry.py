"""All reproductions, in the order of their years."""

from hmoe.reproductions.ma_2018_census import REPRODUCTION as MA_2018_CENSUS
from hmoe.reproductions.record import Reproduction

REPRODUCTIONS: dict[str, Reproduction] = {r.name: r for r in (MA_2018_CENSUS,)}
from hmoe.reproductions.jacobs_1991_vowels import VOWELS_1991
from hmoe.reproductions.jordan_jacobs_1994_arm import ARM
from hmoe.reproductions.jordan_jacobs_1994_trees import TREES
from hmoe.reproductions.nguyen_2023_rate import RATE

REPRODUCTIONS: dict[str, Reproduction] = {r.name: r for r in (VOWELS_1991, ARM, TREES, RATE)}
