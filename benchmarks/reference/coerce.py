"""Convert what a caller gives as the truth into a `Reference`, and detect unusable chains."""

from __future__ import annotations

from typing import get_args

from benchmarks.mcmc.diagnostics import diagnose
from benchmarks.thresholds import EBFMI, rhat_limit
from benchmarks.types import Mcmc
from zoo.errors import UsageError
from zoo.fields import typed
from zoo.types import Posterior, Reference, ReferenceKind

__all__ = ["as_reference", "broken_chains"]


def as_reference(truth: Reference | Posterior | None) -> Reference:
    """Return a reference; chains are gated first, None gives the kind `none`.

    Chains that are merely short remain usable: their standard errors make the verdict
    `inconclusive`. Chains that disagree, diverge or do not move are unusable.
    """
    if truth is None:
        return Reference(
            kind="none", posterior=None, reason="there is no reference to compare with"
        )
    if isinstance(truth, Reference):
        return truth
    if not isinstance(truth, Posterior):
        raise UsageError(
            f"The reference is {typed(truth)}; accepted: a Reference, draws of"
            " benchmarks.run_nuts, a word such as 'stored', or None."
        )
    if truth.sample_dims == ("sample",):
        if truth.method not in get_args(ReferenceKind):
            raise UsageError(
                f"The reference is {truth.method!r}, a guide; accepted: a Reference, chains of"
                " benchmarks.run_nuts, or exact draws (method='exact')."
            )
        return Reference(kind=truth.method, posterior=truth)  # type: ignore[arg-type]
    health = diagnose(truth, reference=True)
    reason = broken_chains(health, truth, strict=True)
    ess = [n for n in (health.ess_bulk_min, health.ess_tail_min) if n is not None]
    return Reference(
        kind="nuts",
        posterior=truth,
        gates=health.gates,
        usable=reason is None,
        reason=reason or "",
        rhat_max=health.rhat_max,
        ess_min=min(ess, default=None),
    )


def broken_chains(health: Mcmc, posterior: Posterior, *, strict: bool) -> str | None:
    """Return why chains are unusable, or None if they are at worst short.

    `strict` is for references: divergences and a low E-BFMI count too.
    """
    if not health.gates.get("finite", True) or not health.gates.get("non_constant", True):
        return f"the chains cannot be used: {health.worst}"
    chains, draws = posterior.sample_shape
    limit = rhat_limit(chains, draws)
    if health.rhat_max is None or not health.rhat_max <= limit:
        shown = "undefined" if health.rhat_max is None else f"{health.rhat_max:.3f}"
        return (
            f"the chains disagree: R-hat is {shown}, the limit for {chains} chains of {draws}"
            f" draws is {limit:.3f}"
        )
    if strict and health.divergences:
        return (
            f"the reference chains have {health.divergences} divergences; reparameterize, or raise"
            " the target acceptance rate"
        )
    if strict and health.ebfmi_min is not None and health.ebfmi_min < EBFMI:
        return f"the reference chains have E-BFMI {health.ebfmi_min:.2f}, below {EBFMI}"
    return None
