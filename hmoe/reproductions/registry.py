"""All reproductions, in the order of their years."""

from hmoe.reproductions.jordan_jacobs_1994_arm import ARM
from hmoe.reproductions.jordan_jacobs_1994_trees import TREES
from hmoe.reproductions.record import Reproduction

REPRODUCTIONS: dict[str, Reproduction] = {r.name: r for r in (ARM, TREES)}
