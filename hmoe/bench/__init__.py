"""Benchmarks: `hmoe bench SUITE`, one suite a file."""

from hmoe.bench.large_trees import bench_large_trees
from hmoe.bench.layer import bench_layer
from hmoe.bench.process import bench_process
from hmoe.bench.routing import bench_routing
from hmoe.bench.sweep import bench_sweep
from hmoe.bench.train import bench_train

SUITES = {
    "layer": bench_layer,
    "routing": bench_routing,
    "train": bench_train,
    "sweep": bench_sweep,
    "process": bench_process,
    "large_trees": bench_large_trees,
}

__all__ = ["SUITES"]
