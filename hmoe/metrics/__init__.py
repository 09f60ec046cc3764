"""Metrics of routing: pure functions, and a thin torchmetrics class that adds up over batches."""

from hmoe.metrics.direction import direction
from hmoe.metrics.inspection import History, Inspection, Knowledge, LayerInspection
from hmoe.metrics.load import (
    DROPPED,
    LoadMetrics,
    cut_shares,
    cv,
    dead_share,
    load_statistics,
    max_violation,
    normalised_entropy,
)
from hmoe.metrics.stability import NONE, heaviest, nodes_at, overlap, overlaps

__all__ = [
    "DROPPED",
    "NONE",
    "History",
    "Inspection",
    "Knowledge",
    "LayerInspection",
    "LoadMetrics",
    "cut_shares",
    "cv",
    "dead_share",
    "direction",
    "heaviest",
    "load_statistics",
    "max_violation",
    "nodes_at",
    "normalised_entropy",
    "overlap",
    "overlaps",
]
