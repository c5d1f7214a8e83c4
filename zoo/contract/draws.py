"""Checks of quantities and of draws that claim to come from the posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.compiler.vectorize import value_and_gradient
from zoo.contract.check import Rule, rules
from zoo.contract.density import _classes
from zoo.contract.subject import EXACT_DRAWS, Failed, Skipped, Subject
from zoo.errors import ZooError
from zoo.truth import stored as reference

__all__ = ["CHECKS", "free_classes", "stein_scores"]

_PIECE = 100  # draws at once: that many matrices fit into the cache
_LIMIT = 5.0  # Monte Carlo standard errors; about 6e-7 per coordinate if all is right
_LIMIT_CHAINS = 6.0  # the error itself is estimated from few blocks of correlated draws


def quantities(subject: Subject) -> str:
    """Quantities are finite, have one axis per declared dim, and treat each draw separately."""
    points = subject.points.reshape(2, 3, -1)
    grid = subject.density.constrain(points)
    row = {k: v.reshape(6, *v.shape[2:]) for k, v in grid.items()}
    for name, quantity in subject.entry.quantities.items():
        value, flat = quantity.fn(grid, subject.data), quantity.fn(row, subject.data)
        if value.shape[:2] != (2, 3) or value.ndim != 2 + len(quantity.dims):
            shape = list(value.shape)
            raise Failed(
                f"Quantity {name!r} maps [2, 3, *site] to {shape} but declares dims"
                f" {quantity.dims}; give [*sample, *dims]."
            )
        if not torch.isfinite(value).all():
            raise Failed(
                f"Quantity {name!r} is not finite at ordinary points; take logarithms of positive"
                " sites only."
            )
        if not torch.allclose(value.reshape(6, *value.shape[2:]), flat, rtol=1e-9, atol=1e-12):
            raise Failed(
                f"Quantity {name!r} changes with the shape of the draws; index sites from the"
                " right, as in x[..., 0]."
            )
        for axis, dim in enumerate(quantity.dims):
            labels = subject.data.coords.get(dim)
            if labels is not None and len(labels) != value.shape[2 + axis]:
                raise Failed(
                    f"Quantity {name!r} has {value.shape[2 + axis]} entries along {dim!r} but"
                    f" coords give {len(labels)} labels."
                )
    return f"{len(subject.entry.quantities)} quantities, finite, in the declared shapes."


def label_safe(subject: Subject) -> str:
    """If classes can be relabeled without changing the density, no judged quantity changes."""
    classes = _classes(subject)
    if classes is None or classes < 2:
        raise Skipped("The program has no classes that could be relabeled.")
    draws, moved = _relabeled(subject, classes)
    if moved is None:
        raise Skipped("No latent site has an axis of classes.")
    if not torch.isclose(_joint(subject, draws), _joint(subject, moved), rtol=1e-9, atol=1e-8):
        raise Skipped("Relabeling changes the density: labels are not free.")
    for name, quantity in subject.entry.quantities.items():
        before, after = (
            quantity.fn({k: v.unsqueeze(0) for k, v in d.items()}, subject.data)
            for d in (draws, moved)
        )
        if quantity.judged and not torch.allclose(before, after, rtol=1e-7, atol=1e-9):
            if "from_program" in subject.entry.tags:
                raise Skipped(
                    f"Quantity {name!r} depends on free labels; pass quantities= with"
                    " zoo.quantities.sorted_by."
                )
            raise Failed(
                f"Quantity {name!r} depends on labels the model leaves free; use"
                " zoo.quantities.sorted_by or co_assignment."
            )
    return "Relabeling the classes changes no judged quantity."


def turn_safe(subject: Subject) -> str:
    """A full turn of an angle changes no judged quantity."""
    density = subject.density
    names = [n for n in density.completion.centers if n not in density.jumps]
    if not names:
        raise Skipped("The program has no latent angle.")
    draws = {k: v.unsqueeze(0) for k, v in density.constrain(subject.points[0]).items()}
    named = subject.entry.quantities.items()
    for angle in names:
        ends = []
        for end in (math.pi * (1 - 1e-12), -math.pi):
            moved = {**draws, angle: torch.full_like(draws[angle], end)}
            ends.append({name: quantity.fn(moved, subject.data) for name, quantity in named})
        for name, quantity in named:
            above, below = (e[name] for e in ends)
            if quantity.judged and not torch.allclose(above, below, rtol=1e-7, atol=1e-9):
                raise Failed(
                    f"Quantity {name!r} jumps where angle {angle!r} passes pi, so its mean and sd"
                    " depend on where the circle is cut; use zoo.quantities.sin_site and cos_site."
                )
    return f"A full turn of {', '.join(names)} changes no judged quantity."


def free_classes(subject: Subject) -> int:
    """Return the number of classes whose order does not change the density, at least 1."""
    classes = _classes(subject) or 1
    if classes < 2:
        return 1
    draws, moved = _relabeled(subject, classes)
    same = moved is not None and torch.isclose(
        _joint(subject, draws), _joint(subject, moved), rtol=1e-9, atol=1e-8
    )
    return classes if same else 1


def _relabeled(
    subject: Subject, classes: int
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Return a point, and the same point with its classes in reverse order.

    The second is None if no site has an axis of classes.
    """
    density = subject.density
    axes = {
        s.name: next((i for i, n in enumerate(s.shape) if n == classes), None)
        for s in density.sites
    }
    draws = density.constrain(subject.points[0])
    if all(axis is None for axis in axes.values()):
        return draws, None
    order = torch.arange(classes).flip(0)
    moved = dict(draws)
    for name, axis in axes.items():
        if axis is not None:
            moved[name] = draws[name].index_select(axis, order)
    return draws, moved


