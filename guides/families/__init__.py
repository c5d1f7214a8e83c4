"""The families, one file each; `guides.registry` finds them by name."""
