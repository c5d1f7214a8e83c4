"""From a program and its data to a log density over one flat vector of unconstrained values."""
