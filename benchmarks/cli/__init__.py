"""The `zoo` command: names and flags in `commands`, the work in one module per group."""

from __future__ import annotations

__all__ = ["main"]


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with the documented code."""
    from benchmarks.cli import process

    process.main(argv)
