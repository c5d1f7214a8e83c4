"""Metrics of one component at a time, one file each; `benchmarks.metrics.metric` finds them."""
