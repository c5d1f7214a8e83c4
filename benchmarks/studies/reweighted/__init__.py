"""Reweighted draws of guides on every posterior of posteriordb, beside their raw draws."""
