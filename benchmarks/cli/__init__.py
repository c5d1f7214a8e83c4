"""The `zoo` command. Names and flags are in `commands`; the work of each command in a module of its own."""

from __future__ import annotations

__all__ = ["main"]


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with the documented code."""
    from benchmarks.cli import process

    process.main(argv)
