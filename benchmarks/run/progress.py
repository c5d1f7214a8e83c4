"""Progress callbacks of a run."""

from __future__ import annotations

__all__ = ["Events"]


class Events:
    """Progress callbacks, no-ops by default; the command line draws bars with them."""

    def say(self, sentence: str) -> None:
        """Report a sentence."""

    def warn(self, sentence: str) -> None:
        """Report a warning."""

    def begin(self, label: str, total: int) -> None:
        """Begin a stage of `total` tasks."""

    def done(self, label: str, status: str, sentence: str, seconds: float) -> None:
        """Report the end of one task."""

    def finish(self) -> None:
        """End the last stage."""
