"""Labelled components: each scalar of each quantity, with mean, sd and their errors.

A `Side` holds what one posterior says about all components. Both sides of a comparison are built
by the same code.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.arviz_bridge import mcse_mean, mcse_sd
from zoo.errors import UsageError
from zoo.types import Data, Moments, Posterior, Quantity

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["LEVELS", "Array", "Component", "Side", "component_names", "evaluate", "side"]


LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
FEWEST = 4  # draws; with fewer no error can be estimated


@dataclass(frozen=True, kw_only=True)
class Component:
    """One scalar of one quantity: its index, its label, and whether it counts in the verdict."""

    quantity: str
    index: tuple[int, ...]
    label: str
    judged: bool = True


@dataclass(frozen=True, kw_only=True)
class Side:
    """One posterior over K components.

    Attributes:
        draws: `[chain, draw, component]`; independent draws are one chain.
        independent: whether the draws are independent (a guide, an exact sampler).
        mean, mean_se, sd, sd_se: `[component]`; exact, or computed from more draws than are
            stored, if the source provides them.
        ess: `[component]`, effective sample size of the stored draws: the smaller of the ESS of x
            and of (x - mean)^2, at most the number of draws; that number itself for independent
            draws.
        tail_se: `[component]`, the part of sd_se / sd that heavier-than-normal tails add to the
            normal value 1 / sqrt(2 ESS).
        by_quantiles: `[component]`, where `mean` and `sd` are the median and the scaled
            interquartile range (`benchmarks.metrics.tails`); None for nowhere.
    """

    draws: Array
    independent: bool
    mean: Array
    mean_se: Array
    sd: Array
    sd_se: Array
    ess: Array
    tail_se: Array
    by_quantiles: NDArray[np.bool_] | None = None

    @property
    def flat(self) -> Array:
        """All draws, `[chain * draw, component]`."""
        return self.draws.reshape(-1, self.draws.shape[-1])

    @functools.cached_property
    def quantiles(self) -> Array:
        """Quantiles of all draws at `LEVELS`, `[level, component]`."""
        return np.quantile(self.flat, LEVELS, axis=0)

    def take(self, columns: Sequence[int]) -> Side:
        """Return the side restricted to the components at `columns`."""
        c = list(columns)
        parts = {
            n: getattr(self, n)[c] for n in ("mean", "mean_se", "sd", "sd_se", "ess", "tail_se")
        }
        marks = None if self.by_quantiles is None else self.by_quantiles[c]
        return Side(
            draws=self.draws[..., c], independent=self.independent, by_quantiles=marks, **parts
        )


def evaluate(posterior: Posterior, names: Sequence[str] | None = None) -> dict[str, Array]:
    """Evaluate quantities on the draws, each `[chain, draw, *shape]` in float64."""
    quantities = posterior.entry.quantities
    wanted = list(quantities if names is None else names)
    out: dict[str, Array] = {}
    for name in wanted:
        value = quantities[name].fn(posterior.draws, posterior.data)
        lead = len(posterior.sample_dims)
        if tuple(value.shape[:lead]) != posterior.sample_shape:
            raise UsageError(
                f"Quantity {name!r} of {posterior.entry.name} has shape {tuple(value.shape)},"
                f" draws are {posterior.sample_shape}; it must keep the sample dimensions first."
            )
        array = value.detach().double().cpu().numpy()
        out[name] = array[None] if lead == 1 else array
    return out


def component_names(
    name: str, quantity: Quantity, shape: tuple[int, ...], data: Data
) -> list[Component]:
    """Name every scalar of a quantity: `mu`, `theta[Choate]` with coordinates, else `theta[0]`."""
    axes: list[list[str]] = []
    for axis, size in enumerate(shape):
        coord = data.coords.get(quantity.dims[axis]) if axis < len(quantity.dims) else None
        axes.append(
            [str(c) for c in coord]
            if coord is not None and len(coord) == size
            else [str(i) for i in range(size)]
        )
    return [
        Component(
            quantity=name,
            index=index,
            label=name
            + (f"[{', '.join(axes[a][i] for a, i in enumerate(index))}]" if index else ""),
            judged=quantity.judged,
        )
        for index in itertools.product(*(range(n) for n in shape))
    ]


def side(
    values: Mapping[str, Array], independent: bool, moments: Mapping[str, Moments] | None = None
) -> Side:
    """Build a `Side` from `[chain, draw, *shape]` arrays, quantities in order.

    `moments` replaces moments of the draws by exact or more precise ones.

    Raises:
        UsageError: fewer than four draws, or moments of another shape than the draws.
    """
    draws = np.concatenate([v.reshape(*v.shape[:2], -1) for v in values.values()], axis=-1)
    if draws.shape[0] * draws.shape[1] < FEWEST:
        raise UsageError(
            f"A comparison got {draws.shape[0] * draws.shape[1]} draws; at least {FEWEST} are"
            " needed, 2,000 are usual."
        )
    known = moments or {}
    own = _from_draws(draws, independent)
    start = 0
    for name, value in values.items():
        stop = start + int(np.prod(value.shape[2:], dtype=int))
        if name in known:
            _overlay(own, slice(start, stop), name, known[name])
        start = stop
    normal = own["sd"] / np.sqrt(2.0 * own["ess"])
    held = own.pop("held_sd_se")
    scale = np.where(own["sd"] > 0, own["sd"], 1.0)
    tail = np.sqrt(np.maximum(held**2 - normal**2, 0.0)) / scale
    parts: dict[str, Any] = own
    return Side(draws=draws, independent=independent, tail_se=tail, **parts)


def _overlay(own: dict[str, Array], where: slice, name: str, moments: Moments) -> None:
    """Replace the moments of the stored draws by exact ones, or by those of all draws."""
    for field, value in zip(("mean", "mean_se", "sd", "sd_se"), moments, strict=True):
        flat = _numpy(value).reshape(-1)
        size = where.stop - where.start
        if flat.size not in (1, size):
            raise UsageError(
                f"Reference moments of {name!r} have {flat.size} components, its draws {size};"
                " rebuild the reference."
            )
        own[field][where] = flat


def _numpy(value: Tensor | Any) -> Array:
    return np.asarray(
        value.detach().double().cpu().numpy() if hasattr(value, "detach") else value,
        dtype=np.float64,
    )


def _from_draws(draws: Array, independent: bool) -> dict[str, Array]:
    """Return mean, sd, their Monte Carlo errors and the ESS, `[component]` each.

    Independent draws: se(mean) = s / sqrt(n), se(s) = sqrt((m4 - s^4) / n) / (2 s), as ArviZ
    computes them, with the known n in place of its estimate of the ESS. Chains: ArviZ's
    `mcse_mean` and `mcse_sd`, but never below the error of as many independent draws: on short
    chains an ESS above n is mostly noise and gave false findings.
    """
    flat = draws.reshape(-1, draws.shape[-1])
    n = flat.shape[0]
    mean, sd = flat.mean(0), flat.std(0, ddof=1)
    squares = (flat - mean) ** 2
    # sd of (x - mean)^2
    spread = np.sqrt(np.maximum((squares**2).mean(0) - squares.mean(0) ** 2, 0.0))
    safe = np.where(sd > 0, sd, 1.0)
    mean_se, sd_se, ess = (
        sd / np.sqrt(n),
        spread / np.sqrt(n) / (2 * safe),
        np.full(mean.shape, float(n)),
    )
    if not independent:
        mean_se, sd_se = (
            np.maximum(a, b) for a, b in zip((mean_se, sd_se), _chain_errors(draws), strict=True)
        )
        of_mean = sd / np.where(mean_se > 0, mean_se, np.inf)
        of_square = spread / (2 * safe * np.where(sd_se > 0, sd_se, np.inf))
        effective = np.minimum(of_mean, of_square) ** 2
        ess = np.clip(effective, 1.0, n)
    return {
        "mean": mean,
        "mean_se": mean_se,
        "sd": sd,
        "sd_se": sd_se,
        "ess": ess,
        "held_sd_se": sd_se.copy(),
    }


def _chain_errors(draws: Array) -> tuple[Array, Array]:

    # ArviZ gives NaN for a constant component, whose error is 0.
    mean_se, sd_se = (
        np.nan_to_num(np.asarray(f(draws), dtype=np.float64).reshape(-1), nan=0.0)
        for f in (mcse_mean, mcse_sd)
    )
    return mean_se, sd_se
