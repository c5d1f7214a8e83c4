"""Supports: what is inside those of events and of mixtures."""

from __future__ import annotations

from typing import Any

__all__ = ["innermost"]


def innermost(support: Any) -> Any:
    """Return the support of one entry of an event, or of one component of a mixture."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support
