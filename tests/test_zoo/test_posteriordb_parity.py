"""Every program of posteriordb against Stan: log densities at the points of the folder named by POSTERIORDB, and Stein."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

import zoo
from zoo.log_density import LogDensity
from zoo.types import ModelEntry

FOLDER = os.environ.get("POSTERIORDB")
pytestmark = pytest.mark.skipif(not FOLDER, reason="POSTERIORDB is not set, so there is no copy of posteriordb to compare with")
NAMES = [n for n in zoo.names() if n.startswith("posteriordb/")]
RENAMED = {"posteriordb/eight_schools-eight_schools_noncentered": {"theta_raw": "theta_trans"}}
LOOSE = {"posteriordb/hudson_lynx_hare-lotka_volterra": 1e-3}  # nats; Stan solves the equations to 1e-3 there
DRAWS = 80  # per chain, of ten chains


def density_of(entry: ModelEntry) -> LogDensity:
    data = entry.load_data()
    return LogDensity(entry.program(data), data)


def jacobian(density: LogDensity, u: Tensor) -> Tensor:
    """Log determinant of the map to the constrained sites at points `[n, dim]`, `[n]`."""
    total = torch.zeros(len(u), dtype=u.dtype)
    for s in density.sites:
        raw = density._part(u, s)
        total = total + s.transform.log_abs_det_jacobian(raw, s.transform(raw)).reshape(len(u), -1).sum(-1)
    return total


def errors(entry: ModelEntry, name: str) -> tuple[Tensor, Tensor]:
    """Differences from Stan in nats at the points, up to one constant, and Stan's values."""
    points = json.loads((Path(str(FOLDER)) / "parity" / f"{name}.json").read_text(encoding="utf-8"))["points"]
    assert len(points) >= 10
    density = density_of(entry)
    rename = RENAMED.get(entry.name, {})
    z = {s.name: torch.tensor([p["parameters"][rename.get(s.name, s.name)] for p in points], dtype=torch.float64) for s in density.sites}
    u = density.unconstrain(z)
    with torch.no_grad():
        ours = density.eager_batch()(u) - jacobian(density, u)
    stan = torch.tensor([p["log_density"] for p in points], dtype=torch.float64)
    return (ours - ours[0]) - (stan - stan[0]), stan


def test_every_posterior_of_the_copy_has_a_program() -> None:
    assert {n.removeprefix("posteriordb/") for n in NAMES} >= {p.stem for p in (Path(str(FOLDER)) / "parity").glob("*.json")}


@pytest.mark.parametrize("name", NAMES)
def test_differences_of_log_density_are_those_of_stan(name: str) -> None:
    found, stan = errors(zoo.load(name), name.removeprefix("posteriordb/"))
    limit = LOOSE[name] * torch.ones_like(stan) if name in LOOSE else 1e-6 * (1 + stan.abs())
    assert (found.abs() <= limit).all(), f"worst error {found.abs().max():.3g} nats"


def test_parity_catches_another_prior() -> None:
    entry = zoo.load("posteriordb/kidiq_with_mom_work-kidscore_interaction_c")
    other = zoo.load("posteriordb/kidiq-kidscore_interaction")  # the same response, other columns and prior
    found, stan = errors(entry, "kidiq-kidscore_interaction")
    assert (found.abs() > 1e-6 * (1 + stan.abs())).any()
    right, _ = errors(other, "kidiq-kidscore_interaction")
    assert right.abs().max() < 1e-9


def stein(entry: ModelEntry, density: LogDensity, shift: float = 0.0) -> tuple[float, float]:
    """Return the largest distance from Stein's identities in standard errors, and the limit for so many looks.

    For draws u of a density with gradient g, E[g_i] = 0 and E[(u_i - m_i) g_i] = -1. The draws are nearly independent.
    """
    assert entry.published is not None
    draws = {k: v[:, :DRAWS].flatten(0, 1) for k, v in entry.published(density.data).draws.items()}
    u = density.unconstrain({s.name: draws[s.name] for s in density.sites}) + shift
    point = u.detach().requires_grad_(True)
    (g,) = torch.autograd.grad(density.eager_batch()(point).sum(), point)
    statistics = torch.cat([g, (u - u.mean(0)) * g + 1.0], -1)  # [draw, 2 dim], each of mean 0
    z = statistics.mean(0).abs() / (statistics.std(0) / len(u) ** 0.5)
    return z.max().item(), float(norm.isf(norm.sf(4.0) / z.numel()))


@pytest.mark.parametrize("name", NAMES)
def test_reference_draws_fulfil_steins_identities(name: str) -> None:
    entry = zoo.load(name)
    found, limit = stein(entry, density_of(entry))
    assert found < limit, f"{found:.1f} standard errors"
