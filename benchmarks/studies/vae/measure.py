"""Figures of `docs/results/vae.md`: exact scores of autoencoders, bars of the gap report.

The autoencoders are trained jointly. Every number is stored as soon as it is known, so that an
interrupted run resumes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

import guides
import zoo
from benchmarks.comparison.best_in_family import LocalQ, Target, elbo_nats, refine
from benchmarks.comparison.gap_report import gap_report
from benchmarks.run.progress import Events
from benchmarks.studies.record import Work
from benchmarks.studies.rows import Kept
from guides.base.local import LocalGuide
from guides.objectives.bounds import iwae_bound_nats
from guides.objectives.per_unit import unit_log_weights
from guides.objectives.records import objective_of
from guides.session import session
from guides.types import Fit
from zoo.density.log_density import LogDensity
from zoo.truth.grid import LatentGrid

__all__ = ["ROWS", "measure", "score"]

STEPS, QUICK_STEPS = 2000, 200
QUICK_ROWS = ("plain", "beta 4")

# Variance over data of the posterior mean above which a latent dimension is active (Burda et al.
# 2016).
ACTIVE = 0.01
OTHER_SEEDS = (1, 2)
# name -> entry, family, options of the entry, settings
ROWS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("vae", "amortized", {}, {}),
    "beta 4": ("beta_vae", "amortized", {}, {}),
    "KL annealed linearly": ("vae", "amortized", {}, {"objective": "elbo_linear[warmup=QUARTER]"}),
    "IWAE-5": ("iwae", "amortized", {}, {}),
    "IWAE-50": ("iwae", "amortized", {}, {"num_particles": 50, "batch_size": 32}),
    "full-covariance guide": ("vae", "amortized_full", {}, {}),
    "flow guide": ("vae", "amortized_flow", {}, {}),
    "mixture prior": ("vae", "amortized", {"prior": "mixture"}, {}),
}


def grid_for(program: Any, points: int = 201) -> LatentGrid:
    """Return the exact grid of a trained program."""
    return LatentGrid(
        program.likelihood, program.latent, log_prior=program.log_prior, points=points
    )


def enough(fit: Fit, images: int = 12) -> LatentGrid:
    """Return a grid that is fine enough for some training and some held-out images."""
    assert fit.data.test is not None
    return grid_for(fit.program).sufficient(
        torch.cat([t["x"][:: len(t["x"]) // images] for t in (fit.data.train, fit.data.test)])
    )


def elbo_per_image(fit: Fit, x: torch.Tensor, nodes: int = 12) -> torch.Tensor:
    """Return the ELBO of each image of the fit's data by quadrature, `[image]` in nats."""
    target = Target(fit.program.likelihood, fit.program.log_prior)  # type: ignore[attr-defined]
    q = LocalQ.of(fit.guide)  # type: ignore[arg-type]
    with torch.no_grad():
        parts = [
            elbo_nats(target, q.take(rows), x[rows], nodes)
            for rows in torch.arange(len(x)).split(200)
        ]
    return torch.cat(parts)


def score(fit: Fit) -> dict[str, Any]:
    """Return exact scores in nats per image.

    Negative log likelihoods, the bound, active units and exact mutual information.
    """
    grid, out = enough(fit), {}
    assert fit.data.test is not None
    held = dataclasses.replace(
        fit.data,
        train=dict(fit.data.test),
        test=None,
        size=len(fit.data.test["x"]),
        coords={**fit.data.coords, "image": []},
    )
    for part, one in (("train", fit), ("held_out", guides.transfer(fit, held))):
        # every second training image suffices for their error
        rows = slice(None, None, 2 if part == "train" else 1)
        x = one.data.train["x"][rows]
        evidence, mean, _ = grid.moments(x)
        elbo = elbo_per_image(one, one.data.train["x"])[rows]
        out[f"nll_{part}"], out[f"nll_{part}_se"] = (
            -float(evidence.mean()),
            float(evidence.std() / math.sqrt(len(x))),
        )
        out[f"minus_elbo_{part}"] = -float(elbo.mean())
        if part == "train":
            out["active_units"] = int((mean.var(0) > ACTIVE).sum())
            out |= grid.information(x[:300])
    # other images than those that determined the grid
    doubled = grid.check(torch.cat([t["x"][:12] for t in (fit.data.train, fit.data.test)]))
    out |= {
        "grid_points": grid.number,
        "doubling_changes": doubled.log_evidence_change,
        "grid_ok": doubled.ok,
        "final_kl_weight_1": objective_of(fit.config.objective).kl_weight(fit.cost.steps) == 1.0,
    }
    return out


