"""Whether a posterior may fail to exist: directions along which its density does not fall off.

Where the posterior is proper, almost every line parallel to a coordinate axis has a finite
integral (Fubini), so that along it the density falls faster than 1 / distance in the end. A
coordinate along which it does not, at several points, shows that the integral diverges. The
reverse does not hold: a density can be improper along no axis.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.density.log_density import LogDensity
from zoo.density.sites import Site, default_dtype
from zoo.errors import ZooError

__all__ = ["at_the_edge", "endless_coordinates", "may_not_exist"]

DOUBLINGS = 40  # of a distance of one sd
FALL = 1.02 * math.log(2.0)  # nats by which log p falls when such a distance doubles
EXACT = 1e-6  # relative error of the way to the site and back that still is no edge
MOST = 200  # coordinates
POINTS = 3


def endless_coordinates(density: LogDensity, points: Tensor, sd: Tensor) -> list[str]:
    """Return the coordinates along which the density does not fall off, as `site 'a' upwards`.

    The last doubling of the distance that floating point can represent is looked at, in both
    directions from each of `points` `[n, dim]`; `sd` `[dim]` is the unit. All points must agree.
    """
    found = []
    stride = max(1, density.dim // MOST)
    with torch.no_grad(), default_dtype(density.dtype):
        for site in density.sites:
            for i in range(site.start, site.stop, stride):
                for sign, word in ((1.0, "upwards"), (-1.0, "downwards")):
                    if all(_endless(density, site, u, i, sign * float(sd[i])) for u in points):
                        place = f"[{i - site.start}]" if site.stop - site.start > 1 else ""
                        found.append(f"site {site.name!r}{place} {word}")
    return found


def _endless(density: LogDensity, site: Site, u: Tensor, i: int, unit: float) -> bool:
    steps = unit * 2.0 ** torch.arange(DOUBLINGS + 1, dtype=u.dtype)
    line = u.repeat(len(steps), 1)
    line[:, i] = u[i] + steps
    usable = _exact(site, line)
    last = int(usable.long().cumprod(0).sum()) - 1
    if last < 2:
        return False
    try:
        near, far = (float(density.evaluate(line[k])) for k in (last - 1, last))
    except (RuntimeError, ValueError, ArithmeticError, ZooError):  # no density so far out
        return False
    return math.isfinite(near) and math.isfinite(far) and near - far < FALL


def _exact(site: Site, u: Tensor) -> Tensor:
    """Whether points `[n, dim]` survive the way to the site and back, `[n]`."""
    raw = site.part(u)
    value = site.transform(raw)
    gap = (site.transform.inv(value) - raw).abs() / (1 + raw.abs())
    fine = torch.isfinite(value).reshape(len(u), -1).all(-1)
    return fine & (gap.reshape(len(u), -1) <= EXACT).all(-1)


def at_the_edge(density: LogDensity, u: Tensor) -> tuple[str, float]:
    """Return the site with most draws `[n, dim]` at the end of its range, and their share."""
    with torch.no_grad(), default_dtype(density.dtype):
        shares = [(float((~_exact(s, u)).double().mean()), s.name) for s in density.sites]
    share, name = max(shares)
    return name, share


def may_not_exist(density: LogDensity, points: Tensor | None = None) -> str:
    """Return why a posterior may not exist, empty where nothing speaks for it.

    Args:
        density: its log density.
        points: draws `[n, dim]`; points around zero without them.
    """
    if points is None:
        generator = torch.Generator().manual_seed(577)
        points = 0.7 * torch.randn(POINTS, density.dim, dtype=density.dtype, generator=generator)
        sd = torch.ones(density.dim, dtype=density.dtype)
    else:
        name, share = at_the_edge(density, points)
        if share > 1e-3:
            return (
                f"the posterior may not exist: {share:.1%} of the draws of site {name!r} are at"
                " the end of its floating-point range"
            )
        sd = points.std(0).clamp(min=1e-8)
        points = points[torch.linspace(0, len(points) - 1, POINTS).long()]
    found = endless_coordinates(density, points, sd)
    if not found:
        return ""
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        "the posterior may not exist: its density does not fall off faster than 1 / distance along"
        f" {found[0]}{more}"
    )
