"""Draws to use in the place of a guide's: `repair`."""

from __future__ import annotations

import dataclasses

from benchmarks.comparison.assess import assess
from benchmarks.metrics.numbers import value_with_error
from guides.optimize.progress import Say
from guides.types import FIT, Fit
from zoo.errors import FitError
from zoo.fields import accepted
from zoo.types import Posterior
from zoo.user_models.units import Rows

__all__ = ["repair"]


def repair(
    fit: Fit,
    *,
    seed: int = 0,
    budget: float | None = None,
    rows: Rows | None = None,
    progress: Say | bool | None = None,
) -> Posterior:
    """Return better draws than a guide's own: those of tempered SMC that begins from it.

    Where SMC does not hold or is too large, they are the ends of short chains that began at the
    guide's draws: of chains that have forgotten them, if there are such. `method` says which they
    are (`smc`, `short_chains`), `notes` how far they have converged, and `doubt` why they may not
    be the posterior; the guide's own draws are not touched.

    Args:
        fit: a usable fit of any family.
        seed: of the noise.
        budget: seconds; a step is not begun if it is forecast to exceed what is left of them.
        rows: those of the training data that are repaired, as of `assess`; by default 64 where
            they stand for all.
        progress: as of `assess`.

    Raises:
        UsageError: rows that do not exist, or that the latent values do not belong to.
        FitError: the fit has no usable guide or is a point, or no step fits into the budget.
    """
    accepted("repair", fit=(fit, FIT))
    found = assess(fit, seed=seed, budget=budget, rows=rows, progress=progress)
    if found.repaired is None:
        steps = {check.name: check.sentence for check in found.checks}
        why = steps.get("spread") or steps.get("smc") or found.next
        raise FitError(
            f"{fit.family} on {fit.entry.key} cannot be repaired: {why} Fit another family, or"
            " give more time."
        )
    begun = f"Begun from the draws of {fit.family}."
    if found.estimate is not None and found.repaired.method == found.estimate.posterior.method:
        smc = found.estimate.smc
        value = value_with_error(found.estimate.evidence.value, found.estimate.evidence.se)
        notes = (
            begun,
            f"{len(smc.evidence.islands)} islands of tempered SMC give a log normalizer of"
            f" {value} nats; {smc.acceptance:.0%} of the last moves were accepted.",
        )
        return dataclasses.replace(found.repaired, notes=notes)
    return dataclasses.replace(found.repaired, notes=(begun, *found.repaired.notes))
