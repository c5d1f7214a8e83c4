"""Factories and harnesses that tests of several packages share."""
