"""NUTS: its engines, and the diagnostics and gates of chains."""
