"""Certified reference posteriors: `NAME.json` (moments, gates, command, versions, fingerprint) and `NAME.npz` (draws)."""
