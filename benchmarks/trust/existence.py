"""Whether chains show that no posterior exists: endless directions, edges, a spread that grows.

A chain on a density without a finite integral wanders: its draws lie ever farther from where it
began. With chains c, quarters k and the median m of the first quarter of all chains,

    D[k, c] = median of |x - m| over quarter k of chain c,    P[k] = median of D[k, c] over chains

the spread grows where P rises from quarter to quarter, to four times in all, by a quarter or more
in every chain, and where the mean over chains of log D[4, c] / D[1, c] is six standard errors from
zero; chains are independent, however slowly each of them moves. In a stationary chain that can be
run backwards growing and shrinking are equally likely, whatever its tails. The draws are projected
on the directions in which they spread most. Measured with four chains of 1,000 draws: none of 400
slow funnels (autocorrelation time 50), half of the walks whose steps lengthen steadily.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.density.log_density import LogDensity
from zoo.density.propriety import may_not_exist
from zoo.density.ridges import has_flat_part, widest
from zoo.types import Reference

if TYPE_CHECKING:
    from guides.types import Fit

__all__ = ["ABSENT", "EXISTS", "doubted", "growth", "needs_doubt", "why_none"]

EXISTS = "posterior_exists"
ABSENT = "the posterior may not exist"
QUARTERS, SHORTEST = 4, 100  # parts of a chain, draws below which nothing is said
TOTAL, EACH = 4.0, 1.25  # growth from the first quarter to the last, of all chains and of each
STEADY = 6.0  # standard errors between chains of the mean log growth
DRAWS = 400  # at which directions are looked at


def growth(u: Tensor) -> float:
    """Return by which factor the spread of chains `[chain, draw, dim]` grows, 1 if it does not.

    The larger one of the three directions in which the pooled draws spread most.
    """
    chains, draws, dim = u.shape
    if chains < 2 or draws < SHORTEST:
        return 1.0
    if not torch.isfinite(u).all():
        return 1.0
    ways = widest(_thinned(u.reshape(-1, dim)))
    x = u.double() @ ways.double().T  # [chain, draw, way]
    length = draws // QUARTERS
    parts = x[:, draws - QUARTERS * length :].reshape(chains, QUARTERS, length, -1)
    center = parts[:, 0].reshape(chains * length, -1).median(0).values
    each = (parts - center).abs().median(2).values  # [chain, quarter, way]
    all_chains = each.median(0).values  # [quarter, way]
    first, last = all_chains[0].clamp(min=1e-300), all_chains[-1]
    logs = (each[:, -1] / each[:, 0].clamp(min=1e-300)).clamp(min=1e-300).log()
    grows = (
        (logs.mean(0) > STEADY * logs.std(0) / chains**0.5)
        & (all_chains.diff(dim=0) > 0).all(0)
        & (last > TOTAL * first)
        & (each[:, -1] > EACH * each[:, 0]).all(0)
    )
    return float((last / first)[grows].max()) if bool(grows.any()) else 1.0


def why_none(density: LogDensity, u: Tensor) -> str:
    """Return why the posterior of chains `[*sample, dim]` may not exist, empty if nothing does.

    A growing spread counts only where a site has an improper prior or the program has a factor:
    with proper priors the posterior exists for almost all data, and chains that grow mix slowly.
    """
    found = may_not_exist(density, _thinned(u.reshape(-1, density.dim)).to(density.dtype))
    if found or u.ndim != 3:
        return found
    factor = growth(u)
    if factor > 1 and has_flat_part(density):
        return (
            f"{ABSENT}: the spread of the draws grows along every chain, to"
            f" {factor:.3g} times from the first quarter to the last"
        )
    return ""


def _thinned(u: Tensor) -> Tensor:
    return u[torch.linspace(0, len(u) - 1, min(DRAWS, len(u))).long()]


def needs_doubt(reference: Reference) -> bool:
    """Whether chains failed in a way that wandering off explains; usable ones are climbed for."""
    posterior = reference.posterior
    return (
        posterior is not None
        and posterior.unconstrained is not None
        and posterior.sample_dims == ("chain", "draw")
        and not reference.usable
        and EXISTS not in reference.gates
        and reference.kind in ("conditional", "nuts")
    )


def doubted(reference: Reference, given: Fit | None = None) -> str:
    """Return why the posterior of failed chains may not exist, in words, empty if nothing does.

    Args:
        reference: unusable chains with unconstrained draws.
        given: the fit whose trained program the chains ran on.
    """
    own = reference.posterior
    assert own is not None
    assert own.unconstrained is not None
    program = own.entry.program(own.data) if given is None else given.program
    return why_none(LogDensity(program, own.data, dtype=own.entry.dtype), own.unconstrained)
