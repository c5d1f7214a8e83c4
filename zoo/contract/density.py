"""Checks of the log density: finite, differentiable, invertible, proper, exact."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from zoo.contract.check import Rule, rules
from zoo.contract.subject import Failed, Skipped, Subject
from zoo.density.log_density import default_dtype
from zoo.distributions.supports import innermost
from zoo.errors import ZooError

__all__ = ["CHECKS"]


def log_density(subject: Subject) -> str:
    """The density is finite and deterministic at several points, and its supports are fixed."""
    try:
        density = subject.new_density()
    except ZooError as error:
        raise Failed(str(error)) from error
    for u in subject.points:
        value, gradient = density.eager_gradient(u)
        if not torch.isfinite(value) or not torch.isfinite(gradient).all():
            raise Failed(
                f"The log density is {value.item():.4g} with a gradient not finite everywhere at"
                " an ordinary point; check the supports."
            )
        if not torch.equal(
            density.evaluate(u.clone()).detach(), density.evaluate(u.clone()).detach()
        ):
            raise Failed(
                "The log density differs between two evaluations at one point; a random choice is"
                " left inside."
            )
    return f"Finite and repeatable at {len(subject.points)} points in {density.dim} dimensions."


def round_trip(subject: Subject) -> str:
    """Mapping unconstrained points to the sites and back is the identity."""
    u = subject.points
    error = (subject.density.unconstrain(subject.density.constrain(u)) - u).abs().max().item()
    if not error < 1e-6:
        raise Failed(
            f"unconstrain(constrain(u)) is off by {error:.2g}; a site's support has no exact"
            " bijection."
        )
    return f"unconstrain(constrain(u)) = u within {error:.1g}."


def gradient(subject: Subject) -> str:
    """The gradient equals central differences in random directions."""
    density = subject.density
    if density.dtype != torch.float64:
        raise Skipped("Differences need float64.")
    generator = torch.Generator().manual_seed(7)
    worst, step = 0.0, 1e-5
    for u in subject.points[:3]:
        value, grad = density.eager_gradient(u)
        direction = torch.randn(density.dim, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            ahead, behind = (
                density.evaluate(u + step * direction),
                density.evaluate(u - step * direction),
            )
        slope, expected = (ahead - behind) / (2 * step), grad @ direction
        worst = max(worst, ((slope - expected).abs() / (1 + value.abs() + expected.abs())).item())
    if not worst < 1e-5:
        raise Failed(
            f"The gradient is off by {worst:.2g} from differences; avoid .detach(), .item() and"
            " branches on latents."
        )
    return f"Gradient equals central differences within {worst:.1g}."


def batches(subject: Subject) -> str:
    """A batch of points gives the same values as the points one by one."""
    density = subject.density
    with torch.no_grad():
        together = density.eager_batch()(subject.points)
        single = torch.stack([density.evaluate(u) for u in subject.points])
    if not torch.allclose(together, single, rtol=1e-9, atol=1e-9):
        raise Failed(
            "The log density of a batch differs from the points one by one; avoid in-place changes"
            " and fixed shapes."
        )
    return "A batch equals its points one by one."


def enumeration(subject: Subject) -> str:
    """On a tiny case the sum over discrete sites equals the sum over every combination."""
    names = subject.density.discrete
    if not names:
        raise Skipped("The program has no discrete latent site.")
    tiny = _tiny(subject, names)
    u = tiny.points[0]
    sizes = {n["name"]: n for n in tiny.sites() if n["name"] in names}
    choices = [_values(n) for n in sizes.values()]
    if math.prod(len(c) for c in choices) > 2048:
        raise Skipped("Even the smallest case has too many combinations of discrete values.")
    draws = tiny.density.constrain(u)
    terms = []
    with (
        pyro.validation_enabled(False),
        default_dtype(tiny.entry.dtype),
        torch.no_grad(),
        poutine.block(),
    ):
        for combination in itertools.product(*choices):
            fixed = {**draws, **dict(zip(sizes, combination, strict=True))}
            terms.append(
                poutine.trace(poutine.condition(tiny.program, data=fixed))
                .get_trace(**tiny.data.train)
                .log_prob_sum()
            )
    expected = torch.stack(terms).logsumexp(0) + tiny.jacobian(u)
    found = tiny.density.evaluate(u)
    if not torch.isclose(found, expected, rtol=1e-9, atol=1e-9):
        raise Failed(
            f"Enumeration gives {found.item():.10g} but the sum over {len(terms)} combinations is"
            f" {expected.item():.10g} nats."
        )
    return f"Enumeration equals the sum over {len(terms)} combinations."


def _values(node: dict[str, Any]) -> list[Tensor]:
    """All values of a discrete site."""
    classes, shape = len(node["fn"].enumerate_support(expand=False)), node["value"].shape
    return [
        torch.tensor(c, dtype=node["value"].dtype).reshape(shape)
        for c in itertools.product(range(classes), repeat=shape.numel())
    ]


def _tiny(subject: Subject, names: list[str]) -> Subject:
    """Subset the data to so few units that every combination can be enumerated."""
    node = next(n for n in subject.sites() if n["name"] == names[0])
    units = next((f.size for f in reversed(node["cond_indep_stack"]) if f.vectorized), None)
    classes = len(node["fn"].enumerate_support(expand=False))
    if units is None or classes**units <= 2048:
        return subject
    few = max(1, int(math.log(256) / math.log(max(classes, 2))))
    data = subject.data
    cut = {
        k: v[:few] if isinstance(v, Tensor) and v.ndim and v.shape[0] == units else v
        for k, v in data.train.items()
    }
    tiny = Subject(subject.entry)
    try:
        tiny.__dict__["data"] = replace(
            data, train=cut, test=None, size=few if data.size == units else data.size
        )
        tiny.__dict__["density"] = tiny.new_density()
        tiny.sites()
    except Exception as error:
        raise Skipped(
            f"The program cannot be cut to {few} of {units} units ({type(error).__name__})."
        ) from error
    return tiny


def pointwise(subject: Subject) -> str:
    """The log likelihood per observation sums to the likelihood part of the density."""
    density = subject.density
    if not subject.observed:
        raise Skipped("Nothing is observed.")
    if any(bool((torch.as_tensor(n["scale"]) != 1.0).any()) for n in subject.sites()):
        raise Skipped("The program scales its log probabilities.")
    u = subject.points[0]
    draws = density.constrain(u)
    try:
        rows = density.pointwise({k: v.unsqueeze(0) for k, v in draws.items()})
    except ZooError as error:
        raise Skipped(str(error)) from error
    with default_dtype(subject.entry.dtype), torch.no_grad():
        trace = density.trace(draws, subject.data.train)
        trace.compute_log_prob()
    rest = sum(
        (
            n["log_prob"].sum()
            for n in subject.sites(trace)
            if n["name"] not in rows and n["name"] not in density.discrete
        ),
        start=subject.jacobian(u),
    )
    total, parts = density.evaluate(u), sum(v.sum() for v in rows.values())
    if not torch.isclose(total - rest, torch.as_tensor(parts), rtol=1e-9, atol=1e-8):
        raise Failed(
            f"The observations sum to {float(parts):.8g} but the likelihood part of the density is"
            f" {(total - rest).item():.8g} nats."
        )
    return f"{sum(v.numel() for v in rows.values())} log likelihoods sum to the likelihood part."


def proper_at_ties(subject: Subject) -> str:
    """A mixture's density vanishes as one class shrinks onto tied values."""
    classes = _classes(subject)
    if classes is None:
        raise Skipped("The program is no mixture.")
    tied = 0
    for scale in subject.density.sites:
        if not _positive(subject, scale.name) or classes not in scale.shape[:1]:
            continue
        for place in itertools.islice(itertools.product(*(range(n) for n in scale.shape)), 8):
            for value, site in _ties(subject, place, scale.shape):
                tied += 1
                if _grows(subject, scale.name, site, place, value):
                    at = list(place)
                    raise Failed(
                        f"The log density does not fall to -inf as {scale.name}{at} shrinks with"
                        f" {site}{at} at the tied value {value:.4g}: the posterior is improper;"
                        " give the scale a prior that vanishes at 0 faster than any power, such"
                        " as LogNormal."
                    )
    if not tied:
        raise Skipped("No class scale can shrink onto tied values of the data.")
    return f"The density falls to -inf in {tied} ways for a class to shrink onto tied values."


