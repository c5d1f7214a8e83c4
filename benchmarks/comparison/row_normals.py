"""The normals from which a Pyro guide draws the values of each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions.transforms import ExpTransform

from benchmarks.comparison.best_in_family import LocalQ
from guides.base.heads import make_head
from guides.base.program_draws import program_draws
from zoo.density.log_density import LogDensity
from zoo.density.sites import is_identity, samples
from zoo.errors import UsageError
from zoo.seeds import seeded

__all__ = ["NEEDED", "row_normals"]

NEEDED = "The gap report, and an assessment row by row, need a q of each row"

DRAWS = 4  # at which log q of the normals is compared with that of the guide
SAME = 1e-6  # relative


def row_normals(
    guide: nn.Module, density: LogDensity, family: str, *, serves: bool = False
) -> LocalQ:
    """Return a guide's q of every row over its unconstrained values, as one normal per row.

    Must be called inside a session.

    Args:
        guide: a Pyro guide that draws every site from a `Normal`, a `LogNormal` of a positive
            site, a `Normal` under the site's own map of the real line (a logit-normal on the unit
            interval), or its only site from a `MultivariateNormal`.
        density: the log density of the program on the rows.
        family: the guide's name, for the message.
        serves: whether it also serves other rows, so that some of them can be judged together.

    Raises:
        UsageError: other distributions, or parameters that depend on other draws.
    """
    few = ", ".join(f"{k!r}: {k}[:5]" for k in density.data.batched) if serves else ""
    with torch.no_grad(), seeded(0):
        nodes = _nodes(guide, density)
        places = torch.cat([s.unit_indices() for s in density.sites], -1)  # [unit, local]
        loc, scale = torch.zeros(density.dim), torch.zeros(density.dim)
        factor: Tensor | None = None
        for s in density.sites:
            found = _normal(nodes[s.name]["fn"], s.transform)
            if found is None or (found[1].ndim > found[0].ndim and len(density.sites) > 1):
                kind = type(_inside(nodes[s.name]["fn"])).__name__
                raise _refusal(family, s.name, f"from {kind}", few)
            mean, spread = found
            loc[s.start : s.stop] = mean.expand(s.unconstrained_shape).reshape(-1)
            if spread.ndim > mean.ndim:
                factor = spread.expand(*mean.shape, mean.shape[-1])[None].reshape(
                    -1, mean.shape[-1], mean.shape[-1]
                )
                spread = factor.diagonal(dim1=-2, dim2=-1)
            scale[s.start : s.stop] = spread.expand(s.unconstrained_shape).reshape(-1)
        width = places.shape[1]
        numbers = [loc[places], scale[places].log()]
        if factor is not None:
            rows, columns = torch.tril_indices(width, width, -1)
            numbers.append(factor[:, rows, columns])
        head = make_head("diagonal" if factor is None else "full", width, density.dtype)
        q = LocalQ(head, torch.cat(numbers, -1), torch.zeros(width), torch.ones(width))
        u, log_q = program_draws(guide, density, DRAWS)
        theirs = q.log_prob(u[:, places]).sum(-1)
        moved = _moved(nodes, _nodes(guide, density), density)  # at other draws
    if not bool(((theirs - log_q).abs() <= SAME * log_q.abs().clamp(min=1.0)).all()):
        raise _refusal(family, moved, "with parameters that depend on other draws", few)
    return q


def _nodes(guide: nn.Module, density: LogDensity) -> dict[str, Any]:
    trace = poutine.block(poutine.trace(guide).get_trace)(**density.data.train)
    return {n["name"]: n for n in samples(trace)}


def _moved(one: dict[str, Any], other: dict[str, Any], density: LogDensity) -> str:
    """Return the first site whose normal is another one in another run, else the last site."""
    for s in density.sites:
        pairs = [_normal(nodes[s.name]["fn"], s.transform) for nodes in (one, other)]
        if None in pairs or any(not torch.equal(a, b) for a, b in zip(*pairs, strict=True)):
            return s.name
    return density.sites[-1].name


def _inside(fn: Any) -> Any:
    while isinstance(fn, dist.Independent | dist.MaskedDistribution) or type(fn).__name__ in (
        "Independent",
        "MaskedDistribution",
        "ExpandedDistribution",
    ):
        fn = fn.base_dist
    return fn


def _normal(fn: Any, transform: Any) -> tuple[Tensor, Tensor] | None:
    """Return location and scale (a factor `[..., d, d]` of a joint one), None for others."""
    fn = _inside(fn)
    if isinstance(fn, torch.distributions.Normal) and is_identity(transform):
        return fn.loc, fn.scale
    if isinstance(fn, torch.distributions.MultivariateNormal) and is_identity(transform):
        return fn.loc, fn.scale_tril
    parts = [p for p in getattr(transform, "parts", [transform]) if not is_identity(p)]
    exponential = len(parts) == 1 and isinstance(_bare(parts[0]), ExpTransform)
    if isinstance(fn, torch.distributions.LogNormal) and exponential:
        return fn.loc, fn.scale
    if isinstance(fn, torch.distributions.TransformedDistribution):
        inner = _inside(fn.base_dist)
        if isinstance(inner, torch.distributions.Normal) and _alike(fn.transforms, transform):
            return inner.loc, inner.scale
    return None


def _alike(transforms: Sequence[Any], transform: Any) -> bool:
    """Whether transforms of a guide map numbers as that of the site, and thus the real line."""
    numbers = torch.linspace(-3.0, 3.0, 7)
    made = numbers
    for step in transforms:
        if step.domain.event_dim or step.codomain.event_dim:  # of whole vectors
            return False
        made = step(made)
    try:
        theirs = transform(numbers)
    except (RuntimeError, ValueError):  # it takes vectors of another length
        return False
    return made.shape == theirs.shape and torch.allclose(made, theirs, rtol=1e-9, atol=1e-9)


def _bare(transform: Any) -> Any:
    while hasattr(transform, "base_transform"):
        transform = transform.base_transform
    return transform


def _refusal(family: str, site: str, what: str, few: str) -> UsageError:
    """Return the refusal; with some rows, as `'x': x[:5]`, also how these are judged together."""
    together = (
        f" Without one, some rows are judged together: some = guides.transfer(fit, {{{few}}}), and"
        " benchmarks.assess(some)."
        if few
        else ""
    )
    return UsageError(
        f"{NEEDED} that is a normal; the guide {family!r} draws"
        f" {site!r} {what}; accepted: Normal,"
        " LogNormal for a positive site, a Normal under a SigmoidTransform on the unit interval,"
        " MultivariateNormal for the only site, all with parameters computed from the data."
        f"{together}"
    )
