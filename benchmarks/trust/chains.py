"""The posterior by many short chains that begin at a guide's draws: an estimated reference.

For posteriors on which tempered SMC is not run or does not hold. Draws are the ends of chains
whose starts are equal within a group (`benchmarks.mcmc.short_chains`), with the group among their
statistics; where nothing speaks against them they are independent. A mode that no draw of the
guide reaches stays unseen, and modes between which no chain moves keep the masses of the starts:
groups then disagree.
"""

from __future__ import annotations

import time

import torch

from benchmarks.mcmc.short_chains import GROUPS, MOST_GRADIENTS, short_chains
from benchmarks.trust.drift import PILOT
from benchmarks.trust.judged import Judged
from zoo.density.log_density import LogDensity
from zoo.errors import UsageError
from zoo.types import Cost, Data, ModelEntry, Posterior, Reference

__all__ = ["CHAINS", "GRADIENTS", "STARTS", "chained", "chains_reference"]

CHAINS, GROUP = "short_chains", "group"
STARTS = GROUPS + PILOT  # draws of the guide
GRADIENTS = 1_500_000  # usual: 24 transitions of the schools, with their pilot, take 1,356,288


def chained(
    density: LogDensity,
    entry: ModelEntry,
    data: Data,
    u: torch.Tensor,
    *,
    gradients: float = MOST_GRADIENTS,
    seed: int = 0,
) -> Posterior:
    """Move chains from a guide's draws until they have forgotten them.

    Args:
        density: the log density of the posterior, compiled or not.
        entry: whose quantities are judged.
        data: what the program is conditioned on.
        u: draws of the guide `[n, dim]`, unconstrained; at least 544. The first 32 begin a
            group each, and 512 further ones give step, metric and length.
        gradients: of all chains, beyond which they are not moved further.
        seed: of the noise.

    Returns:
        The ends, with what speaks against them in `doubt` and how far they came in `notes`.

    Raises:
        UsageError: fewer draws.
    """
    if len(u) < STARTS:
        raise UsageError(
            f"Short chains got {len(u)} draws of a guide; accepted: at least {STARTS}."
        )
    begin = time.perf_counter()
    found = short_chains(
        density,
        u[:GROUPS],
        Judged(density, entry, data),
        pilot=u[GROUPS:STARTS],
        gradients=gradients,
        seed=seed,
    )
    with torch.no_grad():
        sites = density.constrain(found.points.flatten(0, 1))
    note = (
        f"{len(found.points)} groups of {found.points.shape[1]} chains, {found.transitions}"
        f" transitions, most of {found.leapfrogs} leapfrogs: nested R-hat"
        f" {float(found.r_hat.max()):.3f}, {found.acceptance:.0%} of the last moves accepted."
        " Modes that no chain reached are missing."
    )
    return Posterior(
        entry=entry,
        data=data,
        method=CHAINS,
        draws=sites,
        sample_dims=("sample",),
        unconstrained=found.points.flatten(0, 1),
        stats={GROUP: torch.arange(GROUPS).repeat_interleave(found.points.shape[1])},
        seed=seed,
        doubt=found.doubt,
        notes=(note,),
        cost=Cost(
            seconds=time.perf_counter() - begin,
            gradient_evaluations=found.gradients,
            sequential_depth=found.depth,
        ),
    )


def chains_reference(posterior: Posterior) -> Reference:
    """Return ends of short chains as a reference of the kind `estimated`, unusable if in doubt.

    It has no evidence.
    """
    return Reference(
        kind="estimated", posterior=posterior, usable=not posterior.doubt, reason=posterior.doubt
    )
