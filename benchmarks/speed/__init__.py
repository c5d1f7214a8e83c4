"""Speed of this project and its peers: eight fixed entries, interleaved pairs.

Every process has one thread. `targets` defines what is measured, `sides` and the `side_*` modules
the implementations, `worker` runs each side in its own process, `runner` interleaves them,
`results` computes ratios and compares them with bars, `table` and `plot` show them.
"""
