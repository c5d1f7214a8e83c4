"""Tables of families on the pages of the models."""