def _joint(subject: Subject, draws: Mapping[str, Tensor]) -> Tensor:
    u = subject.density.unconstrain(draws)
    with torch.no_grad():
        return subject.density.evaluate(u) - subject.jacobian(u)


def analytic_draws(subject: Subject) -> str:
    """Exact draws have the sites' shapes, repeat by seed, and agree with the stated moments."""
    entry, density, number = subject.entry, subject.density, EXACT_DRAWS
    exact = entry.exact(subject.data)
    if exact is None:
        raise Skipped("The entry has no closed form.")
    draws = subject.exact_draws
    one, again, other = (exact.sample(100, seed) for seed in (1, 1, 2))
    for site in density.sites:
        if site.name not in draws or draws[site.name].shape != (number, *site.shape):
            got = list(draws[site.name].shape) if site.name in draws else "nothing"
            raise Failed(
                f"sample({number}, seed) gives {got} for site {site.name!r}; expected"
                f" {[number, *site.shape]}."
            )
        if not torch.equal(one[site.name], again[site.name]):
            raise Failed(
                f"sample gives other draws of {site.name!r} for the same seed; use a generator"
                " seeded by it."
            )
        if torch.equal(one[site.name], other[site.name]):
            raise Failed(
                f"sample gives the same draws of {site.name!r} for two seeds; use the seed."
            )
    worst = 0.0
    for name, moments in exact.moments.items():
        if name not in entry.quantities:
            raise Failed(f"Moments are given for {name!r}, which is not a quantity of the entry.")
        x = entry.quantities[name].fn(draws, subject.data)
        centered = x - x.mean(0)
        sd = centered.square().mean(0).sqrt()
        kurtosis = centered.pow(4).mean(0) / sd.pow(4)
        z_mean = (x.mean(0) - moments.mean) / (moments.sd / number**0.5)
        z_sd = (sd - moments.sd) / (sd * ((kurtosis - 1) / (4 * number)).sqrt())
        z = max(z_mean.abs().max().item(), z_sd.abs().max().item())
        worst = max(worst, z)
        if not z < _LIMIT:
            raise Failed(
                f"Moments of {name!r} are {z:.1f} standard errors from the exact draws; the closed"
                " form or its draws are wrong."
            )
    return (
        f"{number} exact draws; {len(exact.moments)} moments agree within {worst:.1f} standard"
        " errors."
    )


def stein_analytic(subject: Subject) -> str:
    """Exact draws satisfy Stein's identities under the program's log density."""
    if subject.entry.exact(subject.data) is None:
        raise Skipped("The entry has no closed form.")
    # [draw, block of 1, dim]
    u = subject.density.unconstrain(subject.exact_draws).unsqueeze(1)
    return _judge(subject, u, _LIMIT)


