"""The sections of one entry, one file each; `benchmarks.report.section` finds them."""
