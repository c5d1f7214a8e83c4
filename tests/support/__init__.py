"""Factories and harnesses shared by tests of several packages."""
