"""Schedules of the KL for a decoder that can ignore the code."""
