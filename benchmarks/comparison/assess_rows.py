"""`assess` where every latent value belongs to a row and the rows are many: some rows, one by one.

An autoencoder's thousand codes are a thousand small posteriors. On 64 rows, drawn by the seed,
each row has chains that start from its own q, particles, and an evidence:

    KL_i = log p(x_i) - ELBO_i,      the mean over rows, with its error over rows, and the worst

The weights of a program that learns are those of this fit. Rows that were not drawn are not seen.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.comparison.assess_steps import Work, sentence_of_drift
from benchmarks.comparison.assessment import Nats
from benchmarks.comparison.best_in_family import LocalQ
from benchmarks.comparison.rows import part_of, q_of_rows
from benchmarks.mcmc.islands import widening
from benchmarks.mcmc.tempered_smc import ACCEPTANCE
from benchmarks.mcmc.unit_density import UnitDensity
from benchmarks.mcmc.unit_modes import modes_of
from benchmarks.mcmc.unit_smc import UnitSmc, unit_smc
from benchmarks.metrics.numbers import value_with_error
from benchmarks.trust.chains import CHAINS as CHAINED
from benchmarks.trust.drift import Drift, drift_of
from benchmarks.trust.estimate import METHOD
from benchmarks.trust.judged import prior_draws
from guides.session import program_for, session
from zoo.density.log_density import LogDensity
from zoo.density.row_terms import ProgramTerms, row_numbers
from zoo.density.unit_terms import is_local
from zoo.errors import FitError, one_line
from zoo.fields import COUNT
from zoo.seeds import derive_seed
from zoo.types import Cost, Data, ModelEntry, Moments, Posterior, Reference
from zoo.user_models.units import chosen_rows

if TYPE_CHECKING:
    from guides.types import Fit

__all__ = ["ROWS", "RowNats", "Rows", "compared_rows", "has_rows", "row_posterior", "row_steps"]

ROWS = 64
DRAWS, CHAINS, PILOT = 2048, 256, 128  # of the q of every row
PRIOR_DRAWS = 400
# Evaluations of a row's density per row, to forecast their time.
DRIFT_EVALUATIONS, SMC_EVALUATIONS = 45_000, 330_000
TIMED = 64  # points of a row in a timed batch
DOUBTED = 0.1  # share of the rows on which SMC may fail
NATS_ALARM = 4.0  # standard errors by which the mean ELBO of rows may exceed their log evidence


@dataclass(frozen=True, kw_only=True)
class RowNats(Nats):
    """KL(q_i, posterior of row i): the mean over rows in nats, its error over rows, the worst.

    The error of a single row is that of its estimate.

    Attributes:
        rows: how many were drawn.
        worst: the largest KL of a row, nats.
        where: that row.
    """

    rows: int
    worst: float
    where: str

    @property
    def sentence(self) -> str:
        """`0.25 +- 0.03 nats per row below the log evidence of 64 rows, 2.1 at row 17`."""
        shown = value_with_error(max(self.value, 0.0), self.se)
        return (
            f"{'at least ' * self.bound}{shown} nats per row below the log evidence of"
            f" {self.rows} rows, {max(self.worst, 0.0):.2g} at {self.where}"
        )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows that stand for all.

    Attributes:
        chosen: their numbers.
        data: as data of their own.
        density: of their joint vector.
        q: the guide's q of each.
        names: of the rows, as in the coordinates of the quantities.
        total: how many rows there are.
        values: draws of q `[n, row, d]`.
    """

    chosen: Tensor
    data: Data
    density: LogDensity
    q: LocalQ
    names: tuple[str, ...]
    total: int
    values: Tensor

    @property
    def labels(self) -> list[str]:
        """Names of the rows."""
        return [name if "row" in name else f"row {name}" for name in self.names]

    @property
    def places(self) -> Tensor:
        """Where the values of each row stand in the joint vector, `[row, d]`."""
        return torch.cat([s.unit_indices() for s in self.density.sites], -1)

    def flat(self, values: Tensor) -> Tensor:
        """Return joint vectors `[n, dim]` of values `[n, row, d]`."""
        u = values.new_zeros(len(values), self.density.dim)
        u[:, self.places.flatten()] = values.flatten(1)
        return u

    def take(self, fit: Fit, rows: Tensor) -> Rows:
        """Return the rows with these numbers among them."""
        chosen = self.chosen[rows]
        few = part_of(fit.data, fit.data.train, chosen)
        density = LogDensity(program_for(fit.program, fit.entry, few), few, dtype=fit.entry.dtype)
        return dataclasses.replace(
            self,
            chosen=chosen,
            data=few,
            density=density,
            q=self.q.take(rows),
            names=tuple(self.names[int(i)] for i in rows),
            values=self.values[:, rows],
        ).named(fit)

    def named(self, fit: Fit) -> Rows:
        """Return the rows with their names as coordinates of the quantities that have rows."""
        with torch.no_grad():
            sites = self.density.constrain(self.flat(self.values[:1]))
            shapes = {n: q.fn(sites, self.data).shape for n, q in fit.entry.quantities.items()}
        axes = {
            q.dims[0]: list(self.names)
            for n, q in fit.entry.quantities.items()
            if q.dims and len(shapes[n]) > 1 and shapes[n][1] == len(self.chosen)
        }
        data = dataclasses.replace(self.data, coords={**self.data.coords, **axes})
        return dataclasses.replace(self, data=data)

    @property
    def words(self) -> str:
        """`64 of 1,438 rows`."""
        return f"{len(self.chosen):,} of {self.total:,} rows"


