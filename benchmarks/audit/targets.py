"""Small programs whose log evidence is known by a route that shares no code with their densities.

Closed forms use scipy's special functions, enumeration plain loops, quadrature scipy's `quad` and
`dblquad`; none evaluates a Pyro program. They are what the bound audit itself is tested on.
"""

from __future__ import annotations

from benchmarks.audit import (
    targets_adapters,
    targets_conjugate,
    targets_entries,
    targets_integrated,
    targets_topics,
)
from benchmarks.audit.target_table import TARGETS, Target

__all__ = ["MODULES", "TARGETS", "Target"]

MODULES = (
    targets_conjugate,
    targets_integrated,
    targets_entries,
    targets_adapters,
    targets_topics,
)  # importing enters them
