"""All reproductions, in the order of their years."""

from hmoe.reproductions.ma_2018_synthetic import MA_2018_SYNTHETIC
from hmoe.reproductions.record import Reproduction

REPRODUCTIONS: dict[str, Reproduction] = {r.name: r for r in (MA_2018_SYNTHETIC,)}
