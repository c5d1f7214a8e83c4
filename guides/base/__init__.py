"""What families are built from: flat and per-unit guides, encoder heads, initialization, CAVI."""
