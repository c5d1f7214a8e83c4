"""Rows of `docs/results/batch_and_match.md`: fits on posteriordb, raw and reweighted.

Every fit is scored by 10,000 of its draws, in mirrored pairs, against the reference draws: as they
are, and with Pareto-smoothed importance weights. Weights are used where k-hat is at most 0.7 and
the effective sample size at least 100; the rest is judged as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import guides
import zoo
from benchmarks.metrics.components import evaluate
from benchmarks.studies.against_reference import (
    columns,
    measure_each,
    posteriordb_names,
    raw_and_weighted,
)
from benchmarks.studies.draw_parity.render import read
from benchmarks.studies.record import Work
from benchmarks.studies.rows import Kept
from guides.draws import density_of
from guides.session import session
from zoo.seeds import seeded
from zoo.truth.stored import load
from zoo.types import Posterior

__all__ = ["LEAST_ESS", "METHODS", "OWN", "WORST_K", "measure", "nuts_gradients", "rows_of"]

PAIRS = 5000
BLOCK = 1000  # draws evaluated at once
SEEDS = (0, 1, 2)  # of the family itself; others have the first
WORST_K, LEAST_ESS = 0.7, 100
LONGEST = 7200.0  # seconds of all fits to one entry
QUICK = ("posteriordb/kidiq-kidscore_momhs", "posteriordb/arma-arma11")
OWN = "batch_and_match"
# label -> family and options
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    OWN: (OWN, {}),
    "independent draws": (OWN, {"design": "independent"}),
    "laplace": ("laplace", {}),
    "deterministic": ("deterministic", {}),
}
WARMUP, CHAINS, ENOUGH = 800, 4, 400  # of the chains in `draw_parity.csv`, and the ESS compared
Row = dict[str, Any]


def measure(part: str, work: Work) -> dict[str, Any]:
    """Measure the entries that are missing, each in a process of its own."""
    if part == "nuts":
        return nuts_gradients(read(Path("docs/results")) or [])
    kept = Kept(work.out / "rows.json")
    seeds: tuple[int, ...] = SEEDS[:1] if work.quick else SEEDS
    names = posteriordb_names(work.quick, QUICK)
    made = {name: functools.partial(rows_of, name, seeds) for name in names}
    return measure_each(made, kept, work, LONGEST)


def nuts_gradients(parity: list[Row]) -> dict[str, int]:
    """Return the gradients that NUTS needs to an ESS of 400, by entry.

    Those of `draw_parity.csv`, for its warm-up and the share of its draws that gives this ESS in
    bulk and tail of every component; a draw is taken to cost the same in both. Of an entry with a
    second run at a higher target acceptance the first counts.
    """
    found: dict[str, int] = {}
    for row in parity:
        warmup, draws = CHAINS * WARMUP, row["draws"]
        share = min(1.0, ENOUGH / min(row["ess_bulk_min"], row["ess_tail_min"]))
        part = (warmup + share * draws) / (warmup + draws)
        found.setdefault(row["entry"], round(part * row["gradient_evaluations"]))
    return found


def rows_of(name: str, seeds: tuple[int, ...]) -> list[Row]:
    """Return one row per method and seed on one entry.

    `mean` is the largest |mean error| of a judged component in reference sds, `sd` the ratio
    farthest from 1; `weighted_mean` and `weighted_sd` are those of the weighted draws, whatever
    k-hat and ESS are.
    """
    entry = zoo.load(name)
    data = entry.load_data()
    truth = load(entry, data).posterior
    assert truth is not None
    judged = [q for q, quantity in entry.quantities.items() if quantity.judged]
    flat = columns(evaluate(truth, judged))
    center, width = flat.mean(0), flat.std(0)
    rows = []
    for label, (family, options) in METHODS.items():
        for seed in seeds if label == OWN else seeds[:1]:
            fit = guides.fit(entry, family, seed=seed, data=data, progress=False, **options)
            row: Row = {"entry": name, "method": label, "seed": seed, "status": fit.stop.status}
            row["gradients"] = fit.cost.gradient_evaluations
            row["seconds"] = fit.cost.seconds
            row["elbo"] = None if fit.elbo is None else fit.elbo.value_nats
            row["doubt"] = "in doubt" in fit.stop.sentence
            if fit.ok:
                posterior, log_weights = _draws(fit)
                values = columns(evaluate(posterior, judged))
                row |= raw_and_weighted(values, log_weights, center, width)
            rows.append(row)
    return rows


def _draws(fit: guides.Fit) -> tuple[Posterior, Tensor]:
    """Return mirrored pairs of draws of a fit whose guide is normal, and their log weights."""
    density = density_of(fit)
    with session(fit.entry.dtype), seeded(0), torch.no_grad():
        normal = fit.guide.get_posterior()  # type: ignore[operator]
        half = normal.rsample((PAIRS,))
        u = torch.cat([half, 2 * normal.mean - half])
        log_p = torch.cat([density.batch(part) for part in u.split(BLOCK)])
        log_weights = log_p - normal.log_prob(u)
        sites = density.constrain(u)
    posterior = Posterior(
        entry=fit.entry,
        data=fit.data,
        method=fit.family,
        draws=sites,
        sample_dims=("sample",),
        unconstrained=u,
        seed=fit.seed,
    )
    return posterior, log_weights
