"""Plans of cells, their execution, and the run directory on disk."""
