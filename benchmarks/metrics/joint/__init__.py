"""Distances between all judged components jointly, one file each."""