@dataclass(frozen=True, kw_only=True)
class RowFindings:
    """What the steps on rows found.

    Attributes:
        rows: those on which something stands in for the truth.
        drift: of the chains of all drawn rows, None if they were not run.
        truth: draws of the rows, by SMC or by chains; None if neither was run.
        kl: nats that the q of a row loses, None without SMC.
    """

    rows: Rows
    drift: Drift | None = None
    truth: Reference | None = None
    kl: RowNats | None = None


def has_rows(density: LogDensity) -> bool:
    """Whether every latent value belongs to one of several rows."""
    return is_local(density) and int(density.data.size or 0) > 1


def compared_rows(fit: Fit, seed: int, rows: int | Sequence[int] = ROWS) -> Rows:
    """Take rows of the training data, with the guide's q of each.

    Args:
        fit: a fit of a program whose latent values all belong to rows.
        seed: of the draws.
        rows: how many are drawn, all if there are fewer; or their numbers.

    Raises:
        UsageError: the guide has no q of a row, or there are no such rows.
    """
    total = int(fit.data.size or 0)
    chosen = torch.tensor(chosen_rows(rows, total, "rows"))
    if COUNT.holds(rows):
        generator = torch.Generator().manual_seed(derive_seed(seed, "trust", "rows"))
        chosen = torch.randperm(total, generator=generator)[: len(chosen)].sort().values
    few = part_of(fit.data, fit.data.train, chosen)
    density, q = q_of_rows(fit, few, chosen)
    noise = torch.Generator().manual_seed(derive_seed(seed, "trust", "row draws"))
    width = density.dim // len(chosen)
    white = torch.randn(DRAWS, len(chosen), width, dtype=density.dtype, generator=noise)
    with torch.no_grad():
        values = q.draw(white)
    known = next((v for v in fit.data.coords.values() if len(v) == total), range(total))
    names = tuple(str(known[int(i)]) for i in chosen)
    rows_of = Rows(
        chosen=chosen, data=few, density=density, q=q, names=names, total=total, values=values
    )
    return rows_of.named(fit)