def _classes(subject: Subject) -> int | None:
    for node in subject.sites():
        if node["name"] in subject.density.discrete:
            return len(node["fn"].enumerate_support(expand=False))
        if hasattr(node["fn"], "mixture_distribution"):
            return int(node["fn"].mixture_distribution.param_shape[-1])
    return None


def _positive(subject: Subject, name: str) -> bool:
    support = innermost(next(n for n in subject.sites() if n["name"] == name)["fn"].support)
    return bool(
        (torch.as_tensor(getattr(support, "lower_bound", -1.0)) == 0).all()
    ) and not hasattr(support, "upper_bound")


def _ties(subject: Subject, place: tuple[int, ...], shape: torch.Size) -> list[tuple[float, str]]:
    """Pairs of a most frequent data value and a location site of the same shape."""
    pairs = []
    for node in subject.observed:
        seen = node["value"]
        column = (
            seen
            if seen.ndim == 1
            else seen[:, place[-1]]
            if seen.ndim == 2 and len(place) == 2
            else None
        )
        if column is None or not column.dtype.is_floating_point:
            continue
        values, counts = column.unique(return_counts=True)
        if counts.max() > 1:
            value = float(values[counts.argmax()])
            pairs += [
                (value, s.name)
                for s in subject.density.sites
                if s.shape == shape and not _positive(subject, s.name)
            ]
    return pairs


