"""Inference gap of a guide with per-unit latents, in nats, and its causes, row by row.

For a row x whose log evidence is known by a grid (up to three latent dimensions),

    log p(x) - ELBO(q) = KL(q || p(z | x)) = approximation gap + amortization gap
    approximation gap  = log p(x) - max ELBO over q in the family        (due to the family)
    amortization gap   = max ELBO over q in the family - ELBO(q)         (due to the encoder)

The ELBO on the left uses the guide's own draws and densities (by Gauss-Hermite quadrature of its
noise, or as the caller reports it), the KL is integrated on the grid. A wrong sign, a KL divided
by the number of pixels, or a variance used as a standard deviation violates the first equation by
more than 0.001 nats and the error of its integrals, and the report says so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.arviz_bridge import pareto_k
from benchmarks.comparison.best_in_family import (
    LocalQ,
    Target,
    best_numbers,
    elbo_nats,
    nodes,
    refine,
)
from guides.optimize.progress import Say, silent
from zoo.errors import UnknownNameError, UsageError
from zoo.truth.grid import LARGEST, MOST_POINTS, GridCheck, LatentGrid

__all__ = ["COLUMNS", "DatumGap", "GapReport", "datum_gaps"]

TOLERANCE = 1e-3  # nats
ERRORS = 3.0  # errors of the integrals that explain a difference
NOISY = 0.01  # nats, error of an ELBO beside which little can be checked
ROUNDING = 1e-9  # of an ELBO, relative
SAME = 0.01  # nats between the two grids' log p(x)
DRAWS = 1000  # nats, between log p(x) on the two grids
FEWER = {True: 36, False: 18}  # nodes per axis of a second ELBO, below three dimensions and there
COLUMNS = {
    "log_evidence_nats": "exact log p(x)",
    "elbo_nats": "ELBO of the guide",
    "kl_nats": "KL(q || posterior) on the grid",
    "reverse_kl_nats": "KL(posterior || q) on the grid",
    "identity_error_nats": "log p(x) - ELBO - KL, 0 where every number is right",
    "numerical_error_nats": "error of the ELBO and the KL as integrals",
    "approximation_gap_nats": "the family's part of the KL",
    "amortization_gap_nats": "the encoder's part of the KL",
    "refined_gap_nats": "amortization gap left after 50 steps from the encoder",
    "mean_z": "largest |mean error| in posterior sds",
    "sd_ratio": "sd of q over posterior sd, furthest from 1",
    "coverage50": "posterior mass in q's central 50 % intervals",
    "coverage90": "posterior mass in q's central 90 % intervals",
    "pareto_k": "k-hat of the importance weights",
}


@dataclass(frozen=True, kw_only=True)
class DatumGap:
    """The gaps of one row; `COLUMNS` describes each field."""

    part: str
    row: int
    label: str
    log_evidence_nats: float
    elbo_nats: float
    kl_nats: float
    reverse_kl_nats: float
    identity_error_nats: float
    numerical_error_nats: float
    approximation_gap_nats: float
    amortization_gap_nats: float
    refined_gap_nats: float
    mean_z: float
    sd_ratio: float
    coverage50: float
    coverage90: float
    pareto_k: float

    @property
    def name(self) -> str:
        """Which row it is: `row '3' (held out)`."""
        return f"row {self.label!r} ({self.part})"

    @property
    def finite(self) -> bool:
        """Whether ELBO and KL and their errors are numbers."""
        return math.isfinite(self.identity_error_nats + self.numerical_error_nats)

    @property
    def excess(self) -> float:
        """Nats by which ELBO and KL disagree beyond the error of both; below 0 if they agree."""
        return abs(self.identity_error_nats) - TOLERANCE - ERRORS * self.numerical_error_nats


@dataclass(frozen=True, kw_only=True)
class GapReport:
    """Gaps of selected rows, with a check of the underlying grid.

    Attributes:
        family: the guide's family as a phrase.
        data: the gaps of each row.
        grid: effect of doubling the grid.
        images: what is observed of the rows `[row, pixel]`, in the order of `data`.
    """

    family: str
    data: tuple[DatumGap, ...]
    grid: GridCheck
    images: Tensor = field(repr=False)

    @property
    def faults(self) -> tuple[str, ...]:
        """Return impossible values: an ELBO other than log p(x) - KL, or a negative gap.

        Both count beyond the error of the integrals. Where that error is large, or the ELBO no
        number, nothing can be checked, which is said instead.
        """
        found = []
        finite = [d for d in self.data if d.finite]
        worst = max(finite, key=lambda d: d.excess, default=None)
        if worst is not None and worst.excess > 0:
            found.append(
                f"The ELBO of {worst.name} is {worst.elbo_nats:.4f} nats, log p(x) - KL is"
                f" {worst.log_evidence_nats - worst.kl_nats:.4f}, and the error of both"
                f" {worst.numerical_error_nats:.2g}: the objective, the draws or log q are wrong."
            )
        noisy = [
            d
            for d in self.data
            if not d.finite or (d.numerical_error_nats > NOISY and d.excess <= 0)
        ]
        if noisy:
            errors = [d.numerical_error_nats if d.finite else math.inf for d in noisy]
            many = f" and {len(noisy) - 1} more" if len(noisy) > 1 else ""
            found.append(
                f"The ELBO of {noisy[errors.index(max(errors))].name}{many} cannot be checked: the"
                f" error of its integral is {max(errors):.2g} nats. Is q far too wide?"
            )
        for name in ("approximation_gap_nats", "amortization_gap_nats"):
            low = min(self.data, key=lambda d: getattr(d, name))
            error = low.numerical_error_nats if low.finite else math.inf
            if getattr(low, name) < -TOLERANCE - ERRORS * error:
                found.append(
                    f"The {name.replace('_nats', '').replace('_', ' ')} of {low.name} is"
                    f" {getattr(low, name):.4f} nats."
                )
        if not self.grid.ok:
            found.append(
                f"The grid is not fine or wide enough. {self.grid.sentence} Accepted: changes"
                " below 0.001; give more points per axis, points=."
            )
        return tuple(found)

    def mean(self, column: str, part: str | None = None) -> tuple[float, float]:
        """Return the mean of a column over rows of a part, and its bootstrap standard error.

        It uses 1,000 resamples. One row says nothing of its error, which is then NaN.
        """
        if column not in COLUMNS:
            raise UnknownNameError("column of the gap report", column, COLUMNS)
        values = np.array([getattr(d, column) for d in self.data if part in (None, d.part)])
        if not len(values):
            raise UsageError(
                f"There is no row of part {part!r}; accepted:"
                f" {', '.join(sorted({d.part for d in self.data}))}."
            )
        stream = np.random.Generator(np.random.PCG64(0))
        means = values[stream.integers(0, len(values), (1000, len(values)))].mean(-1)
        return float(values.mean()), float(means.std()) if len(values) > 1 else math.nan

    def worst(self, share: float = 0.1) -> list[int]:
        """Return indices of the rows with the largest KL, largest first (a tenth of them)."""
        order = sorted(range(len(self.data)), key=lambda i: -self.data[i].kl_nats)
        return order[: max(1, math.ceil(share * len(order)))]

    def rows(self) -> list[dict[str, Any]]:
        """Return the table as a list of dicts."""
        return [dataclasses.asdict(d) for d in self.data]

    def markdown(self) -> str:
        """Return a Markdown table of means per part with bootstrap standard errors."""
        parts = list(dict.fromkeys(d.part for d in self.data))
        lines = ["| nats per row | " + " | ".join(parts) + " |", "|---" * (len(parts) + 1) + "|"]
        for column, words in COLUMNS.items():
            cells = [
                f"{m:.3f} ± {s:.3f}" if math.isfinite(s) else f"{m:.3f} (one row)"
                for m, s in (self.mean(column, p) for p in parts)
            ]
            escaped = words.replace("|", "\\|")
            lines.append(f"| {escaped} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def datum_gaps(
    target: Target,
    grid: LatentGrid,
    q: LocalQ,
    x: Tensor,
    *,
    part: str = "train",
    labels: Sequence[str] | None = None,
    elbo: Callable[[LocalQ, Tensor], Tensor] | None = None,
    seed: int = 0,
    steps: int = 50,
    tell: Say = silent,
) -> list[DatumGap]:
    """Return the gaps of each row.

    Args:
        target: the model, as the guide uses it.
        grid: the model on a grid, the ground truth.
        q: one q per row.
        x: `[row, pixel]`.
        part: name of the part in the table.
        labels: names of the rows.
        elbo: a reported ELBO per row to check, `(q, x) -> [row]`; by default quadrature through
            the guide's own draws.
        seed: seed of the draws for k-hat.
        steps: refinement steps from q.
        tell: hears what is done.
    """
    with torch.no_grad():
        own = elbo_nats(target, q, x)
        error = (own - elbo_nats(target, q, x, FEWER[q.head.width < LARGEST])).abs()
        error = error + ROUNDING * own.abs()
        stated = own if elbo is None else elbo(q, x)
        evidence, mean, covariance = grid.moments(x)
        found = []
        for i in range(len(x)):
            tell(f"{part}, row {i + 1} of {len(x)} on a grid of its own")
            found.append(_on_grid(grid, q.take(torch.tensor([i])), x[i : i + 1]))
        on_grid = [numbers for numbers, *_ in found]
        near = torch.tensor([value for _, value, _ in found], dtype=evidence.dtype)
        # A grid for one row is far finer than the common one (errors of 1e-7 against 1.4e-3 nats).
        # A larger difference means that it missed a mode.
        evidence = torch.where((near - evidence).abs() <= SAME, near, evidence)
        tell(f"{part}, k-hat of {len(x)} rows")
        khat = _khat(target, q, x, seed)
        mode = torch.cat([grid.points[joint.argmax(-1)] for _, joint in grid.blocks(x)])
        draws = grid.sample(x, DRAWS, seed)
    tell(f"{part}, the best q of the family for {len(x)} rows")
    best = best_numbers(target, q, x, mean, covariance, mode=mode, draws=draws)[1]
    tell(f"{part}, {steps} steps from the q of {len(x)} rows")
    refined = refine(target, q, x, steps=steps)
    with torch.no_grad():
        after = elbo_nats(target, refined, x)
    names = labels or [str(i) for i in range(len(x))]
    return [
        DatumGap(
            part=part,
            row=i,
            label=names[i],
            log_evidence_nats=float(evidence[i]),
            elbo_nats=float(stated[i]),
            identity_error_nats=float(evidence[i] - stated[i]) - on_grid[i]["kl_nats"],
            numerical_error_nats=float(error[i]) + found[i][2],
            approximation_gap_nats=float(evidence[i] - best[i]),
            amortization_gap_nats=float(best[i] - own[i]),
            refined_gap_nats=float(best[i] - after[i]),
            pareto_k=khat[i],
            **on_grid[i],
        )
        for i in range(len(x))
    ]


def _on_grid(grid: LatentGrid, q: LocalQ, x: Tensor) -> tuple[dict[str, float], float, float]:
    """Integrate the comparison of q with the posterior of one row.

    Also return its log p(x), and what the last doubling of the grid changed.

    The grid covers both. It is doubled until every second of its points gives the same log p(x)
    and KL to within the tolerance.
    """
    box, number = _box(grid, q, x), 201 if grid.latent < LARGEST else 61
    while True:
        fine = LatentGrid(
            grid.likelihood,
            grid.latent,
            log_prior=grid.log_prior,
            points=number,
            center=box[0],
            half_width=box[1],
        )
        joint, log_q = fine.log_joint(x)[0], q.log_prob(fine.points[:, None, :])[:, 0]
        evidence, forward, mass, own = _integrals(joint, log_q, fine.log_weight)
        second = (
            torch.arange(number**grid.latent)
            .reshape((number,) * grid.latent)[(slice(None, None, 2),) * grid.latent]
            .flatten()
        )
        half_evidence, half_forward, *_ = _integrals(
            joint[second], log_q[second], fine.log_weight + grid.latent * math.log(2)
        )
        changed = max(abs(float(evidence - half_evidence)), abs(float(forward - half_forward)))
        if changed <= TOLERANCE or (2 * number - 1) ** grid.latent > MOST_POINTS:
            break
        number = 2 * number - 1
    mean_p, mean_q = mass @ fine.points, own @ fine.points
    sd_p = (mass @ (fine.points - mean_p).square()).sqrt()
    sd_q = (own @ (fine.points - mean_q).square()).sqrt()
    ratio = sd_q / sd_p
    inside = [_coverage(fine, own, mass, k) for k in range(grid.latent)]
    numbers = {
        "kl_nats": float(forward),
        "reverse_kl_nats": float((mass * (joint - evidence - log_q)).sum()),
        "mean_z": float(((mean_q - mean_p) / sd_p).abs().max()),
        "sd_ratio": float(ratio[ratio.log().abs().argmax()]),
        "coverage50": float(np.mean([c[0] for c in inside])),
        "coverage90": float(np.mean([c[1] for c in inside])),
    }
    return numbers, float(evidence), changed


def _integrals(
    joint: Tensor, log_q: Tensor, log_weight: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log p(x), KL(q, posterior), and the masses of the posterior and of q per point.

    `log_weight` is the log weight of every grid point.
    """
    evidence = joint.logsumexp(0) + log_weight
    mass, own = (joint - evidence + log_weight).exp(), (log_q + log_weight).exp()
    # The integral of q ln(q / p) - q + p is the KL if q integrates to 1. If q does not, the
    # identity with the ELBO fails.
    return evidence, (own * (log_q - joint + evidence)).sum() - own.sum() + 1, mass, own


