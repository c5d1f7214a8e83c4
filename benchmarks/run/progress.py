"""Progress callbacks of a run."""

from __future__ import annotations

import re
import sys

__all__ = ["Events", "Lines"]


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


class Lines(Events):
    """Plain lines on stderr for callers in Python, once a run is estimated to take minutes."""

    def __init__(self) -> None:
        self.long = False

    def say(self, sentence: str) -> None:
        """Print an estimate of minutes or hours."""
        self.long |= re.search(r"about [\d.]+ (minute|hour)", sentence) is not None
        self._print(sentence)

    def done(self, label: str, status: str, sentence: str, seconds: float) -> None:
        """Print what ended."""
        self._print(f"{label}: {status}, {seconds:.0f} s")

    def _print(self, text: str) -> None:
        if self.long:
            print(text, file=sys.stderr, flush=True)
