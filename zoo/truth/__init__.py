"""Ground truth: stored references, completion by exact draws, grids, enumeration, rejection."""
