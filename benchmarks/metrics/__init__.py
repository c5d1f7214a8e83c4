"""The numbers of a comparison: moments, marginals, joint distances, importance weights, held-out density.

Every function takes numpy arrays or `Side`s and knows nothing of verdicts;
`benchmarks.comparison.verdict` judges.
"""
