"""The one optimization loop, its step and its stopping rule."""
