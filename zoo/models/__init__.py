"""The models of the house, one module each; the file stem is the registry name."""
