"""Metrics of one component at a time, one file each; found by `benchmarks.metrics.metric`."""
