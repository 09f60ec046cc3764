"""Published results and whether they hold: `hmoe reproduce <name>`.

Reading order: record.py (claim, criteria, cells, figures, verdict), cells.py (measuring), store.py
and page.py (result.json and its page, checked without running), then the reproductions.
"""

from hmoe.reproductions.cells import cells_of_other_commits, declared, measure_all
from hmoe.reproductions.record import Reproduction, Size
from hmoe.reproductions.registry import REPRODUCTIONS
from hmoe.reproductions.store import drift, read_result, rewrite, write_result

__all__ = [
    "REPRODUCTIONS",
    "Reproduction",
    "Size",
    "cells_of_other_commits",
    "declared",
    "drift",
    "measure_all",
    "read_result",
    "rewrite",
    "write_result",
]
