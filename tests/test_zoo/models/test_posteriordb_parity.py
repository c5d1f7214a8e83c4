"""Every program of posteriordb against Stan, at the points in the folder POSTERIORDB.

Also Stein's identities.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

import zoo
from zoo.density.log_density import LogDensity
from zoo.types import ModelEntry

FOLDER = os.environ.get("POSTERIORDB")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="POSTERIORDB is not set, so there is no copy of posteriordb to compare with"
)
NAMES = [n for n in zoo.names() if n.startswith("posteriordb/")]
RENAMED = {"posteriordb/eight_schools-eight_schools_noncentered": {"theta_raw": "theta_trans"}}
# nats; Stan solves the equations to 1e-3 there
LOOSE = {"posteriordb/hudson_lynx_hare-lotka_volterra": 1e-3}
DRAWS = 80  # per chain, of ten chains


def density_of(entry: ModelEntry) -> LogDensity:
    data = entry.load_data()
    return LogDensity(entry.program(data), data)


def jacobian(density: LogDensity, u: Tensor) -> Tensor:
    """Log determinant of the map to the constrained sites at points `[n, dim]`, `[n]`."""
    total = torch.zeros(len(u), dtype=u.dtype)
    for s in density.sites:
        raw = s.part(u)
        total = total + s.transform.log_abs_det_jacobian(raw, s.transform(raw)).reshape(
            len(u), -1
        ).sum(-1)
    return total


def errors(entry: ModelEntry, name: str) -> tuple[Tensor, Tensor]:
    """Differences from Stan in nats at the points, up to one constant, and Stan's values."""
    file = Path(str(FOLDER)) / "parity" / f"{name}.json"
    if not file.parent.is_dir():
        pytest.skip(
            "this copy of posteriordb comes without density points of Stan (folder parity)"
        )
    points = json.loads(file.read_text(encoding="utf-8"))["points"]
    assert len(points) >= 10
    density = density_of(entry)
    rename = RENAMED.get(entry.name, {})
    z = {
        s.name: torch.tensor(
            [p["parameters"][rename.get(s.name, s.name)] for p in points], dtype=torch.float64
        )
        for s in density.sites
    }
    u = density.unconstrain(z)
    with torch.no_grad():
        ours = density.eager_batch()(u) - jacobian(density, u)
    stan = torch.tensor([p["log_density"] for p in points], dtype=torch.float64)
    return (ours - ours[0]) - (stan - stan[0]), stan


def test_every_posterior_of_the_copy_has_a_program() -> None:
    known = {n.removeprefix("posteriordb/") for n in NAMES}
    assert len(known) == 37
    assert known >= {p.stem for p in (Path(str(FOLDER)) / "parity").glob("*.json")}


@pytest.mark.parametrize("name", NAMES)
def test_differences_of_log_density_are_those_of_stan(name: str) -> None:
    found, stan = errors(zoo.load(name), name.removeprefix("posteriordb/"))
    limit = LOOSE[name] * torch.ones_like(stan) if name in LOOSE else 1e-6 * (1 + stan.abs())
    assert (found.abs() <= limit).all(), f"worst error {found.abs().max():.3g} nats"


def test_parity_catches_another_prior() -> None:
    entry = zoo.load("posteriordb/kidiq_with_mom_work-kidscore_interaction_c")
    # the same response, other columns and prior
    other = zoo.load("posteriordb/kidiq-kidscore_interaction")
    found, stan = errors(entry, "kidiq-kidscore_interaction")
    assert (found.abs() > 1e-6 * (1 + stan.abs())).any()
    right, _ = errors(other, "kidiq-kidscore_interaction")
    assert right.abs().max() < 1e-9


def reference_points(entry: ModelEntry, density: LogDensity) -> Tensor:
    """Some reference draws of every chain as unconstrained points, `[draw, dim]`."""
    assert entry.published is not None
    draws = {k: v[:, :DRAWS].flatten(0, 1) for k, v in entry.published(density.data).draws.items()}
    return density.unconstrain({s.name: draws[s.name] for s in density.sites})


def stein(log_density: Callable[[Tensor], Tensor], u: Tensor) -> tuple[float, float]:
    """Return the largest deviation from Stein's identities, in standard errors, and its limit.

    For draws u of a density with gradient g, E[g_i] = 0 and E[(u_i - m_i) g_i] = -1. The draws are
    nearly independent.
    """
    point = u.detach().requires_grad_(True)
    (g,) = torch.autograd.grad(log_density(point).sum(), point)
    statistics = torch.cat([g, (u - u.mean(0)) * g + 1.0], -1)  # [draw, 2 dim], each of mean 0
    z = statistics.mean(0).abs() / (statistics.std(0) / len(u) ** 0.5)
    return z.max().item(), float(norm.isf(norm.sf(4.0) / z.numel()))


@pytest.mark.parametrize("name", NAMES)
def test_reference_draws_fulfil_steins_identities(name: str) -> None:
    entry = zoo.load(name)
    density = density_of(entry)
    found, limit = stein(density.eager_batch(), reference_points(entry, density))
    assert found < limit, f"{found:.1f} standard errors"


@pytest.mark.parametrize(
    "fault", ["shifted draws", "narrow draws", "no jacobian", "changed row", "other year"]
)
def test_stein_catches_faults(fault: str) -> None:
    names = {"other year": "nes1980-nes", "no jacobian": "eight_schools-eight_schools_noncentered"}
    entry = zoo.load("posteriordb/" + names.get(fault, "kidiq-kidscore_momiq"))
    density = density_of(entry)
    u, function = reference_points(entry, density), density.eager_batch().function
    assert stein(function, u)[0] < stein(function, u)[1]
    if fault == "shifted draws":
        u = u + 0.3 * u.std(0)
    elif fault == "narrow draws":
        u = u.mean(0) + 0.8 * (u - u.mean(0))
    elif fault == "no jacobian":
        tau = next(s for s in density.sites if s.name == "tau")
        function = lambda v: density.eager_batch()(v) - v[:, tau.start]  # noqa: E731
    elif fault == "changed row":
        y = density.data.train["y"].clone()
        y[:40] += 10.0
        data = replace(density.data, train={**density.data.train, "y": y})
        function = LogDensity(entry.program(data), data).eager_batch().function
    else:
        function = density_of(zoo.load("posteriordb/nes1984-nes")).eager_batch().function
    found, limit = stein(function, u)
    assert found > limit


@pytest.mark.parametrize(
    ("name", "nats"),
    [
        ("hudson_lynx_hare-lotka_volterra", 2e-5),
        ("one_comp_mm_elim_abs-one_comp_mm_elim_abs", 2e-5),
    ],
)
def test_half_the_step_changes_the_density_little(
    name: str, nats: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = zoo.load(f"posteriordb/{name}")
    density = density_of(entry)
    u = reference_points(entry, density)
    with torch.no_grad():
        coarse = density.eager_batch()(u)
        halve(monkeypatch)
        fine = density_of(entry).eager_batch()(u)
    assert 0 < (coarse - fine).abs().max() < nats


def halve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Double the number of steps of both models."""
    from zoo.models.posteriordb import lotka_volterra as lynx
    from zoo.models.posteriordb import one_comp as dose

    once, doses = lynx.log_populations, dose.concentrations
    monkeypatch.setattr(
        lynx, "log_populations", lambda theta, z, years: once(theta, z, years, 2 * lynx.STEPS)
    )
    monkeypatch.setattr(dose, "concentrations", lambda *arguments: doses(*arguments, 2))
