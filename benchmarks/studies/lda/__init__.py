"""Judging topic models: held-out scores with one evaluator for every method, recovery of known topics, and the results page."""
