"""Autoencoders against the exact evidence: bounds, gaps and importance weighting."""
