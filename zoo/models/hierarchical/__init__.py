"""Hierarchical models: groups, items and persons with effects that share a prior."""
