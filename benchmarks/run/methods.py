"""What computes the draws of a cell: a fit of a guide, or NUTS.

Every file of `benchmarks` that this module imports is part of the key of a cell
(`benchmarks.run.sources`), so it imports nothing that only stores or compares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import guides
from benchmarks.arviz_bridge import save_netcdf
from benchmarks.mcmc.nuts import LEAPFROGS, run_nuts
from guides.registry import family_of
from zoo.density.log_density import LogDensity
from zoo.seeds import derive_seed

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.run.cell import Cell
    from guides.types import Fit
    from zoo.types import Posterior

__all__ = ["drawn", "fitted", "sampled", "save"]


def sampled(cell: Cell, given: Fit | None, jobs: int) -> tuple[Posterior, Mapping[str, Any]]:
    """Run NUTS; return its draws, and whether its density was compiled with the reason.

    Args:
        cell: what to run.
        given: the fit whose trained program is held fixed.
        jobs: chains at once.
    """
    entry, data, config = cell.prepared.entry, cell.prepared.data, dict(cell.config)
    density = LogDensity(
        entry.program(data) if given is None else given.program, data, dtype=entry.dtype
    )
    record = density.compile(
        config.pop("compile"), expected_calls=4 * (800 + config["draws"]) * int(LEAPFROGS)
    )
    options: dict[str, Any] = {
        "given": given,
        "jobs": jobs,
        "in_process": jobs == 1,
        "progress": print,
        "log_density": density,
        **config,
    }
    posterior = run_nuts(entry, seed=cell.seed, data=data, **options)
    posterior = dataclasses.replace(
        posterior,
        cost=dataclasses.replace(posterior.cost, compile_seconds=record["compile_seconds"]),
    )
    return posterior, {name: density.compiled[name] for name in ("used", "reason")}


def fitted(cell: Cell, given: dict[str, Any]) -> Fit:
    """Fit to the compared data.

    The weights of an entry that learns, and an encoder, are fitted to all data and then applied to
    the compared ones.
    """
    entry, prepared, options = cell.prepared.entry, cell.prepared, dict(cell.config)
    encodes = family_of(cell.method, entry).amortized
    trains = entry.learns and not given
    if prepared.training is None or not (encodes or trains):
        return guides.fit(
            entry, cell.method, seed=cell.seed, data=prepared.data, **given, **options
        )
    fit = guides.fit(
        entry, cell.method, seed=cell.seed, data=prepared.training, **given, **options
    )
    if not fit.ok:
        return fit
    if encodes:
        return guides.transfer(fit, prepared.data)
    return guides.fit(entry, cell.method, seed=cell.seed, data=prepared.data, given=fit, **options)


def drawn(cell: Cell, fit: Fit) -> Posterior:
    """Return the draws of a fitted guide."""
    seed = derive_seed(cell.seed, cell.prepared.entry.key, cell.method, "draw")
    return guides.draw(fit, cell.draws, seed=seed)


def save(posterior: Posterior, fit: Fit | None, folder: Path) -> None:
    """Write the draws, and the guide if there is one, into the folder of a cell."""
    save_netcdf(posterior, folder / "posterior.nc")
    if fit is not None:
        guides.save(fit, folder / "guide.pt")
