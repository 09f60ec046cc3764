"""Benchmarks: `hmoe bench`, one suite a file."""

from hmoe.bench.large_trees import bench_large_trees
from hmoe.bench.training import bench_training

__all__ = ["bench_large_trees", "bench_training"]
