"""Posteriors of posteriordb under their own names, and the reader of a local copy.

from zoo.models import posteriordb

posteriordb.names(), posteriordb.data("eight_schools-eight_schools_centered")
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Import the public names of `_database` on first use, so that listing entries stays cheap."""
    if not name.startswith("_"):
        from zoo.models.posteriordb import _database

        if name in _database.__all__:
            return getattr(_database, name)
    raise AttributeError(f"module 'zoo.models.posteriordb' has no attribute {name!r}")
