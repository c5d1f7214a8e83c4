"""What `compare` accepts, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.types import POSTERIOR, Comparison
from guides.fit_file import data_digest
from guides.registry import FAMILIES
from guides.types import FIT, Fit
from zoo.density.log_density import LogDensity
from zoo.errors import UsageError
from zoo.fields import FLAG, Kind, accepted, one_of
from zoo.types import Posterior

__all__ = ["COMPARISONS", "check_arguments"]

DENSITY = Kind(
    accepted="zoo.LogDensity(program, data)", holds=lambda value: isinstance(value, LogDensity)
)
COMPARISONS = Kind(
    accepted="a list of comparisons, from benchmarks.compare",
    holds=lambda value: (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(c, Comparison) for c in value)
    ),
)
POLICIES = one_of("all", "if_needed", "none")


def check_arguments(posterior: Any, fit: Any, density: Any, distances: Any, **flags: Any) -> None:
    """Refuse what `compare` cannot use, and a fit that the draws are not from.

    Raises:
        UsageError: a wrong type, or a fit of another entry, family or seed, or of other data.
    """
    accepted("compare", posterior=(posterior, POSTERIOR), fit=(fit, FIT | None))
    accepted("compare", log_density=(density, DENSITY | None), distances=(distances, POLICIES))
    accepted("compare", **{name: (flag, FLAG) for name, flag in flags.items()})
    if fit is None:
        return
    other = _other(posterior, fit)
    if other:
        raise UsageError(
            f"compare got draws of {other}; accepted: the fit that was drawn from, as in"
            " posterior = guides.draw(fit)."
        )


def _other(posterior: Posterior, fit: Fit) -> str:
    """Return in what draws and fit differ, or an empty text."""
    if posterior.entry.key != fit.entry.key:
        return f"{posterior.entry.key} and a fit of {fit.entry.key}"
    if posterior.data is not fit.data and data_digest(posterior.data) != data_digest(fit.data):
        return f"{posterior.entry.key} and a fit to other data"
    method = posterior.method
    if method not in (*FAMILIES, *posterior.entry.own_guides):
        return ""
    if method != fit.family:
        return f"{method} and a fit of {fit.family}"
    if posterior.seed != fit.seed:
        return f"seed {posterior.seed} and a fit of seed {fit.seed}"
    return ""
