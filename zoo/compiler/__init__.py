"""Makes tensor functions fast: trace, simplify, vectorize, compile, check, cache.

This package knows nothing about models.
"""
