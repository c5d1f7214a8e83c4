"""The sections of one entry, one file each; `benchmarks.report.section` finds them, order and template are the file's own."""
