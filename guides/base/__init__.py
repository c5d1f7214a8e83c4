"""Parts of families: flat and per-unit guides, encoder heads, initialization, CAVI."""
