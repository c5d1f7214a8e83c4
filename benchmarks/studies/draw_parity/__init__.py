"""Comparison of this project's chains with the published draws of posteriordb."""
