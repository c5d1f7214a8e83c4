"""Figures of `docs/results/vae_collapse.md`: KL schedules if a decoder can ignore the code.

The program is `vae[context=true]`: every pixel also depends on the pixels before it. Every number
is exact up to the grid: log p(x), the posterior of every code, the mutual information of image and
code.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import torch

import guides
import zoo
from benchmarks.studies.record import Work
from benchmarks.studies.rows import Kept
from benchmarks.studies.vae.measure import ACTIVE, elbo_per_image
from benchmarks.studies.vae_collapse.render import ROWS, Row
from guides.objectives.records import objective_of
from guides.types import Fit
from zoo.truth.grid import LatentGrid
from zoo.types import Data

__all__ = ["measure", "numbers", "train"]

STEPS, SEEDS = 2000, 3
QUICK_STEPS = 200
INFORMED = 300  # training images for mutual information and active units
POINTS = 81


def train(row: str, steps: int, seed: int, **options: Any) -> Fit:
    """Train decoder and encoder jointly by one schedule."""
    objective, share, more = ROWS[row]
    entry = zoo.load("vae", context=True, init=seed, **options)
    settings = {
        "steps": steps,
        "patience": max(50, steps // 8),
        "anneal": steps // 2,
        "compile": "off",
        **more,
    }
    goal = objective.replace("WARMUP", str(int(share * steps)))
    return guides.fit(entry, "amortized", seed=seed, objective=goal, **settings)


def part(data: Data, tensors: Mapping[str, torch.Tensor], rows: int) -> Data:
    """Return data whose images are the first rows of these tensors."""
    few = {k: v[:rows] for k, v in tensors.items()}
    return dataclasses.replace(
        data, train=few, test=None, size=len(few["x"]), coords={**data.coords, "image": []}
    )


def numbers(fit: Fit) -> Row:
    """Return exact scores in nats per image.

    Negative log likelihood, KL, active units and mutual information.
    """
    program: Any = fit.program
    assert fit.data.test is not None
    train_part, held = (
        part(fit.data, fit.data.train, INFORMED),
        part(fit.data, fit.data.test, len(fit.data.test["x"])),
    )
    grid = LatentGrid(
        program.likelihood, program.latent, log_prior=program.log_prior, points=POINTS
    )
    sample = torch.cat([train_part.train["x"][::50], held.train["x"][::50]])
    checked = grid.check(sample)
    if not checked.ok:
        grid = grid.sufficient(sample)
        checked = grid.check(sample)
    _, mean, _ = grid.moments(train_part.train["x"])
    moved = guides.transfer(fit, train_part)
    with torch.no_grad():
        encoder = moved.guide.numbers(None)[:, : program.latent] * moved.guide.spread  # type: ignore[operator]
    evidence = grid.log_evidence(held.train["x"])
    return {
        "nll_held_out": -float(evidence.mean()),
        "nll_held_out_se": float(evidence.std() / len(evidence) ** 0.5),
        "minus_elbo_held_out": -float(
            elbo_per_image(guides.transfer(fit, held), held.train["x"]).mean()
        ),
        "active_exact": int((mean.var(0) > ACTIVE).sum()),
        "active_encoder": int((encoder.var(0) > ACTIVE).sum()),
        "variances": [round(v, 5) for v in mean.var(0).tolist()],
        **grid.information(train_part.train["x"]),
        "grid_ok": checked.ok,
        "final_kl_weight": objective_of(fit.config.objective).kl_weight(fit.cost.steps),
        "steps": fit.cost.steps,
        "stop": fit.stop.status,
        "history": [
            [float(s), round(float(v), 4)]
            for s, v in zip(fit.history["step"], fit.history["kl_nats"], strict=True)
        ],
    }


def measure(work: Work) -> dict[str, dict[str, Row]]:
    """Measure what is missing, and return the rows by schedule and seed."""
    kept, steps = Kept(work.out / "rows.json"), QUICK_STEPS if work.quick else STEPS
    for seed in range(1 if work.quick else SEEDS):
        for name in ROWS:
            known = kept.rows.get(name, {})
            if str(seed) in known:
                continue
            began = time.process_time()
            row = numbers(train(name, steps, seed))
            row["seconds"] = round(time.process_time() - began, 1)
            kept.put(name, {**known, str(seed): row})
            shown = {k: v for k, v in row.items() if k != "history"}
            work.progress.say(f"{name}, seed {seed}: {shown}")
    return kept.rows
