"""Certified reference posteriors, two files per entry.

`NAME.json` holds moments, gates, command, versions and fingerprint, `NAME.npz` the draws.
"""
