"""Small programs with a known log evidence, on which the bound audit itself is tested.

No code is shared with their densities: closed forms use scipy's special functions, enumeration
plain loops, quadrature scipy's `quad` and `dblquad`; none evaluates a Pyro program.
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

# importing them adds their targets
MODULES = (
    targets_conjugate,
    targets_integrated,
    targets_entries,
    targets_adapters,
    targets_topics,
)
