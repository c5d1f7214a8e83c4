"""Batch and match over every posterior of posteriordb, raw and reweighted, beside others."""
