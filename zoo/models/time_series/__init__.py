"""Time series: change points, volatility."""