def row_steps(work: Work, rows: Rows) -> RowFindings:
    """Run drift and SMC on rows, one step each."""
    terms, numbers = ProgramTerms(rows.density), row_numbers(rows.density)

    def log_joint(values: Tensor) -> Tensor:
        return terms.paired(numbers, values)

    density = UnitDensity(log_joint, rows.values)
    found = RowFindings(rows=rows)
    with session(work.fit.entry.dtype):
        each, number = _seconds_each(work, rows, density), len(rows.chosen)
        if late := work.too_long("Short chains were", each * number * DRIFT_EVALUATIONS):
            work.say("drift", None, late)
        else:
            drift = _drift(work, density, rows.values[: CHAINS + PILOT], "trust")
            work.say("drift", *sentence_of_drift(drift, _labels(rows)))
            found = dataclasses.replace(found, drift=drift)
        if late := work.too_long("Tempered SMC was", each * number * SMC_EVALUATIONS):
            work.doubt = late
        else:
            found = _smc(work, found, density)
        if work.doubt:
            work.say("smc", None, work.doubt)
        if found.truth is None and found.drift is not None:
            ends = density.values(found.drift.points)
            doubt = found.drift.doubt and f"The chains have not arrived: {found.drift.doubt}."
            blind = (work.doubt, "Modes of a row that no chain reached are missing.")
            truth = _truth(work, rows, ends, CHAINED, doubt, notes=blind)
            found = dataclasses.replace(found, truth=truth)
    work.gradients += density.gradient_evaluations
    return found


def _seconds_each(work: Work, rows: Rows, density: UnitDensity) -> float:
    """Return the seconds of one evaluation of a row; zero without a budget."""
    if math.isinf(work.budget):
        return 0.0
    points = density.points(rows.values[:TIMED])
    density.batch_gradient(points)  # what is made at the first call is not timed
    begin = time.perf_counter()
    density.batch_gradient(points)
    return (time.perf_counter() - begin) / len(points)


def _drift(work: Work, density: UnitDensity, values: Tensor, stage: str) -> Drift:
    """Move draws of every row by short chains; the components are the values of all rows."""
    starts = density.points(values[:CHAINS])
    found = drift_of(
        density,
        starts,
        lambda x: density.values(x).flatten(1).double().numpy(),
        pilot=density.points(values[CHAINS : CHAINS + PILOT]),
        modes=modes_of(density, starts),
        seed=derive_seed(work.seed, stage, "rows"),
    )
    work.depth += found.depth
    return found


def _labels(rows: Rows) -> list[str]:
    width = rows.values.shape[2]
    return [f"{name}, value {k}" for name in rows.labels for k in range(width)]


