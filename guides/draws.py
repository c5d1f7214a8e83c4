"""Draws of a fitted guide with log weights, and the ELBO estimated from them.

log w = log p(u, data) - log q(u) over the unconstrained vector; the Jacobian cancels, so it also
equals log p(z, data) - log q(z) on the constrained scale.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide.guides import AutoContinuous
from torch import Tensor, nn

from guides.base.flat import FlatGuide
from guides.base.own_guides import check_sites
from guides.base.program_draws import program_draws
from guides.families.amortized import AmortizedGuide, features_of
from guides.registry import build, family_of
from guides.session import program_for, session
from guides.types import FIT, Elbo, Fit
from zoo.density.faults import program_faults
from zoo.density.log_density import LogDensity
from zoo.density.nodes import base_of, is_subsample
from zoo.distributions.circular import is_circle
from zoo.errors import FitError, UnknownNameError, UsageError, listed
from zoo.fields import MAPPING, POSITIVE, SEED, Kind, accepted
from zoo.seeds import derive_seed, seeded
from zoo.types import Data, Posterior
from zoo.user_models.from_program import as_data
from zoo.user_models.lift_params import LiftedProgram
from zoo.user_models.tied_rows import ROWS_CURE, tied_rows
from zoo.user_models.units import refuse_other_columns

__all__ = [
    "density_of",
    "draw",
    "elbo",
    "estimate_elbo",
    "point_sentence",
    "point_sites",
    "transfer",
    "weighted_draws",
]

OTHERS = Kind(
    accepted="the program's arguments by name, as {'x': x}, or data such as entry.judged(data)",
    holds=lambda value: isinstance(value, Data) or MAPPING.holds(value),
)
BLOCK = 1_000_000  # coordinates evaluated at once
STILL = 16  # draws; a coordinate equal in all of them is constant


def weighted_draws(
    guide: nn.Module, density: LogDensity, n: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return n points `[n, dim]` with log p and log q `[n]` in nats, without gradients.

    Must be called inside a session.
    """
    with torch.no_grad(), seeded(seed):
        u, log_q = _guide_draws(guide, density, n)
        rows = max(1, BLOCK // density.dim)
        return u, torch.cat([density.batch(part) for part in u.split(rows)]), log_q


def _guide_draws(guide: nn.Module, density: LogDensity, n: int) -> tuple[Tensor, Tensor]:
    """Return n points `[n, dim]` and log q `[n]` in nats."""
    if isinstance(guide, FlatGuide):
        u = guide.sample(torch.randn(n, guide.noise_dim, dtype=density.dtype))[0]
        return u, guide.log_prob_flat(u)
    if isinstance(guide, AutoContinuous) and not _off_charts(guide, density):
        posterior = guide.get_posterior()
        u = posterior.rsample((n,))
        return u, posterior.log_prob(u)
    # a guide program that knows its flat vector need not be run n times
    if hasattr(guide, "draw_flat"):
        flat: Any = guide
        drawn: tuple[Tensor, Tensor] = flat.draw_flat(n)
        return drawn
    return program_draws(guide, density, n)


def _off_charts(guide: AutoContinuous, density: LogDensity) -> bool:
    """Whether an autoguide was made of a program whose angles are real numbers."""
    nodes = guide.prototype_trace.nodes
    return any(not is_circle(nodes[n]["fn"].support) for n in density.completion.centers)


def point_sites(guide: nn.Module, density: LogDensity, seed: int) -> tuple[str, ...]:
    """Return the latent sites in which a guide has no density, in their order.

    There log q is no density of the unconstrained vector, whatever number Pyro returns: the
    weights p / q are meaningless, E_q[log p - log q] is no bound, and k-hat is 0 by construction.
    These are sites whose draws are constant (`AutoDelta`, a `Delta`), and `Delta` sites with more
    dimensions than the auxiliary noise that could produce them. Must be called inside a session.
    """
    with torch.no_grad(), seeded(seed):
        u, _ = _guide_draws(guide, density, STILL)
        still = (u == u[:1]).all(0)
        names = {s.name for s in density.sites if bool(still[s.start : s.stop].any())}
        if not isinstance(guide, FlatGuide | AutoContinuous) and not hasattr(guide, "draw_flat"):
            names |= _determined(guide, density)
    return tuple(s.name for s in density.sites if s.name in names)


def _determined(guide: nn.Module, density: LogDensity) -> set[str]:
    """Return the `Delta` sites of a Pyro guide whose auxiliary sites have too few dimensions."""
    trace = poutine.block(poutine.trace(guide).get_trace)(**density.data.train)
    wanted = {s.name: s.stop - s.start for s in density.sites}
    deltas, noise = set(), 0
    for name, node in trace.nodes.items():
        if node["type"] != "sample" or name in density.discrete or is_subsample(node["fn"]):
            continue
        base = base_of(node["fn"])
        if name not in wanted:
            noise += 0 if isinstance(base, dist.Delta) else node["value"].numel()
        elif isinstance(base, dist.Delta):
            deltas.add(name)
    return deltas if noise < sum(wanted[name] for name in deltas) else set()


def density_of(fit: Fit) -> LogDensity:
    """Return the log density of a fit's program on its data."""
    known = fit.density
    if known is None or known.program is not fit.program or known.data is not fit.data:
        known = LogDensity(fit.program, fit.data, dtype=fit.entry.dtype)
        # cached, since making one runs the program several times
        object.__setattr__(fit, "density", known)
    return known


def _refuse_broken(fit: Fit, caller: str) -> None:
    accepted(f"guides.{caller}", fit=(fit, FIT))
    if not fit.ok:
        raise FitError(
            f"The {fit.family} fit of {fit.entry.name} is not usable ({fit.stop.status}):"
            f" {fit.stop.sentence}"
        )


@program_faults("run with draws of a guide")
def draw(fit: Fit, n: int = 2000, *, seed: int | None = None) -> Posterior:
    """Draw n times from a fitted guide.

    Args:
        fit: a fit that ended `ok` or `not_converged`.
        n: number of draws.
        seed: seed of the draws, by default that of the fit; the same seed gives the same draws.

    Returns:
        A posterior with constrained draws, the unconstrained vectors and log p - log q per draw in
        nats. If the guide is a point (`fit.points`) it has no log weights, and a note says so.

    Raises:
        FitError: the fit has no usable guide.
        UsageError: n is not positive, or the seed no integer of at least 0.
    """
    _refuse_broken(fit, "draw")
    accepted("guides.draw", n=(n, POSITIVE), seed=(seed, SEED | None))
    seed = fit.seed if seed is None else seed
    began = time.perf_counter()
    with session(fit.entry.dtype):
        density = density_of(fit)
        u, log_p, log_q = weighted_draws(
            fit.guide, density, n, derive_seed(seed, fit.entry.key, fit.family, "draw")
        )
        with torch.no_grad():
            sites = density.constrain(u)
    cost = replace(fit.cost, seconds=fit.cost.seconds + time.perf_counter() - began)
    return Posterior(
        entry=fit.entry,
        data=fit.data,
        method=fit.family,
        draws=sites,
        sample_dims=("sample",),
        unconstrained=u,
        log_weights=None if fit.points else log_p - log_q,
        cost=cost,
        seed=fit.seed,
        notes=(fit.stop.sentence, *((point_sentence(fit.points),) if fit.points else ())),
    )


def point_sentence(where: Sequence[str]) -> str:
    """Say what a guide that is a point in some sites or quantities cannot have."""
    names = ", ".join(where[:3]) + (f" and {len(where) - 3} more" if len(where) > 3 else "")
    return (
        f"A point, no spread, in {names}: the guide has no density there, so it has no k-hat, no"
        " weights, and its ELBO is no bound."
    )


@program_faults("applied to other units")
def transfer(fit: Fit, data: Data | Mapping[str, Any], *, seed: int | None = None) -> Fit:
    """Apply an amortized fit to other units of the same program: same encoder, new ELBO.

    Args:
        fit: a usable fit of an `amortized` family without global sites, or of a guide of your own
            that computes the approximation of a row from the row.
        data: the other units, for example `entry.judged(data)`, `fit.data.test`, or the
            program's arguments with other rows; what has no rows may be left out.
        seed: seed of the draws for the ELBO, by default that of the fit.

    Raises:
        FitError: the fit is not usable, not amortized, has global sites, or computes q of a row
            from the rows beside it.
        UsageError: arguments that the program lacks, without rows, or of another shape.
    """
    _refuse_broken(fit, "transfer")
    accepted("guides.transfer", data=(data, OTHERS), seed=(seed, SEED | None))
    own = fit.family in fit.entry.own_guides
    if not family_of(fit.family, fit.entry).amortized and not isinstance(
        fit.guide, AmortizedGuide
    ):
        cure = (
            "a guide serves other units if it runs on any number of rows of its arguments, without"
            " a parameter per row, and the entry knows the rows (batched= or minibatch=)"
            if own
            else "fit the other units"
        )
        _refuse_tied(fit, getattr(fit.entry.own_guides.get(fit.family), "tied", ""))
        raise FitError(
            f"The {fit.family} guide of {fit.entry.name} has no encoder, so it knows only its own"
            f" units; {cure}."
        )
    if not isinstance(data, Data):
        data = _rows_of(fit, data)
    with session(fit.entry.dtype):
        if isinstance(fit.guide, LiftedProgram):  # as it was trained
            dtype = fit.entry.dtype or torch.float64
            _refuse_tied(fit, tied_rows(fit.guide, fit.data.train, dtype))
        program = program_for(fit.program, fit.entry, data)
        density = LogDensity(program, data, dtype=fit.entry.dtype)
        guide: nn.Module
        if isinstance(fit.guide, AmortizedGuide):
            guide = fit.guide.transferred(density, features_of(fit.entry, data.train))
        else:
            guide = build(fit.family, program, data, fit.entry, **fit.options)
            guide.load_state_dict(fit.guide.state_dict())
            guide.requires_grad_(False)
            guide.eval()  # before it runs: batch statistics are those of the training
            check_sites(guide, density, fit.family, trains=False)
        guide.eval()
        draws = min(4000, max(50, 200_000 // density.dim)) if own else 4000
        value = estimate_elbo(
            guide,
            density,
            draws,
            derive_seed(fit.seed if seed is None else seed, fit.entry.key, fit.family, "elbo"),
        )
    return replace(fit, program=program, data=data, guide=guide, elbo=value, density=density)


def _refuse_tied(fit: Fit, tied: str) -> None:
    """Refuse a guide whose q of a row depends on the rows beside it; no fault is an empty text.

    Raises:
        FitError: always in that case.
    """
    if tied:
        raise FitError(
            f"The {fit.family} guide of {fit.entry.name} has no q of other rows: it {tied};"
            f" {ROWS_CURE}."
        )


def _rows_of(fit: Fit, arguments: Mapping[str, Any]) -> Data:
    """Return data of other rows of the program's arguments, in the entry's type."""
    known = fit.data
    for name in arguments:
        if name not in known.train:
            raise UnknownNameError("argument of the program", name, known.train)
    given = {k: as_data(k, v, fit.entry.dtype or torch.float64) for k, v in arguments.items()}
    missing = [name for name in known.batched if name not in given]
    if missing:
        raise UsageError(
            f"The other units need {missing[0]!r}, which has one value per row; got"
            f" {listed(sorted(given)) or 'nothing'}."
        )
    refuse_other_columns({name: given[name] for name in known.batched}, known.train, "data")
    sizes = {name: len(given[name]) for name in known.batched}
    if len(set(sizes.values())) > 1:
        raise UsageError(
            f"The other units have {sizes} rows; give every argument one value per row."
        )
    size = next(iter(sizes.values()), known.size)
    return replace(known, train={**known.train, **given}, test=None, size=size, coords={})


def estimate_elbo(guide: nn.Module, density: LogDensity, n: int, seed: int) -> Elbo:
    """Estimate the ELBO of a guide from n independent draws; must be called inside a session."""
    _, log_p, log_q = weighted_draws(guide, density, n, seed)
    value = log_p - log_q
    return Elbo(value_nats=float(value.mean()), se=float(value.std() / n**0.5), draws=n)


def elbo(fit: Fit, n: int = 4000, *, seed: int | None = None) -> Elbo:
    """Return E_q[log p - log q] in nats with its standard error, from n independent draws.

    Raises:
        FitError: the fit has no usable guide, or one that is a point.
        UsageError: n is not positive, or the seed no integer of at least 0.
    """
    _refuse_broken(fit, "elbo")
    accepted("guides.elbo", n=(n, POSITIVE), seed=(seed, SEED | None))
    if fit.points:
        raise FitError(
            f"{point_sentence(fit.points)[:-1]}; give these sites a distribution with spread."
        )
    seed = fit.seed if seed is None else seed
    with session(fit.entry.dtype):
        return estimate_elbo(
            fit.guide, density_of(fit), n, derive_seed(seed, fit.entry.key, fit.family, "elbo")
        )
