"""The objectives, one file each; `guides.objectives.records` finds them by name."""
