"""Ground truth of an entry: exact posteriors, published draws, baseline predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Analytic", "Baselines", "Moments", "Published"]


class Moments(NamedTuple):
    """Means and standard deviations of one quantity, with Monte Carlo errors (0 if exact)."""

    mean: Tensor
    mean_se: Tensor
    sd: Tensor
    sd_se: Tensor


@dataclass(frozen=True, kw_only=True)
class Analytic:
    """A posterior known in closed form.

    Attributes:
        sample: `sample(n, seed)` returns independent exact draws of the program's sites, each
            `[n, *site]`.
        moments: exact moments by quantity name (standard errors 0); for other quantities the draws
            are used.
        log_evidence: log p(observed) in nats, or None if unknown.
    """

    sample: Callable[[int, int], Mapping[str, Tensor]]
    moments: Mapping[str, Moments] = field(default_factory=dict)
    log_evidence: float | None = None


@dataclass(frozen=True, kw_only=True)
class Published:
    """Reference draws made, checked and published by others.

    Attributes:
        draws: the program's sites, each `[chain, draw, *site]`.
        gates: the checks recorded with them, name -> passed.
        rhat_max, ess_min: worst recorded values, None if not recorded.
        provenance: how and by whom they were drawn.
    """

    draws: Mapping[str, Tensor]
    gates: Mapping[str, bool] = field(default_factory=dict)
    rhat_max: float | None = None
    ess_min: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Class probabilities of methods that are not posteriors, to compare predictions with.

    Attributes:
        labels: the true class of every test row, `[row]`.
        classes: names of the classes.
        probabilities: method -> set -> `[row, class]`; the set `test` belongs to `labels`, others
            are out-of-distribution.
        predict: `predict(draws)` turns draws `[draw, *site]` into set -> `[draw, row, class]`.
        about: method -> one sentence on how it was made.
        images: gray images of the test rows `[row, height, width]` with values in [0, 1], or None.
    """

    labels: Tensor
    classes: tuple[str, ...]
    probabilities: Mapping[str, Mapping[str, Tensor]]
    predict: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    about: Mapping[str, str] = field(default_factory=dict)
    images: Tensor | None = None
