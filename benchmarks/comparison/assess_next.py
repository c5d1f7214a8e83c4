"""The one step that helps most after an assessment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.verdicts import VerdictWord, is_finding
from guides.registry import FAMILIES
from zoo.errors import spelled

if TYPE_CHECKING:
    from guides.types import Fit

__all__ = ["next_step"]


def next_step(
    fit: Fit, verdict: VerdictWord, *, absent: str, repaired: bool, missing: Sequence[str]
) -> str:
    """Return a step that a program in Python, or the reader of a terminal, can take.

    Args:
        fit: the assessed fit.
        verdict: on it.
        absent: why there is no posterior, empty if there is one.
        repaired: whether tempered SMC has given draws that are better.
        missing: steps of the protocol that could not be made.
    """
    if verdict == "agrees":
        return "Use it; a mode that no climb and no particle reached cannot be seen."
    if absent:
        return "Give every direction a proper prior, then fit again."
    if verdict == "fit_failed":
        return "Fit with more steps, or from another start."
    if is_finding(verdict):
        known = FAMILIES[fit.family].richer if fit.family in FAMILIES else ()
        richer = next((f for f in known if f in fit.entry.families), "")
        if repaired:
            how = spelled(
                "benchmarks.repair(fit)", f"zoo compare MODEL --guides {fit.family} --repair"
            )
            return f"Use the repaired draws ({how}){f', or try {richer}' if richer else ''}."
        return f"Try {richer}, or NUTS." if richer else "Try NUTS: zoo compare MODEL."
    if not missing:
        call = "benchmarks.assess(fit, draws=..., islands=...)"
        return f"More draws settle it: {spelled('', 'in Python, ')}{call}."
    return "Run NUTS to settle it: zoo compare MODEL."
