"""All reproductions, in the order of their years."""

from hmoe.reproductions.record import Reproduction

REPRODUCTIONS: dict[str, Reproduction] = {r.name: r for r in ()}
