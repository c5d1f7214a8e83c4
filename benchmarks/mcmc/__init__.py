"""NUTS engines, and the convergence diagnostics and gates of their chains."""
