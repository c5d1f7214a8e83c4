"""What families are built from: flat and per-unit guides, encoder heads, where optimization begins, coordinate ascent for LDA."""
