"""Whether a posterior may fail to exist: directions along which its density does not fall off.

Where the posterior is proper, almost every line parallel to a coordinate axis has a finite
integral (Fubini), so that along it the density falls faster than 1 / distance in the end. A
coordinate along which it does not, at several points, shows that the integral diverges. The
reverse does not hold: a density can be improper along no axis. Where sites have flat priors other
lines are looked at as well (`zoo.density.ridges`), since the same holds in every direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.density.faults import unless_it_raises
from zoo.density.log_density import LogDensity
from zoo.density.ridges import flat_sites, runaway, standardized, unchanging, widest
from zoo.density.sites import Site, default_dtype, is_identity

__all__ = ["at_the_edge", "endless_coordinates", "may_not_exist"]

DOUBLINGS = 40  # of a distance of one sd
FALL = 1.02  # nats by which log p falls per nat of the distance
STRETCH = 1.25  # of the distance at the very end of a line
STEPS = 33  # in which the end of a line is looked for
ROUNDED = 1e13  # nats; of a larger log density no fall of a nat can be told
EXACT = 1e-6  # relative error of the way to the site and back that still is no edge
# Share of draws at the end of a range beyond which mass lies there. A sparse Dirichlet density has
# some draws below the smallest distance from zero that a simplex keeps.
EDGE = 0.02
MOST = 200  # coordinates
POINTS = 3
AT_ONCE = 100_000  # coordinates of the points of one batch
ALONE = 8  # places up to which a batch does not pay
SHORT = 1e-9  # length of a direction that is none
MOST_NAMED = 4  # coordinates of a direction

Place = tuple[Site, int, float]  # a coordinate of a site, upwards or downwards


def endless_coordinates(density: LogDensity, points: Tensor, sd: Tensor) -> list[str]:
    """Return the coordinates along which the density does not fall off, as `site 'a' upwards`.

    The last doubling of the distance that floating point can represent is looked at, in both
    directions from each of `points` `[n, dim]`; `sd` `[dim]` is the unit. All points must agree.
    """
    stride = max(1, density.dim // MOST)
    places = [
        (site, i, sign)
        for site in density.sites
        for i in range(site.start, site.stop, stride)
        for sign in (1.0, -1.0)
    ]
    found = []
    with torch.no_grad(), default_dtype(density.dtype):
        left = _candidates(density, points[0], sd, places) if len(places) > ALONE else places
        for site, i, sign in left:
            if all(_endless(density, site, u, i, sign * float(sd[i])) for u in points):
                place = f"[{i - site.start}]" if site.stop - site.start > 1 else ""
                word = "upwards" if sign > 0 else "downwards"
                found.append(f"site {site.name!r}{place} {word}")
    return found


def _candidates(density: LogDensity, u: Tensor, sd: Tensor, places: list[Place]) -> list[Place]:
    """Return the places where the density does not fall off from one point, in one batch."""
    ends, kept = [], []
    for site, i, sign in places:
        way = torch.zeros_like(u)
        way[i] = sign * float(sd[i])
        line, last = _last_doubling((site,), u, way)
        if last >= 2:
            ends += [line[last - 1], line[last]]
            kept.append((site, i, sign))
    if not kept:
        return []
    parts = torch.stack(ends).split(max(1, AT_ONCE // density.dim))
    none: list[Tensor] = []
    found = unless_it_raises(lambda: [density.eager_batch()(part) for part in parts], none)
    if not found:  # no density at one of them
        return kept
    values = torch.cat(found).reshape(-1, 2)
    fall = FALL * math.log(2.0)
    slow = (values.abs() < ROUNDED).all(-1) & (values[:, 0] - values[:, 1] < fall)
    return [place for place, flat in zip(kept, slow.tolist(), strict=True) if flat]


def _endless(density: LogDensity, site: Site, u: Tensor, i: int, unit: float) -> bool:
    way = torch.zeros_like(u)
    way[i] = unit
    return _endless_along(density, (site,), u, way)


def _endless_along(density: LogDensity, sites: Sequence[Site], u: Tensor, way: Tensor) -> bool:
    """Whether the density does not fall off from `u` `[dim]` along `way` `[dim]`, one sd long."""
    line, last = _last_doubling(sites, u, way)
    if last < 2:
        return False
    near, far = _heights(density, line[last - 1 : last + 1])
    if not (abs(near) < ROUNDED and abs(far) < ROUNDED and near - far < FALL * math.log(2.0)):
        return False
    if last == DOUBLINGS:
        return True
    # where a line is short, the mass may lie within its last doubling: that of Beta(1e5, 1) does
    end = 2.0**last * _longest(sites, u, 2.0**last * way)
    near, far = _heights(density, u + torch.stack([end / STRETCH, end])[:, None] * way)
    falls = math.isfinite(near) and math.isfinite(far)
    return not (falls and near - far >= FALL * math.log(STRETCH))


def _heights(density: LogDensity, points: Tensor) -> tuple[float, ...]:
    """Return the log density at points `[n, dim]`, not a number where there is none."""
    nothing = (math.nan,) * len(points)
    return unless_it_raises(lambda: tuple(float(density.evaluate(p)) for p in points), nothing)


def _longest(sites: Sequence[Site], u: Tensor, way: Tensor) -> Tensor:
    """Return the largest of some numbers from 1 to 2 by which `way` may be stretched."""
    stretched = torch.linspace(1.0, 2.0, STEPS, dtype=u.dtype)
    line = u + stretched[:, None] * way
    usable = torch.stack([_exact(site, line) for site in sites]).all(0)
    return stretched[max(0, int(usable.long().cumprod(0).sum()) - 1)]


def _last_doubling(sites: Sequence[Site], u: Tensor, way: Tensor) -> tuple[Tensor, int]:
    """Return points `[doubling, dim]` and the last one that every site can represent."""
    steps = 2.0 ** torch.arange(DOUBLINGS + 1, dtype=u.dtype)
    line = u + steps[:, None] * way
    usable = torch.stack([_exact(site, line) for site in sites]).all(0)
    return line, int(usable.long().cumprod(0).sum()) - 1


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
    draws = points
    if points is None:
        points, sd = _around_zero(density), torch.ones(density.dim, dtype=density.dtype)
    else:
        name, share = at_the_edge(density, points)
        if share > EDGE:
            return (
                f"the posterior may not exist: {share:.1%} of the draws of site {name!r} are at"
                " the end of its floating-point range"
            )
        sd = points.std(0).clamp(min=1e-8)
        points = points[torch.linspace(0, len(points) - 1, POINTS).long()]
    found = endless_coordinates(density, points, sd) or _oblique(density, points, sd, draws)
    if not found:
        return ""
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        "the posterior may not exist: its density does not fall off faster than 1 / distance along"
        f" {found[0]}{more}"
    )


def _around_zero(density: LogDensity) -> Tensor:
    generator = torch.Generator().manual_seed(577)
    return 0.7 * torch.randn(POINTS, density.dim, dtype=density.dtype, generator=generator)


def _oblique(density: LogDensity, points: Tensor, sd: Tensor, draws: Tensor | None) -> list[str]:
    """Return the endless directions that are no axis; only flat priors are asked for them."""
    if not flat_sites(density):
        return []
    ways = [unchanging(density), runaway(density)]
    if draws is not None:
        wide = widest(draws)
        ways.append(wide * (draws @ wide.T).std(0).clamp(min=1e-8)[:, None])
    # a line ends where its first site does; only unbounded sites go far enough for all of them
    endless = torch.zeros(density.dim, dtype=density.dtype)
    for site in density.sites:
        endless[site.start : site.stop] = is_identity(site.transform)
    for way in torch.cat(ways) * endless:
        if not torch.isfinite(way).all() or float(way.norm()) < SHORT:
            continue
        for sign in (1.0, -1.0):
            if all(_endless_along(density, density.sites, u, sign * way) for u in points):
                return [_named(density, sign * way)]
    with torch.no_grad():
        other = unless_it_raises(lambda: standardized(density), None)
    if other is None:
        return []
    ones = torch.ones(other.dim, dtype=other.dtype)
    found = endless_coordinates(other, _around_zero(other), ones)
    return [f"{place}, sites of latent scale in standard form" for place in found]


def _named(density: LogDensity, way: Tensor) -> str:
    """Return a direction in words: `1 * a - 1 * b`, its largest parts."""
    parts = way / way.abs().max()
    words = []
    for i in parts.abs().argsort(descending=True)[:MOST_NAMED].tolist():
        if abs(float(parts[i])) < 1e-3:
            break
        site = next(s for s in density.sites if s.start <= i < s.stop)
        place = f"[{i - site.start}]" if site.stop - site.start > 1 else ""
        words.append(f"{float(parts[i]):+.2g} {site.name}{place}")
    more = " ..." if int((parts.abs() >= 1e-3).sum()) > len(words) else ""
    return f"the direction {' '.join(words)}{more}"
