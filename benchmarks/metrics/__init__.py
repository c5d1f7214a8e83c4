"""Metrics of a comparison: moments, margins, joint distances, weights, held-out density.

The functions take numpy arrays or `Side`s. They make no judgement; `benchmarks.comparison.verdict`
does.
"""
