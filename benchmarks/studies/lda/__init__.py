"""Topic models: recovery of known topics, and held-out digits by one common evaluator."""