def stein_stored(subject: Subject) -> str:
    """Stored reference draws satisfy Stein's identities under the program's log density."""
    if subject.entry.reference != "stored" or subject.entry.reference_of is not None:
        raise Skipped("The entry stores no reference of its own.")
    try:
        stored = reference.load(subject.entry, subject.data, subject.density)
    except ZooError as error:
        raise Skipped(f"No stored reference can be read: {error}") from error
    if not stored.usable:
        raise Failed(stored.reason)
    posterior = stored.posterior
    if posterior is None or not {s.name for s in subject.density.sites} <= set(posterior.draws):
        raise Skipped("The stored reference holds no draws of the program's sites.")
    u = subject.density.unconstrain(posterior.draws)
    chains = u if len(posterior.sample_dims) == 2 else u.unsqueeze(0)
    # some thousand draws are enough
    length = min(1000, max(4000 // chains.shape[0], 100), chains.shape[1]) // 10 * 10
    # [block, draw, dim]
    blocks = chains[:, :length].reshape(chains.shape[0] * 10, -1, u.shape[-1])
    return _judge(subject, blocks, _LIMIT_CHAINS)


def _judge(subject: Subject, blocks: Tensor, limit: float) -> str:
    first, second = stein_scores(subject, blocks)
    worst = torch.maximum(first.abs(), second.abs())
    place = int(worst.argmax())
    site = next(s for s in subject.density.sites if s.start <= place < s.stop)
    z = worst[place].item()
    if not z < limit:
        raise Failed(
            f"The draws do not belong to the program: Stein's identity for site {site.name!r} is"
            f" off by {z:.1f} standard errors; a prior, a Jacobian or the likelihood differs"
            " between the two."
        )
    return (
        f"Stein's identities hold in {worst.numel()} coordinates within {z:.1f} standard errors."
    )


def stein_scores(subject: Subject, blocks: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return how many standard errors draws are from Stein's identities, per coordinate.

    For draws u of a density p over the unconstrained space, with m = E[u] and per coordinate i,
    \[ E[\partial_i \log p(u)] = 0, \qquad E[(u_i - m_i)\, \partial_i \log p(u)] = -1 . \]

    Args:
        subject: whose log density is differentiated.
        blocks: `[block, draw, dim]`; block means are treated as independent.

    Source: Gorham and Mackey (2015), Measuring sample quality with Stein's method.
    """
    number, length, dim = blocks.shape
    u = blocks.reshape(-1, dim).to(subject.density.dtype)
    gradient = torch.cat(
        [value_and_gradient(subject.density.eager_batch(), part)[1] for part in u.split(_PIECE)]
    ).reshape(number, length, dim)
    u = u.reshape(number, length, dim)
    second = (u - u.mean((0, 1))) * gradient + 1.0
    return _standard_errors(gradient.mean(1)), _standard_errors(second.mean(1))


def _standard_errors(x: Tensor) -> Tensor:
    """Mean over its standard error, per column of `[block, dim]`; 0 for a constant column of 0."""
    mean, error = x.mean(0), x.std(0) / x.shape[0] ** 0.5
    return mean / error.clamp(min=1e-12)


CHECKS = rules(
    Rule(
        name="quantities",
        why="Every score, gate and table is computed on the quantities.",
        body=quantities,
    ),
    Rule(
        name="label_safe",
        why=(
            "Where labels are free, moments of labeled sites compare nothing: samplers number"
            " classes differently."
        ),
        body=label_safe,
    ),
    Rule(
        name="turn_safe",
        why=(
            "The mean of an angle depends on where the circle is cut: that of 179 and -179 degrees"
            " is 0."
        ),
        body=turn_safe,
    ),
    Rule(
        name="analytic_draws",
        why=(
            "Distances and plots use the draws, verdicts the moments; both must be the same"
            " posterior."
        ),
        body=analytic_draws,
    ),
    Rule(
        name="stein_analytic",
        why=(
            "It catches a wrong prior, Jacobian or likelihood on either side, which no other check"
            " sees."
        ),
        body=stein_analytic,
    ),
    Rule(
        name="stein_stored",
        why=(
            "A reference made for another version of the program would judge every method wrongly."
        ),
        body=stein_stored,
    ),
)
