"""What measures the pages of `docs/results/`: one folder per study."""
