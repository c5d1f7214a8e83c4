"""Distances between all judged components jointly, one file each; `benchmarks.metrics.metric` finds them."""
