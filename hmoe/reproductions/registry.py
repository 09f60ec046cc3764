"""All reproductions, in the order of their years."""

from hmoe.reproductions.branch_covertype import REPRODUCTION as BRANCH_COVERTYPE
from hmoe.reproductions.ma_2018_census import REPRODUCTION as MA_2018_CENSUS
from hmoe.reproductions.record import Reproduction

REPRODUCTIONS: dict[str, Reproduction] = {r.name: r for r in (MA_2018_CENSUS, BRANCH_COVERTYPE)}