@functools.cache
def train(row: str, steps: int, seed: int = 0) -> Fit:
    """Train one row of the table, once per process.

    The gaps are therefore those of the decoder that was scored.
    """
    name, family, options, settings = ROWS[row]
    if "objective" in settings:
        settings = {
            **settings,
            "objective": settings["objective"].replace("QUARTER", str(steps // 4)),
        }
    length: dict[str, Any] = {
        "steps": steps,
        "patience": max(50, steps // 8),
        "anneal": steps // 2,
    }
    return guides.fit(zoo.load(name, **options), family, seed=seed, **length, **settings)


def scores(
    steps: int,
    keep: Callable[[str, Any], None],
    known: dict[str, Any],
    rows: Sequence[str] = tuple(ROWS),
) -> None:
    """Train and score every row that is missing."""
    for row in rows:
        if row in known:
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        fit = train(row, steps)
        numbers = {
            "fit": fit.stop.status,
            "steps": fit.cost.steps,
            "compiled": bool(fit.compiled["used"]),
        }
        spent = time.process_time() - cpu
        numbers |= score(fit) | {
            "train_seconds": spent,
            "seconds": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
        }
        keep(row, numbers)


def others(
    steps: int,
    keep: Callable[[str, Any], None],
    known: dict[str, Any],
    rows: Sequence[str] = tuple(ROWS),
) -> None:
    """Train and score every row with other seeds."""
    for seed in OTHER_SEEDS:
        for row in rows:
            if f"{row}, seed {seed}" not in known:
                keep(f"{row}, seed {seed}", score(train(row, steps, seed)))


def bars(
    steps: int, keep: Callable[[str, Any], None], known: dict[str, Any], rows: int = 20
) -> None:
    """Measure the bars.

    IWAE-5000 against the grid, and what richer families and refinement remove of the gaps.
    """
    if {"amortized", "amortized_full", "amortized_flow", "iwae5000"} <= known.keys():
        return
    plain = train("plain", steps)
    if "iwae5000" not in known:
        assert plain.data.test is not None
        x = {k: v[:50] for k, v in plain.data.test.items()}
        few = dataclasses.replace(plain.data, train=x, test=None, size=50, coords={})
        moved = guides.transfer(plain, few)
        exact = enough(plain).log_evidence(x["x"])
        with session(plain.entry.dtype):
            density = LogDensity(plain.program, few)
            generator = torch.Generator().manual_seed(1)
            weights = unit_log_weights(
                density, cast(LocalGuide, moved.guide), 5000, generator, chunk=500
            )
        refined = _refined_weights(plain, moved, x["x"])
        weighed = {
            "iwae5000 refined": refined,
            "iwae5000 defensive": _defensive_weights(plain, moved, x["x"]),
            "iwae5000": weights,
        }
        for name, log_weights in weighed.items():
            error = iwae_bound_nats(log_weights) - exact
            keep(
                name,
                {
                    "mean_error": float(error.mean()),
                    "largest": float(error.abs().max()),
                    "images": len(error),
                },
            )
    for family in ("amortized", "amortized_full", "amortized_flow"):
        if family in known:
            continue
        fit = (
            plain
            if family == "amortized"
            else guides.fit(
                plain.entry,
                family,
                given=plain,
                steps=steps,
                patience=max(50, steps // 8),
                anneal=steps // 2,
            )
        )
        began = time.process_time()
        report = gap_report(fit, rows=rows)
        numbers: dict[str, Any] = {
            "seconds": time.process_time() - began,
            "faults": list(report.faults),
            "images": len(report.data),
        }
        for column in (
            "kl_nats",
            "approximation_gap_nats",
            "amortization_gap_nats",
            "refined_gap_nats",
            "identity_error_nats",
            "pareto_k",
            "mean_z",
            "coverage50",
            "coverage90",
            "reverse_kl_nats",
        ):
            for part in ("train", "held out"):
                numbers[f"{column} {part}"] = report.mean(column, part)
        numbers["identity_worst"] = max(abs(d.identity_error_nats) for d in report.data)
        worst = report.data[report.worst()[0]]
        numbers["worst"] = {"label": worst.label, "part": worst.part, "kl_nats": worst.kl_nats}
        keep(family, numbers)


def _refined_weights(plain: Fit, moved: Fit, x: torch.Tensor, draws: int = 5000) -> torch.Tensor:
    """Return log weights `[draw, image]` of the encoder's q after 50 refinement steps."""
    program: Any = plain.program
    target = Target(program.likelihood, program.log_prior)
    q = refine(target, LocalQ.of(moved.guide), x, steps=50)  # type: ignore[arg-type]
    noise = torch.randn(
        draws, len(x), program.latent, dtype=x.dtype, generator=torch.Generator().manual_seed(2)
    )
    with torch.no_grad():
        parts = []
        for part in noise.split(500):
            z = q.draw(part)
            parts.append(target.log_joint(x, z) - q.log_prob(z))
    return torch.cat(parts)


def _defensive_weights(plain: Fit, moved: Fit, x: torch.Tensor, draws: int = 5000) -> torch.Tensor:
    """Return log weights `[draw, image]` of the mixture of the encoder's q and the prior.

    Half of the draws come from each. The weights are at most 2 p(x | z), whatever q misses
    (defensive importance sampling, Hesterberg 1995).
    """
    program: Any = plain.program
    target, half = Target(program.likelihood, program.log_prior), draws // 2
    q = LocalQ.of(cast(LocalGuide, moved.guide))
    noise = torch.randn(
        draws, len(x), program.latent, dtype=x.dtype, generator=torch.Generator().manual_seed(3)
    )
    parts = []
    with torch.no_grad():
        for place, part in enumerate(noise.split(500)):
            z = q.draw(part) if place * 500 < half else part
            own, prior = q.log_prob(z), program.log_prior(z)
            parts.append(target.log_joint(x, z) - (torch.logaddexp(own, prior) - math.log(2)))
    return torch.cat(parts)


def measure(part: str, work: Work) -> dict[str, Any]:
    """Measure what is missing of `scores`, `others` or `bars`, and return all of it."""
    steps, kept = QUICK_STEPS if work.quick else STEPS, Kept(work.out / "rows.json")
    keep, known = _keeper(part, steps, kept, work.progress), kept.rows
    if part == "bars":
        bars(steps, keep, known, rows=4 if work.quick else 20)
    else:
        run, rows = (
            {"scores": scores, "others": others}[part],
            (QUICK_ROWS if work.quick else tuple(ROWS)),
        )
        run(steps, keep, known, rows)
    return kept.rows


def _keeper(part: str, steps: int, kept: Kept, progress: Events) -> Callable[[str, Any], None]:
    def keep(name: str, values: Any) -> None:
        kept.put(name, {"steps_asked": steps, **values})
        shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
        progress.say(f"{part} {name}: {shown}")

    return keep
