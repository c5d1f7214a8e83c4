"""Sections of one entry, one file each; found by `benchmarks.report.section`."""
