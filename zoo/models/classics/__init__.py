"""Classic test densities of the literature on sampling and variational inference."""
