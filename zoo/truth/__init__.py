"""Ground truth: stored references, completion, grids, enumeration, rejection sampling."""
