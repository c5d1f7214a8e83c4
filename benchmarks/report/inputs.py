"""Inputs of a report: plain records that a live run and a stored run both provide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.report.theme import in_order
from benchmarks.types import Comparison, PredictiveCheck, method_names
from guides.types import Elbo, Restart, Stop
from zoo.types import Cost, Data, ModelEntry, Posterior, Reference

if TYPE_CHECKING:
    import numpy as np

    from benchmarks.comparison.baselines import PredictionTable

__all__ = ["EntryReport", "FitSummary", "ReportInput", "method_names"]


@dataclass(frozen=True, kw_only=True)
class FitSummary:
    """Fields of a fit that a report needs, from a live `Fit` (`of`) or a stored cell.

    `losses` is minus the ELBO estimate per optimizer step in nats, `[step]`.
    """

    losses: np.ndarray[Any, Any]
    stop: Stop
    elbo: Elbo | None = None
    cost: Cost = field(default_factory=lambda: Cost(seconds=0.0))
    restarts: tuple[Restart, ...] = ()
    compiled: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, fit: Any) -> FitSummary:
        """Copy the reported fields of a `guides.types.Fit` or of a similar object."""
        return cls(
            losses=fit.losses,
            stop=fit.stop,
            elbo=fit.elbo,
            cost=fit.cost,
            restarts=tuple(fit.restarts),
            compiled=dict(fit.compiled),
        )


@dataclass(frozen=True, kw_only=True)
class EntryReport:
    """One entry: its reference, one comparison per method (NUTS included) and the NUTS draws.

    `fits` overrides `Comparison.fit` per method (for a run read from disk), `sentence` overrides
    the composed sentence, `ppc` adds posterior predictive checks, `predictions` is the table of an
    entry with a `baselines` hook.
    """

    entry: ModelEntry
    data: Data
    reference: Reference
    comparisons: Sequence[Comparison]
    nuts: Posterior | None = None
    fits: Mapping[str, FitSummary] = field(default_factory=dict)
    ppc: Sequence[PredictiveCheck] = ()
    predictions: PredictionTable | None = None
    sentence: str = ""

    def __repr__(self) -> str:
        """Return the entry with its methods."""
        names = ", ".join(method_names(self.comparisons))
        return f"EntryReport({self.entry.key}: {names}; reference: {self.reference.kind})"

    def named(self) -> dict[str, Comparison]:
        """Return the comparisons by the names of `method_names`, in the order of every table."""
        found = dict(zip(method_names(self.comparisons), self.comparisons, strict=True))
        return {name: found[name] for name in in_order(found)}

    def summaries(self) -> dict[str, FitSummary]:
        """Return the fit of every method that has one, by the names of `method_names`."""
        found = {n: FitSummary.of(c.fit) for n, c in self.named().items() if c.fit is not None}
        every = {**found, **self.fits}
        return {name: every[name] for name in in_order(every)}


@dataclass(frozen=True, kw_only=True)
class ReportInput:
    """A run as a report sees it.

    `meta` holds command, versions, machine, seeds and created (as text, never read from a clock).
    """

    entries: Sequence[EntryReport]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return the entries with their methods."""
        return f"ReportInput({', '.join(map(repr, self.entries))})"
