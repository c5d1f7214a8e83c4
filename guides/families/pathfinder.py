"""Pathfinder: climbs from several starts, and on each the normal with the best ELBO on its way.

q(u) = sum_k w_k Normal(u; m_k, H_k), one normal for every mode that was found. Each path is a
climb by L-BFGS, whose curvature history gives an inverse Hessian, and so a normal, at every point
of it; the normal with the best ELBO is the answer of the path (`guides.base.path_normals` has the
formulas). Of the paths that ended in one mode the best answers for it. The weights are the masses
of the modes, by the pooled draws of all paths (`guides.base.path_modes`), with their errors. With
`merge=False` the normals of all paths are kept, a wider net for importance weights.

It differs from the paper: draws are weighted by the mixture of all normals instead of their own,
noise is mirrored and common to the points of a path, later starts lie far from the first answer,
and the history is as long as the dimension up to 30. Pareto smoothing belongs to whoever weights
the draws of the fit, as with every family. It cannot represent skewness or tails, nor a mode in
which no path ended. More than 300 dimensions are refused.

Source: Zhang, Carpenter, Gelman and Vehtari (2022), JMLR 23(306).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guides.base.family import Family
from guides.base.modes import direction
from guides.base.path_modes import Answer, Pool, groups, masses, pool
from guides.base.path_normals import NormalMixture, PathNormal
from guides.base.path_search import Path, Units, best_normal, evaluated, follow, starts
from guides.types import Stop
from zoo.density.log_density import LogDensity
from zoo.errors import FitError, UsageError
from zoo.types import Data, ModelEntry, Program

__all__ = ["FAMILY", "LARGEST", "Settings", "build", "solve"]

SPENT = "path_gradients"  # buffer of the guide
LARGEST = 300  # dimensions
LEAST_HISTORY, MOST_HISTORY = 6, 30  # pairs; 6 is that of the paper
POINTS = 10  # tried by a start that finds none of finite density
LEAST_MASS = 0.001  # of a mode that has a component
FALL, SIDES = 1.0, (4.0, 16.0, 64.0, 256.0)  # nats at one of these sds on both sides of a mode
SCATTERED, LEVEL = 10.0, 0.01  # sds and nats between the ends of two climbs on a ridge
EQUAL = 0.05  # sds between judged quantities of modes that are copies of each other


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of the family.

    Attributes:
        paths: number of starts, and the most normals.
        evaluations: most gradients of a path.
        history: pairs of L-BFGS, by default the dimension between 6 and 30.
        elbo_draws: log densities for the ELBO at a point of a path, an even number.
        pool_draws: draws of every path's normal for the masses.
        merge: whether one normal answers for a mode; if not, the normals of all paths are kept,
            with the weights of the smallest KL(p, q) by the pooled draws.

    Raises:
        UsageError: a number that is no positive integer, an odd `elbo_draws`, or a `merge` that is
            neither true nor false.
    """

    paths: int = 12
    evaluations: int = 299
    history: int | None = None
    elbo_draws: int = 10
    pool_draws: int = 250
    merge: bool = True

    def __post_init__(self) -> None:
        """Validate the options."""
        for name in ("paths", "evaluations", "history", "elbo_draws", "pool_draws"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            even = name != "elbo_draws" or (whole and value % 2 == 0)
            if value is not None and not (whole and value > 0 and even):
                raise UsageError(
                    f"Option {name} of pathfinder is {value}; accepted: a positive"
                    f"{' even' if name == 'elbo_draws' else ''} integer."
                )

        if not isinstance(self.merge, bool):
            raise UsageError(
                f"Option merge of pathfinder is {self.merge!r}; accepted: True or False."
            )

    def pairs(self, dim: int) -> int:
        """Return the pairs of differences that L-BFGS keeps."""
        return self.history or min(MOST_HISTORY, max(LEAST_HISTORY, dim))


def build(
    program: Program,
    data: Data,
    entry: ModelEntry,
    *,
    density: LogDensity | None = None,
    **options: Any,
) -> nn.Module:
    """Build the mixture of normals that `solve` fills.

    After the fit its buffers `weight` and `weight_error` hold the masses of the modes and their
    errors, and `path_gradients` `[path]` the gradients of every path.

    Raises:
        UsageError: more than 300 dimensions, or a number that is no positive integer.
    """
    settings = Settings(**options)
    density = density or LogDensity(program, data, dtype=entry.dtype)
    if density.dim > LARGEST:
        raise UsageError(
            f"pathfinder has a normal of at most {LARGEST} dimensions and {entry.name} has"
            f" {density.dim:,}; use low_rank."
        )
    rank = min(density.dim, 2 * settings.pairs(density.dim))
    guide = NormalMixture(density.dim, settings.paths, rank, density.dtype)
    guide.register_buffer(SPENT, torch.zeros(settings.paths, dtype=torch.int64))
    guide.__dict__["settings"] = settings
    guide.__dict__["entry"] = entry
    return guide


def solve(guide: nn.Module, density: LogDensity, generator: torch.Generator) -> tuple[Stop, int]:
    """Follow the paths, weight their modes, fill the guide, and say what was found.

    Returns:
        Why it ended, and the number of gradients of all paths and starts.
    """
    assert isinstance(guide, NormalMixture)
    settings: Settings = guide.__dict__["settings"]
    before, tried = density.gradient_evaluations, 0
    history = settings.pairs(density.dim)
    answers: list[Answer] = []
    units = Units()
    try:
        for k, (point, spent) in enumerate(starts(density, generator, settings.paths, units)):
            tried += spent
            if point is None:
                continue
            path = follow(
                density,
                point,
                scale=units.scale(density.dim),
                history=history,
                evaluations=settings.evaluations,
            )
            guide.get_buffer(SPENT)[k] = path.calls
            half = torch.randn(
                settings.elbo_draws // 2, density.dim, dtype=torch.float64, generator=generator
            )
            best = best_normal(density, path, torch.cat([half, -half]), history)
            if best is not None:
                answers.append(Answer(path=path, number=best[0], normal=best[1]))
                units.add(best[1], best[2])
    except FitError as error:
        spent = tried + POINTS + density.gradient_evaluations - before
        return Stop(status="init_failed", step=0, sentence=str(error)), spent
    stop = _conclude(guide, density, settings, answers, generator)
    return stop, tried + density.gradient_evaluations - before


def _conclude(
    guide: NormalMixture,
    density: LogDensity,
    settings: Settings,
    answers: list[Answer],
    generator: torch.Generator,
) -> Stop:
    """Fill the guide with the best normal of every mode, and say which modes there are."""
    if not answers:
        sentence = (
            f"None of {settings.paths} paths met a curvature that gives a normal: the density is"
            " level, or keeps rising; is the posterior proper?"
        )
        return Stop(status="init_failed", step=0, sentence=sentence)
    pooled = pool(density, [a.normal for a in answers], settings.pool_draws, generator)
    values = pooled.elbos
    modes = groups(density, [a.path for a in answers])
    best = [max(own, key=lambda k: float(values[k])) for own in modes]
    mass, error = masses(pooled, best)
    kept = [int(m) for m in mass.argsort(descending=True) if float(mass[m]) >= LEAST_MASS]
    if not kept:
        sentence = (
            f"No draw of {len(answers)} normals has a finite log density, first at"
            f" {density.nonfinite_sites(answers[0].normal.loc.to(density.dtype))}."
        )
        return Stop(status="init_failed", step=0, sentence=sentence)
    normals = [answers[best[m]].normal for m in kept]
    level = _level(density, normals[0], [answers[k].path for k in modes[kept[0]]])
    if level:
        return Stop(status="init_failed", step=0, sentence=level)
    share = mass[kept] / mass[kept].sum()
    if settings.merge:
        guide.fill(normals, share, error[kept])
    else:
        _fill_all(guide, pooled, [a.normal for a in answers])
    settled = all(any(answers[k].path.settled for k in modes[m]) for m in kept)
    tops = torch.stack([answers[modes[m][0]].path.end for m in kept])
    heights = [answers[modes[m][0]].path.heights[-1] for m in kept]
    sentence = _modes(guide, density, tops, heights, share, error[kept])
    sentence += _paths(settings, answers, [modes[m] for m in kept], len(modes) - len(kept))
    sentence += _quality(pooled, settled, settings)
    return Stop(status="ok" if settled else "not_converged", step=0, sentence=sentence)


def _fill_all(guide: NormalMixture, pooled: Pool, normals: list[PathNormal]) -> None:
    """Keep the normals of all paths, with the weights of the smallest KL(p, q)."""
    weights, errors = masses(pooled, list(range(len(normals))))
    order = [int(k) for k in weights.argsort(descending=True) if float(weights[k]) >= LEAST_MASS]
    share = weights[order] / weights[order].sum()
    guide.fill([normals[k] for k in order], share, errors[order])


def _level(density: LogDensity, normal: PathNormal, paths: list[Path]) -> str:
    """Say along what the density does not fall away from a mode; empty if it does.

    It is level on one side of the normal, or climbs that settled ended equally high but far apart.
    """
    axis = normal.widest
    steps = torch.tensor(SIDES, dtype=torch.float64)
    sides = normal.loc + torch.stack([steps, -steps])[..., None] * axis  # [side, step, dim]
    values = evaluated(density, torch.cat([normal.loc[None], sides.flatten(0, 1)]))
    falls = (values[0] - values[1:].reshape(2, -1) > FALL).any(1)
    if not bool(falls.all()):
        return (
            f"The density stays level along {direction(density, axis)}, over {SIDES[-1]:g} of the"
            " sds that its curvature promises: no normal there; is the posterior proper?"
        )
    ends = [path for path in paths if path.settled]
    for path in ends[1:]:
        apart = path.end - ends[0].end
        far = float((apart / normal.sds).abs().max())
        if far > SCATTERED and ends[0].heights[-1] - path.heights[-1] < LEVEL:
            return (
                f"Two climbs ended equally high but {far:.2g} sds apart along"
                f" {direction(density, apart)}, where the density is level: no normal there; is"
                " the posterior proper?"
            )
    return ""


def _modes(
    guide: NormalMixture,
    density: LogDensity,
    tops: Tensor,
    heights: list[float],
    share: Tensor,
    error: Tensor,
) -> str:
    """Name the modes with their masses."""
    if len(tops) == 1:
        return f"One mode, of log density {heights[0]:.6g} nats."
    label, values = _apart(guide, density, tops)
    named = ", ".join(
        f"{_mass(float(w), float(e))} near {label} = {v:.3g}"
        for w, e, v in zip(share, error, values, strict=True)
    )
    same = _copies(guide, density, tops)
    return f"{len(tops)} modes: {named}.{same}"


def _mass(mass: float, error: float) -> str:
    """Return a mass with its error, with the digits that the error allows."""
    digits = 2 if error >= 0.01 else 3
    return f"{mass:.{digits}f} +- {max(error, 0.001):.{digits}f}"


def _apart(guide: NormalMixture, density: LogDensity, tops: Tensor) -> tuple[str, list[float]]:
    """Return the name of the value in which modes differ most in their sds, and its values."""
    sds = torch.stack([normal.sds.double() for normal in guide.normals]).mean(0)
    place = int(((tops.amax(0) - tops.amin(0)) / sds).argmax())
    site = next(s for s in density.sites if s.start <= place < s.stop)
    with torch.no_grad():
        value = density.constrain(tops.to(density.dtype))[site.name].reshape(len(tops), -1)
    label, k = site.name, place - site.start
    if value.shape[1] != site.stop - site.start:  # a simplex has one value more
        return f"unconstrained {label}[{k}]", tops[:, place].tolist()
    return label + (f"[{k}]" if value.shape[1] > 1 else ""), value[:, k].tolist()


def _copies(guide: NormalMixture, density: LogDensity, tops: Tensor) -> str:
    """Say if the modes are equal in every judged quantity: labels or signs are free."""
    entry: ModelEntry = guide.__dict__["entry"]
    noise = torch.randn(
        64, density.dim, generator=torch.Generator().manual_seed(0), dtype=density.dtype
    )
    judged = [q for q in entry.quantities.values() if q.judged]
    with torch.no_grad():
        for quantity in judged:
            at, around = (
                quantity.fn(density.constrain(u), density.data).double().reshape(len(u), -1)
                for u in (tops.to(density.dtype), guide.normals[0].at(noise))
            )
            apart = at.amax(0) - at.amin(0)
            if not bool((apart <= EQUAL * around.std(0) + 1e-9).all()):
                return ""
    return " They are equal in every judged quantity (free labels or signs)." if judged else ""


def _paths(settings: Settings, answers: list[Answer], kept: list[list[int]], dropped: int) -> str:
    """Say where the paths ended."""
    ended = " and ".join(str(len(own)) for own in kept)
    most = max(answer.path.calls for answer in answers)
    said = f" {ended} of {settings.paths} paths ended there, with at most {most} gradients each."
    if dropped:
        said += f" Other modes, of less than {LEAST_MASS:g} of the mass each: {dropped}."
    return said


def _quality(pooled: Pool, settled: bool, settings: Settings) -> str:
    """Say what the pooled weights are worth, and whether a climb was cut short."""
    number = pooled.log_p.numel()
    said = f" The pooled weights of {number:,} draws are worth {pooled.ess:,.0f}."
    if not settled:
        said += f" No path to a mode settled within {settings.evaluations} gradients."
    return said


FAMILY = Family(
    name="pathfinder",
    q="a normal per mode from the curvature along climbs, weighted by mass",
    blind_spot="no skewness or tails; only modes in which a path ended",
    build=build,
    options=("paths", "evaluations", "history", "elbo_draws", "pool_draws", "merge"),
    solve=solve,
    richer=("full_rank", "flow"),
)
