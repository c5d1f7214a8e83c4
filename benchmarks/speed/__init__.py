"""The speed of this house beside others: eight fixed entries, one thread per process, interleaved pairs.

`targets` says what is measured, `sides` and the `side_*` modules who is measured, `worker` puts
each side into a process of its own, `runner` interleaves them, `results` makes ratios and bars,
`table` and `plot` show them.
"""
