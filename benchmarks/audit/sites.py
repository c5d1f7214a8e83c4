"""Independent evaluation of one program run: terms per site, Jacobians, normalization.

Jacobians are computed by automatic differentiation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from zoo.contract.subject import Skipped, Subject
from zoo.density.log_density import LogDensity, default_dtype
from zoo.density.nodes import base_of
from zoo.distributions.circular import chart_of
from zoo.seeds import seeded

__all__ = ["auto_jacobian", "integral", "log_joint", "run_at"]

MOST_VALUES = 3_000_000
REACH, NUMBER = 12.0, 801  # sinh(12) = 8e4 scales; a Cauchy tail beyond is 8e-6
HIGHEST_COUNT = 20_000


def run_at(
    subject: Subject, draws: Mapping[str, Tensor], tensors: Mapping[str, Any] | None = None
) -> poutine.Trace:
    """Run the program with its latent sites fixed, without validation."""
    with (
        default_dtype(subject.entry.dtype),
        pyro.validation_enabled(False),
        poutine.block(),
        torch.no_grad(),
    ):
        fixed = poutine.condition(subject.program, data=dict(draws))
        return poutine.trace(fixed).get_trace(
            **(subject.data.train if tensors is None else tensors)
        )


def log_joint(subject: Subject, draws: Mapping[str, Tensor]) -> Tensor:
    """Add up log p of every site, evaluated once at its value, without Pyro's bookkeeping."""
    total = torch.zeros((), dtype=subject.density.dtype)
    for node in subject.sites(run_at(subject, draws)):
        terms = node["fn"].log_prob(node["value"])
        if node["mask"] is not None:
            terms = torch.where(torch.as_tensor(node["mask"]), terms, torch.zeros_like(terms))
        total = total + terms.sum()
    return total


def auto_jacobian(density: LogDensity, u: Tensor) -> Tensor:
    """Return log |det| of the map from a flat point to the constrained sites.

    It is computed by automatic differentiation.

    Raises:
        Skipped: a bijection onto a set whose free coordinates are unknown here.
    """
    total = u.new_zeros(())
    for s in density.sites:
        raw = s.part(u)

        def flat(x: Tensor, s: Any = s, shape: torch.Size = raw.shape) -> Tensor:
            return _free(s.name, s.transform(x.reshape(shape)), x.numel()).reshape(-1)

        matrix = torch.autograd.functional.jacobian(flat, raw.reshape(-1).detach())
        total = total + torch.linalg.slogdet(matrix)[1]
    return total


def _free(name: str, value: Tensor, number: int) -> Tensor:
    """Return the free coordinates of a value.

    They are all but the last of a simplex, and the lower triangle of a Cholesky factor.
    """
    if value.numel() == number:
        return value
    last = value.shape[-1]
    if (
        value.ndim
        and number == value.numel() // last * (last - 1)
        and not (value.ndim > 1 and value.shape[-2] == last)
    ):
        return value[..., :-1]
    if value.ndim > 1 and value.shape[-2] == last:
        for offset in (-1, 0):
            rows, columns = torch.tril_indices(last, last, offset)
            if number == value.numel() // last**2 * len(rows):
                return value[..., rows, columns]
    raise Skipped(
        f"Site {name!r} has {value.numel()} values with {number} free ones,"
        " in a form that this check does not know."
    )


def integral(node: Mapping[str, Any]) -> Tensor | None:
    """Return the integral (or sum) of the density of a univariate site, `[*batch]`.

    The integral is over its support; None if it is not possible.
    """
    fn = node["fn"]
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    kind = type(base_of(fn)).__name__
    if (
        fn.event_shape
        or kind in ("Unit", "Delta", "ImproperUniform")
        or getattr(fn, "support", None) is None
    ):
        return None
    batch = max(1, math.prod(fn.batch_shape))
    with torch.no_grad(), pyro.validation_enabled(False):
        if getattr(fn.support, "is_discrete", False):
            return _summed(fn, batch)
        return _integrated(fn, batch)


def _summed(fn: Any, batch: int) -> Tensor | None:
    if fn.has_enumerate_support:
        try:
            values = fn.enumerate_support(expand=False)
        except NotImplementedError:  # counts with different totals
            values = None
        if values is not None:
            return _terms(fn, values).exp().sum(0)
    with seeded(1):
        top = float(fn.sample((200,)).max())
    number = int(2 * top + 20 * math.sqrt(top + 1) + 60)
    bound = getattr(fn.support, "upper_bound", None)
    if bound is not None:
        number = int(torch.as_tensor(bound).max()) + 1
    if number > HIGHEST_COUNT or number * batch > MOST_VALUES:
        return None
    values = torch.arange(number, dtype=torch.get_default_dtype()).reshape(
        -1, *[1] * len(fn.batch_shape)
    )
    inside = fn.support.check(values)
    terms = torch.nan_to_num(_terms(fn, values), nan=-math.inf)
    return torch.where(inside, terms.exp(), torch.zeros_like(terms)).sum(0)


def _integrated(fn: Any, batch: int) -> Tensor | None:
    if NUMBER * batch > MOST_VALUES:
        return None
    transform = chart_of(fn)  # of an angle, which torch lets run over the real line
    with seeded(2):
        raw = transform.inv(fn.sample((400,)))
    # an atom at the border of the support has no unconstrained value
    finite = torch.where(raw.isfinite(), raw, torch.nan)
    low, middle, high = (finite.nanquantile(q, 0).nan_to_num() for q in (0.25, 0.5, 0.75))
    scale = ((high - low) / 1.35).clamp(min=1e-6)
    t = torch.linspace(-REACH, REACH, NUMBER, dtype=raw.dtype).reshape(
        -1, *[1] * len(fn.batch_shape)
    )
    u = middle + scale * t.sinh()
    x = transform(u)
    terms = fn.log_prob(x) + transform.log_abs_det_jacobian(u, x) + scale.log() + t.cosh().log()
    terms = torch.nan_to_num(terms, nan=-math.inf, posinf=-math.inf)
    total: Tensor = terms.exp().sum(0) * (2 * REACH / (NUMBER - 1))
    # values with a probability of their own, in addition to the density
    atoms = getattr(fn, "atoms", None)
    return total if atoms is None else total + fn.log_prob(atoms).exp().sum(0)


def _terms(fn: Any, values: Tensor) -> Tensor:
    terms: Tensor = fn.log_prob(values)
    return terms
