"""From a program and its data to a log density over one flat unconstrained vector."""
