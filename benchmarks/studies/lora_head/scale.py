"""Prior scale of `lora_head`: evidence of the training labels over scales of the update.

For a scale s the update is s times standard normal adapters. By Laplace's formula, from training
labels alone,

    log p(labels | s) = log p(labels, u*) + (d/2) log 2 pi - (1/2) log det H,
    H = -grad^2 log p(labels, u*)

at the mode u* with the highest joint density of several starts. For `form=rank` the mirrored mode
adds log 2 to every scale alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import zoo
from benchmarks.studies.record import Work
from zoo.compiler.vectorize import value_and_gradient
from zoo.models.adapters import _updates as adapters
from zoo.models.adapters._updates import adapted, shapes

__all__ = ["evidences", "laplace_evidence", "measure"]

SCALES = {"rank": (0.25, 0.5, 1.0, 2.0), "last_layer": (0.5, 1.0, 2.0, 4.0)}
SEEDS = (100, 101, 102)  # data seeds no table uses
STARTS, STEPS = 8, 3000


def laplace_evidence(
    logits: Callable[[Mapping[str, Tensor], Tensor], Tensor],
    sites: Mapping[str, tuple[int, ...]],
    x: Tensor,
    label: Tensor,
    stretch: float,
    *,
    seed: int = 0,
    steps: int = STEPS,
) -> float:
    """Return Laplace's log evidence in nats with adapters `stretch` times as wide.

    Args:
        logits: from `zoo.models.adapters._updates.adapted`; the update is linear in `B` of the
            form `rank` and in `head`.
        sites: shapes of the sites.
        x: layer inputs `[row, feature]`.
        label: output units `[row]`.
        stretch: scale of the update relative to the entry's own.
        seed: seed of the starts.
        steps: optimizer steps.
    """
    name = "B" if "B" in sites else next(iter(sites))

    def log_joint(u: Tensor) -> Tensor:  # [start, d] -> [start]
        parts = dict(zip(sites, u.split([math.prod(s) for s in sites.values()], -1), strict=True))
        draws = {
            k: v.reshape(*u.shape[:-1], *sites[k]) * (stretch if k == name else 1.0)
            for k, v in parts.items()
        }
        likelihood = (
            logits(draws, x)
            .log_softmax(-1)
            .gather(-1, label.expand(*u.shape[:-1], -1).unsqueeze(-1))
            .sum((-1, -2))
        )
        return likelihood - 0.5 * u.square().sum(-1) - 0.5 * u.shape[-1] * math.log(2 * math.pi)

    d = sum(math.prod(s) for s in sites.values())
    u = (
        0.3
        * torch.randn(
            STARTS, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )
    ).requires_grad_(True)
    optimizer = torch.optim.Adam([u], lr=0.05)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (
            0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * step / steps))
        )
        u.grad = -value_and_gradient(log_joint, u)[1]
        optimizer.step()
    with torch.no_grad():
        best = u[log_joint(u).argmax()].clone()
    hessian = torch.autograd.functional.hessian(lambda v: -log_joint(v[None])[0], best)
    sign, determinant = torch.linalg.slogdet(hessian)
    return (
        float(
            log_joint(best[None])[0].detach() + 0.5 * d * math.log(2 * math.pi) - 0.5 * determinant
        )
        if sign > 0
        else math.nan
    )


def evidences(
    form: str, scales: Sequence[float], seeds: Sequence[int] = SEEDS, steps: int = STEPS
) -> list[list[float]]:
    """Return the log evidence `[seed][scale]` in nats."""
    own = {"rank": adapters.RANK_SCALE, "last_layer": adapters.LAST_SCALE}[form]
    rows = []
    for seed in seeds:
        entry = zoo.load("lora_head", form=form)
        data = entry.load_data(seed)
        classes = len(data.coords["class"])
        sites, logits = shapes(form, 1, classes), adapted(classes)
        rows.append(
            [
                laplace_evidence(
                    logits, sites, data.train["x"], data.train["label"], s / own, steps=steps
                )
                for s in scales
            ]
        )
    return rows


def measure(work: Work) -> list[dict[str, Any]]:
    """Return the log evidence in nats of every form, data seed and scale.

    A quick run takes one seed and few steps.
    """
    seeds, steps = (SEEDS[:1], 300) if work.quick else (SEEDS, STEPS)
    rows = []
    for form, scales in SCALES.items():
        found = evidences(form, scales, seeds, steps)
        rows += [
            {"form": form, "scales": list(scales), "seed": seed, "nats": row}
            for seed, row in zip(seeds, found, strict=True)
        ]
    return rows