def _grows(
    subject: Subject, scale: str, location: str, place: tuple[int, ...], value: float
) -> bool:
    """Whether the density grows as a scale shrinks, compared at two tiny scales.

    They lie beyond any turning point, where a proper posterior falls. Larger scales are tried only
    if the density cannot be computed at the smallest ones.
    """
    draws = {k: v.clone() for k, v in subject.density.constrain(subject.points[0]).items()}
    draws[location][place] = value

    def at(log_scale: float) -> float:
        draws[scale][place] = math.exp(log_scale)
        with torch.no_grad():
            return subject.density.evaluate(subject.density.unconstrain(draws)).item()

    for near, far in ((-250.0, -300.0), (-70.0, -80.0), (-30.0, -35.0)):
        before, after = at(near), at(far)
        if not math.isnan(before) and not math.isnan(after):
            return after != -math.inf and not after < before - 1.0
    return False


CHECKS = rules(
    Rule(
        name="log_density",
        why=(
            "A support that moves with another latent site is silently wrong in Pyro's samplers"
            " and guides."
        ),
        body=log_density,
    ),
    Rule(
        name="round_trip",
        why="Stored draws, importance weights and starting points pass through this map.",
        body=round_trip,
    ),
    Rule(
        name="gradient",
        why=(
            "NUTS and every guide follow the gradient; a wrong one gives a wrong posterior without"
            " an error."
        ),
        body=gradient,
    ),
    Rule(
        name="batches",
        why="Fast evaluation runs many points at once; it must not change the numbers.",
        body=batches,
    ),
    Rule(
        name="enumeration",
        why="A discrete site summed out wrongly changes the posterior without an error.",
        body=enumeration,
    ),
    Rule(
        name="pointwise",
        why="Held-out scores and leave-one-out need the likelihood of each observation.",
        body=pointwise,
    ),
    Rule(
        name="proper_at_ties",
        why=(
            "A class can shrink onto tied values; with a soft prior on its scale there is no"
            " posterior."
        ),
        body=proper_at_ties,
    ),
)
