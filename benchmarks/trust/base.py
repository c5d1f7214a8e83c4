"""The base of tempered SMC for a guide: widened guide, modes elsewhere, prior.

Components, their shares, centers, covariances and degrees of freedom:

* guide, 0.6: mean and 4 times the covariance of its draws; 7, or 3 where its weights have a
  heavy tail;
* modes, 0.3 together: modes that wide climbs found, 4 times the inverse of -H; 7;
* prior, 0.1, where it is proper: median and covariance of its draws; 3. Or the prior itself, if
  the caller has it (`benchmarks.trust.prior_part`).

The tails are wider than the posterior's, so that every region gets some points and weights stay
bounded; the other components make sure that what a guide misses is reached at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.mcmc.base_mixture import Component, Mixture, Part
from benchmarks.mcmc.metric import Metric
from benchmarks.trust.judged import prior_draws
from benchmarks.trust.prior_part import PRIOR, PriorPart
from guides.base.modes import curvature
from zoo.density.log_density import LogDensity
from zoo.density.ridges import flat_sites
from zoo.types import Data

__all__ = ["smc_base"]

SHARES = {"guide": 0.6, "modes": 0.3, "prior": 0.1}
WIDENED = 2.0  # of every sd
FREEDOM, HEAVY_FREEDOM = 7, 3
HEAVY = 0.5  # k-hat above which the guide's component gets the heavier tail
PRIOR_DRAWS = 200


def smc_base(
    density: LogDensity,
    data: Data,
    u: Tensor,
    *,
    particles: int,
    modes: Sequence[Tensor] = (),
    k_hat: float = 0.0,
    prior: PriorPart | None = None,
) -> Mixture:
    """Return the base for draws of a guide.

    Args:
        density: the log density of the posterior.
        data: what the program is conditioned on.
        u: draws of the guide `[n, dim]`, unconstrained.
        particles: points of one island.
        modes: points `[dim]` of modes where the guide has never been.
        k_hat: of the guide's weights.
        prior: the prior itself, in the place of a density over its draws.
    """
    freedom = HEAVY_FREEDOM if k_hat > HEAVY else FREEDOM
    parts: list[Part] = [
        Component(
            name="guide",
            share=SHARES["guide"],
            center=u.mean(0),
            metric=Metric.of(u).widened(WIDENED),
            freedom=freedom,
        )
    ]
    for number, point in enumerate(modes, 1):
        found = curvature(density, point)
        if found is None or not found.settled:
            continue
        # the Cholesky factor of (-H)^-1, without squaring its condition
        upper = torch.linalg.qr((found.vectors / found.values.sqrt()).T).R
        factor = (upper * upper.diagonal().sign()[:, None]).T
        scale = factor.square().sum(1).sqrt()
        metric = Metric(scale=scale, factor=factor).widened(WIDENED)
        parts.append(
            Component(
                name=f"mode {number}",
                share=SHARES["modes"] / len(modes),
                center=point,
                metric=metric,
                freedom=FREEDOM,
            )
        )
    if prior is not None:
        parts.append(prior)
    elif not flat_sites(density):
        drawn = prior_draws(density, data, PRIOR_DRAWS)
        if len(drawn) > PRIOR_DRAWS // 2:
            parts.append(
                Component(
                    name=PRIOR,
                    share=SHARES["prior"],
                    center=drawn.median(0).values,
                    metric=Metric.of(drawn),
                    freedom=HEAVY_FREEDOM,
                )
            )
    return Mixture(parts, particles)
