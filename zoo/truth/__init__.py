"""Ground truth: stored references and their files, completion by exact draws, grids, enumeration, rejection."""