def _box(grid: LatentGrid, q: LocalQ, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return center and half width, per axis, of a box of 8 sds of q and of the posterior."""
    _, mean, covariance = grid.moments(x)
    z = q.draw(nodes(12, grid.latent)[0][:, None, :])[:, 0]  # the outermost node is at 5.5 sds
    sd = covariance[0].diagonal().sqrt()
    low = torch.minimum(
        mean[0] - 8 * sd, z.min(0).values - 0.5 * (z.max(0).values - z.min(0).values) / 2
    )
    high = torch.maximum(
        mean[0] + 8 * sd, z.max(0).values + 0.5 * (z.max(0).values - z.min(0).values) / 2
    )
    # per axis: an unused latent dimension is far wider than a used one
    return (low + high) / 2, (high - low) / 2


def _coverage(grid: LatentGrid, own: Tensor, mass: Tensor, axis: int) -> tuple[float, float]:
    """Return the posterior mass in q's central 50 and 90 % intervals of one coordinate."""
    shape, other = (grid.number,) * grid.latent, [k for k in range(grid.latent) if k != axis]
    along = [m.reshape(shape).sum(other) if other else m for m in (own, mass)]
    # A point has half a cell on each side: cumulative sums refer to the right cell borders.
    right = (grid.axes[axis] + 0.5 * grid.step[axis]).numpy()
    q, p = (np.cumsum(a.numpy()) / float(a.sum()) for a in along)

    def inside(share: float) -> float:
        ends = np.interp([0.5 - share / 2, 0.5 + share / 2], q, right)
        low, high = np.interp(ends, right, p)
        return float(high - low)

    return inside(0.5), inside(0.9)


def _khat(target: Target, q: LocalQ, x: Tensor, seed: int) -> list[float]:
    noise = torch.randn(
        DRAWS, len(x), q.head.width, dtype=x.dtype, generator=torch.Generator().manual_seed(seed)
    )
    z = q.draw(noise)
    log_weights = target.log_joint(x, z) - q.log_prob(z)
    return [float(pareto_k(log_weights[:, i])[0]) for i in range(len(x))]
