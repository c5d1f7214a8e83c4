"""Endless directions that no coordinate axis shows, where sites have improper flat priors.

Three families of lines are looked at, along which a proper density must fall off faster than
1 / distance in the end (Fubini, in rotated or reparameterized coordinates):

* directions along which the density does not change at all, from the null space of gradients at
  many points: a sum a + b of which the data know nothing but its value;
* the direction in which a climb runs off: a separating plane of a logistic regression, and the
  directions in which draws spread most;
* the axes of the same program with every site N(loc, scale) of latent scale drawn from its
  standardized form: a flat log scale is endless there, while at fixed values of the site the
  density falls.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.optimize
import torch
from pyro import poutine
from pyro.distributions import ImproperUniform, Unit
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor

from zoo.density.faults import unless_it_raises
from zoo.density.log_density import LogDensity
from zoo.density.nodes import base_of
from zoo.density.sites import default_dtype, samples, trace_program
from zoo.density.unheld import masked_entries

__all__ = ["flat_sites", "has_flat_part", "runaway", "standardized", "unchanging", "widest"]

MOST = 200  # coordinates for which a null space is computed
EXTRA = 8  # points beyond the number of coordinates
FLAT = 1e-9  # singular value, relative to the largest, that is none
CLIMB = 300  # gradients
FAR = 25.0  # sds from its start at which a climb counts as running off
WIDEST = 3  # principal directions of the draws


def flat_sites(density: LogDensity) -> list[str]:
    """Return the latent sites with an improper flat prior, by name or behind a mask."""
    return [n["name"] for n in _run(density) if _is_flat(density, n)]


def has_flat_part(density: LogDensity) -> bool:
    """Whether a latent site has an improper prior, or `pyro.factor` adds to the density."""
    return any(
        isinstance(base_of(n["fn"]), Unit) if n["is_observed"] else _is_flat(density, n)
        for n in _run(density)
    )


def _run(density: LogDensity) -> list[dict[str, Any]]:
    with default_dtype(density.dtype):
        return samples(trace_program(density.program, density.data.train))


def _is_flat(density: LogDensity, node: dict[str, Any]) -> bool:
    """Whether a latent site has a flat prior: an improper one, or one that a mask takes away.

    Masked entries that no other term holds have been given a proper factor by the density.
    """
    if node["is_observed"]:
        return False
    hidden = masked_entries(node) is not None and node["name"] not in density.completion.free
    return hidden or isinstance(base_of(node["fn"]), ImproperUniform)


def unchanging(density: LogDensity) -> Tensor:
    """Return unit vectors `[k, dim]` along which the density is constant, by its gradients."""
    if density.dim > MOST:
        return torch.zeros(0, density.dim, dtype=density.dtype)
    generator = torch.Generator().manual_seed(1409)
    rows = []
    for _ in range(density.dim + EXTRA):
        point = 0.7 * torch.randn(density.dim, dtype=density.dtype, generator=generator)
        rows.append(_gradient(density, point)[1])
    gradients = torch.stack(rows).double()
    gradients = gradients[torch.isfinite(gradients).all(-1)]
    if len(gradients) < density.dim:
        return torch.zeros(0, density.dim, dtype=density.dtype)
    _, values, vectors = torch.linalg.svd(gradients, full_matrices=False)
    return vectors[values <= FLAT * values[0]].to(density.dtype)


def _gradient(density: LogDensity, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log density and its gradient, not numbers where the program fails."""
    nothing = u.new_tensor(math.nan), torch.full_like(u, math.nan)
    return unless_it_raises(lambda: density.eager_gradient(u), nothing)


def runaway(density: LogDensity) -> Tensor:
    """Return the direction in which a climb from zero runs off, `[1, dim]`, or none `[0, dim]`."""

    def objective(z: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        value, gradient = _gradient(density, torch.as_tensor(z, dtype=density.dtype))
        if not (torch.isfinite(value) and torch.isfinite(gradient).all()):
            return 1e12, np.zeros(density.dim)
        return -float(value), -gradient.double().numpy()

    options = {"maxfun": CLIMB, "maxiter": CLIMB, "ftol": 0.0, "gtol": 0.0}
    end = scipy.optimize.minimize(
        objective, np.zeros(density.dim), jac=True, method="L-BFGS-B", options=options
    ).x
    length = float(np.linalg.norm(end))
    if not (np.isfinite(length) and length > FAR):
        return torch.zeros(0, density.dim, dtype=density.dtype)
    return torch.as_tensor(end / length, dtype=density.dtype)[None]


def widest(points: Tensor) -> Tensor:
    """Return the principal directions of draws `[n, dim]`, widest first, `[k, dim]`."""
    finite = points[torch.isfinite(points).all(-1)].double()
    if len(finite) < 2:
        return torch.zeros(0, points.shape[-1], dtype=points.dtype)
    centered = finite - finite.median(0).values
    _, _, vectors = torch.linalg.svd(centered, full_matrices=False)
    return vectors[:WIDEST].to(points.dtype)


def standardized(density: LogDensity) -> LogDensity | None:
    """Return the density of the same program with sites of latent scale drawn in standard form.

    A site x ~ F(loc, scale) becomes loc + scale * z with z ~ F(0, 1). None where there is no such
    site.
    """
    with default_dtype(density.dtype):
        one, other = (
            trace_program(density.program, density.data.train, seed=s, radius=r)
            for s, r in ((0, 0.1), (1, 0.5))
        )
    moving = {}
    for node in samples(one):
        name, fn = node["name"], base_of(node["fn"])
        if node["is_observed"] or name not in other.nodes or not hasattr(fn, "loc"):
            continue
        scale, then = (getattr(base_of(t.nodes[name]["fn"]), "scale", None) for t in (one, other))
        if isinstance(scale, Tensor) and isinstance(then, Tensor) and not torch.equal(scale, then):
            moving[name] = LocScaleReparam(0.0)
    if not moving:
        return None
    return LogDensity(
        poutine.reparam(density.program, config=moving), density.data, dtype=density.dtype
    )
