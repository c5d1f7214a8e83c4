"""The one optimization loop: its step, the loop, and when it stops."""
