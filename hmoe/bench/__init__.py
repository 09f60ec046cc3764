"""Benchmarks: `hmoe bench SUITE`, one suite a file."""

from hmoe.bench.large_trees import bench_large_trees
from hmoe.bench.routing import bench_routing
from hmoe.bench.train import bench_train

SUITES = {"train": bench_train, "large_trees": bench_large_trees, "routing": bench_routing}

__all__ = ["SUITES"]
