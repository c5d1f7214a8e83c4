"""The numbers under audit, as functions of an implementation.

They are fit, objective, ELBO, draws, importance bound, held-out score and annealing weights.
`Reported()` holds those of this package. To audit your own implementation, replace the fields it
provides:

    benchmarks.audit.audit(entry, reported=Reported(elbo=my_elbo))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyro
import torch
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
)
from torch import Tensor, nn

from benchmarks.metrics.predictive import heldout_lpd
from benchmarks.metrics.weights import log_evidence
from guides import draws, fitting
from guides.base.flat import FlatGuide, Start
from guides.families.full_rank import WhitenedFullRank
from guides.families.low_rank import WhitenedLowRank
from guides.families.mean_field import WhitenedMeanField
from guides.objectives.flat import FlatObjective, Minibatches
from guides.objectives.program import ProgramObjective
from guides.objectives.records import objective_of
from guides.registry import family_of
from guides.session import as_module, session
from guides.types import Elbo, Fit
from zoo.density.log_density import LogDensity
from zoo.seeds import seeded
from zoo.types import ModelEntry, Posterior

__all__ = ["Reported", "as_flat"]

Loss = Callable[[Tensor | None, int], float]


@dataclass(frozen=True, kw_only=True)
class Reported:
    """Numbers an implementation reports, in nats.

    Attributes:
        fit: `fit(entry, family)` returns a fit; its `losses` are minus the ELBO.
        objective: `objective(fit, particles)` returns `loss(index, seed)`, one value of the
            training objective at the fit's guide as it is now, on all units (index None) or on a
            minibatch; None if the family has no objective.
        elbo: `elbo(fit, n, seed)` returns the ELBO from n draws.
        draw: `draw(fit, n, seed)` returns a posterior of n draws with log weights.
        bound: takes log weights `[replicate, k]`, returns the mean over replicates of the k-sample
            bound log (1/k) sum_j w_j.
        heldout: `heldout(posterior, density)` returns the mean log predictive density per row of
            `posterior.data.test`.
        annealing: `annealing(fit)` returns the weight of the KL term per step, None if the
            objective has no such weight.
    """

    fit: Callable[[ModelEntry, str], Fit]
    objective: Callable[[Fit, int], Loss | None]
    elbo: Callable[[Fit, int, int], Elbo]
    draw: Callable[[Fit, int, int], Posterior]
    bound: Callable[[Tensor], float]
    heldout: Callable[[Posterior, LogDensity], float | None]
    annealing: Callable[[Fit], Sequence[float] | None]

    def __init__(
        self,
        *,
        fit: Callable[[ModelEntry, str], Fit] | None = None,
        objective: Callable[[Fit, int], Loss | None] | None = None,
        elbo: Callable[[Fit, int, int], Elbo] | None = None,
        draw: Callable[[Fit, int, int], Posterior] | None = None,
        bound: Callable[[Tensor], float] | None = None,
        heldout: Callable[[Posterior, LogDensity], float | None] | None = None,
        annealing: Callable[[Fit], Sequence[float] | None] | None = None,
    ) -> None:
        given = {
            "fit": fit or _fit,
            "objective": objective or _objective,
            "elbo": elbo or _elbo,
            "draw": draw or _draw,
            "bound": bound or _bound,
            "heldout": heldout or _heldout,
            "annealing": annealing or _no_annealing,
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)


def _fit(entry: ModelEntry, family: str) -> Fit:
    """Fit briefly; a bound holds for any guide, so it need not be the optimum."""
    record = family_of(family, entry)
    if not record.is_program:
        particles = 16 if record.amortized else 32
        return fitting.fit(
            entry,
            family,
            seed=7,
            steps=150,
            patience=25,
            anneal=75,
            num_particles=particles,
            final_lr=1e-4,
        )
    return fitting.fit(entry, family, seed=7, steps=250, patience=40, anneal=120, final_lr=1e-4)


def _elbo(fit: Fit, n: int, seed: int) -> Elbo:
    return draws.elbo(fit, n, seed=seed)


def _draw(fit: Fit, n: int, seed: int) -> Posterior:
    return draws.draw(fit, n, seed=seed)


def _bound(log_weights: Tensor) -> float:
    values = (
        [log_evidence(row)["bound_nats"] for row in log_weights.double().numpy()]
        if log_weights.shape[1] > 1
        else log_weights[:, 0]
    )
    return float(torch.as_tensor(values, dtype=torch.float64).mean())


def _heldout(posterior: Posterior, density: LogDensity) -> float | None:
    score = heldout_lpd(posterior, density)
    return None if score is None else score["nats_per_row"]


def _no_annealing(fit: Fit) -> None:
    return None


def _objective(fit: Fit, particles: int) -> Loss | None:
    """Return the objective of the fit's family at its final guide.

    None for families without an objective (Laplace).
    """
    if family_of(fit.family, fit.entry).solve is not None:
        return None
    with session(fit.entry.dtype):
        density = LogDensity(fit.program, fit.data, dtype=fit.entry.dtype)
        flat = (
            fit.guide
            if isinstance(fit.guide, FlatGuide)
            else as_flat(fit.guide)
            if not family_of(fit.family, fit.entry).is_program
            else None
        )
        objective: FlatObjective | ProgramObjective
        if flat is not None:
            objective = FlatObjective(
                density,
                flat,
                {},
                num_particles=particles,
                batch_size=None,
                stl=objective_of(fit.config.objective).stl,
            )
        else:
            model = as_module(fit.program, fit.data.train, fit.entry.dtype)
            objective = ProgramObjective(
                density, model, fit.guide, {}, num_particles=particles, batch_size=None
            )
    whole = Minibatches(density, None)

    def loss(index: Tensor | None, seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        with session(fit.entry.dtype), torch.no_grad(), pyro.validation_enabled(False):
            noise = objective.noise(generator)[0]
            if isinstance(objective, FlatObjective):
                return float(objective.flat_loss(objective.parameters, noise, index))
            with seeded(int(noise)):
                return float(objective.module(whole.tensors(index)))

    return loss


def as_flat(guide: nn.Module) -> FlatGuide:
    """Return the whitened guide that is optimized, equal to a given autoguide.

    Raises:
        TypeError: not one of the three Gaussian autoguides.
    """
    if not isinstance(
        guide, AutoDiagonalNormal | AutoMultivariateNormal | AutoLowRankMultivariateNormal
    ):
        raise TypeError(f"{type(guide).__name__} has no whitened form")
    with torch.no_grad():
        posterior = guide.get_posterior()
        loc = guide.loc.detach().clone()
        if isinstance(guide, AutoDiagonalNormal):
            scale = posterior.base_dist.scale.detach().clone()
            return WhitenedMeanField(guide, Start(loc=loc, scale=scale))
        covariance = posterior.covariance_matrix.detach()
        start = Start(
            loc=loc, scale=covariance.diagonal().sqrt(), factor=torch.linalg.cholesky(covariance)
        )
        if isinstance(guide, AutoMultivariateNormal):
            return WhitenedFullRank(guide, start)
        flat = WhitenedLowRank(guide, start)
        flat.log_scale.copy_((guide.scale / flat.width).log())
        flat.factor.copy_(guide.scale[:, None] * guide.cov_factor / flat.width[:, None])
        return flat
