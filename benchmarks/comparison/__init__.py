"""Comparison of a posterior with a reference: scores, a verdict and a sentence."""
