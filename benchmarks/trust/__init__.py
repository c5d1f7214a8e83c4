"""Trust beyond the draws themselves: searches for modes that no chain visited, and drift."""
