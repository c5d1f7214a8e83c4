"""Series in time: change points, volatility."""