def _smc(work: Work, found: RowFindings, density: UnitDensity) -> RowFindings:
    rows, places = found.rows, found.rows.places
    prior = prior_draws(rows.density, rows.data, PRIOR_DRAWS)
    if len(prior) <= PRIOR_DRAWS // 2:
        work.doubt = "Tempered SMC was not run: the prior of the rows cannot be drawn from."
        return found
    try:
        smc = unit_smc(density, prior[:, places], seed=work.seed)
    except (FitError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        work.doubt = one_line(error)
        return found
    work.depth += smc.depth
    draws = smc.draws(DRAWS, derive_seed(work.seed, "trust", "row posterior"))
    again = _drift(work, density, draws[: CHAINS + PILOT], "settled")
    forgotten = torch.as_tensor(again.forgets.reshape(len(places), -1).all(1))
    still = torch.as_tensor(again.still.reshape(len(places), -1).all(1))
    bad = smc.apart | ~still | ~(forgotten | smc.confirmed)
    left = int(bad.sum())
    if left > DOUBTED * len(bad) or not smc.acceptance >= ACCEPTANCE:
        work.doubt = (
            f"Tempered SMC does not hold on {left} of {len(bad)} rows: its islands lie apart,"
            " or chains from its points leave them or know their starts."
        )
        return found
    if left:
        names = ", ".join(name for name, out in zip(rows.labels, bad.tolist(), strict=True) if out)
        words = f"{left} of {len(bad)} rows are left out, as SMC does not hold there: {names}."
        work.say("rows", None, words)
    kept = (~bad).nonzero()[:, 0]
    rows, smc = rows.take(work.fit, kept), smc.take(kept)
    moments = _moments(rows, smc, work.fit.entry)
    truth = _truth(work, rows, draws[:, kept], METHOD, "", moments)
    kl = _nats(work, rows, smc)
    work.doubt = ""
    value, each_se = smc.evidence
    over_rows = value.std() / len(value) ** 0.5 if len(value) > 1 else each_se[0]
    each = value_with_error(float(value.mean()), float(over_rows))
    work.say("smc", True, f"Log evidence {each} nats per row, by SMC on {rows.words}.")
    return dataclasses.replace(found, rows=rows, truth=truth, kl=kl)


def _truth(
    work: Work,
    rows: Rows,
    values: Tensor,
    method: str,
    doubt: str,
    moments: Mapping[str, Moments] | None = None,
    notes: tuple[str, ...] = (),
) -> Reference:
    """Return draws `[n, row, d]` as a reference of the rows."""
    u = rows.flat(values)
    with torch.no_grad():
        sites = rows.density.constrain(u)
    posterior = Posterior(
        entry=work.fit.entry,
        data=rows.data,
        method=method,
        draws=sites,
        sample_dims=("sample",),
        unconstrained=u,
        seed=work.seed,
        doubt=doubt,
        notes=(f"Of {rows.words}, each by itself: {', '.join(rows.names)}.", *notes),
        cost=Cost(
            seconds=time.perf_counter() - work.begin,
            gradient_evaluations=work.gradients,
            sequential_depth=work.depth,
        ),
    )
    return Reference(kind="estimated", posterior=posterior, moments=moments or {})


def _nats(work: Work, rows: Rows, found: UnitSmc) -> RowNats:
    """Return the nats that the q of a row loses; a mean ELBO above the evidence is an alarm."""
    terms, numbers = ProgramTerms(rows.density), row_numbers(rows.density)
    with torch.no_grad():
        weights = terms.paired(numbers, rows.values) - rows.q.log_prob(rows.values)
    evidence, error = found.evidence
    lost = evidence - weights.mean(0)
    own = (error.square() + weights.var(0) / len(weights)).sqrt()
    number = len(lost)
    noise = float(own.square().sum().sqrt()) / number  # of the mean over these rows
    kl = RowNats(
        value=float(lost.mean()),
        se=float(lost.std() / number**0.5) if number > 1 else noise,
        rows=number,
        worst=float(lost.max()),
        where=rows.labels[int(lost.argmax())],
    )
    if kl.value < -NATS_ALARM * noise - 0.01:
        work.say(
            "bound",
            False,
            f"The ELBO of a row lies {value_with_error(-kl.value, noise)} nats above its log"
            " evidence in the mean: no bound can; a mask, plate or scale differs between model and"
            " guide, or SMC misses mass that the guide has.",
        )
    return kl


def _moments(rows: Rows, found: UnitSmc, entry: ModelEntry) -> dict[str, Moments]:
    """Return moments of the quantities that have one entry per row, with errors of islands."""
    number, islands, each, _ = found.values.shape
    wide = widening(islands)
    u = rows.flat(found.values.permute(1, 2, 0, 3).flatten(0, 1))
    with torch.no_grad():
        sites = rows.density.constrain(u)
    out = {}
    for name, quantity in entry.quantities.items():
        values = quantity.fn(sites, rows.data).detach().double()
        if values.ndim < 2 or values.shape[1] != number:
            continue
        by_row = values.reshape(islands, each, *values.shape[1:]).permute(
            2, 0, 1, *range(3, values.ndim + 1)
        )
        mean, mean_se = found.mean(by_row)
        variance, variance_se = found.mean((by_row - mean[:, None, None]).square())
        sd = variance.sqrt()
        out[name] = Moments(
            mean=mean,
            mean_se=wide * mean_se,
            sd=sd,
            sd_se=wide * 0.5 * variance_se / torch.where(sd > 0, sd, 1.0),
        )
    return out


def row_posterior(fit: Fit, rows: Rows) -> Posterior:
    """Return draws of the guide for the rows, as a posterior of their own."""
    u = rows.flat(rows.values)
    with torch.no_grad():
        sites = rows.density.constrain(u)
    return Posterior(
        entry=fit.entry,
        data=rows.data,
        method=fit.family,
        draws=sites,
        sample_dims=("sample",),
        unconstrained=u,
        seed=fit.seed,
    )
