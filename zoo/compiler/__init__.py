"""Makes tensor functions fast: trace, simplify, vectorize, compile, check against eager, cache. It knows nothing of models."""
