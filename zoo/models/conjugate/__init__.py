"""Posteriors in closed form by conjugacy."""
