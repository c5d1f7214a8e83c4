"""Deterministic fits over every posterior of posteriordb, beside other families."""
