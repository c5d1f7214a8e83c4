"""What a run tells while it works."""

from __future__ import annotations

__all__ = ["Events"]


class Events:
    """Progress callbacks of a run; the command line draws bars, tests and notebooks may ignore them."""

    def say(self, sentence: str) -> None:
        """Take a sentence."""

    def warn(self, sentence: str) -> None:
        """Take a warning."""

    def begin(self, label: str, total: int) -> None:
        """Start a stage of `total` tasks."""

    def done(self, label: str, status: str, sentence: str, seconds: float) -> None:
        """Take the end of one task."""

    def finish(self) -> None:
        """End the last stage."""
