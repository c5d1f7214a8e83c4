"""Regressions: linear predictors and small networks with priors on their weights."""
