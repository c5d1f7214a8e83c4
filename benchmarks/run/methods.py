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

    from guides.types import Fit
    from zoo.types import Data, ModelEntry, Posterior

__all__ = ["drawn", "fitted", "sampled", "save"]


def sampled(
    entry: ModelEntry,
    data: Data,
    config: Mapping[str, Any],
    *,
    seed: int,
    given: Fit | None,
    jobs: int,
) -> tuple[Posterior, Mapping[str, Any]]:
    """Run NUTS; return its draws, and whether its density was compiled with the reason.

    Args:
        entry: what to sample.
        data: what it is conditioned on.
        config: settings of NUTS, `compile` among them.
        seed: seed of the chains.
        given: the fit whose trained program is held fixed.
        jobs: chains at once.
    """
    config = dict(config)
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
    posterior = run_nuts(entry, seed=seed, data=data, **options)
    posterior = dataclasses.replace(
        posterior,
        cost=dataclasses.replace(posterior.cost, compile_seconds=record["compile_seconds"]),
    )
    return posterior, {name: density.compiled[name] for name in ("used", "reason")}


def fitted(
    entry: ModelEntry,
    family: str,
    data: Data,
    config: Mapping[str, Any],
    *,
    seed: int,
    given: Fit | None,
    trains: bool,
    training: Data | None,
) -> Fit:
    """Fit to the compared data.

    The weights of an entry that learns, and an encoder, are fitted to all data and then applied to
    the compared ones.

    Args:
        entry: what to fit to.
        family: name of the family, or of a guide of the entry's own.
        data: the compared data.
        config: settings of the fit.
        seed: seed of the fit.
        given: the fit whose trained program is held fixed.
        trains: whether the program is trained, and by no other cell.
        training: all data, if they are not the compared ones.
    """
    options: dict[str, Any] = {"seed": seed, "progress": False, **config}
    encodes = family_of(family, entry).amortized
    if training is None or not (encodes or trains):
        return guides.fit(entry, family, data=data, given=given, **options)
    fit = guides.fit(entry, family, data=training, given=given, **options)
    if not fit.ok:
        return fit
    if encodes:
        return guides.transfer(fit, data)
    return guides.fit(entry, family, data=data, given=fit, **options)


def drawn(fit: Fit, number: int, seed: int) -> Posterior:
    """Return draws of a fitted guide, `seed` being that of its cell."""
    seed = derive_seed(seed, fit.entry.key, fit.family, "draw")
    return guides.draw(fit, number, seed=seed)


def save(posterior: Posterior, fit: Fit | None, folder: Path) -> None:
    """Write the draws, and the guide if there is one, into the folder of a cell."""
    save_netcdf(posterior, folder / "posterior.nc")
    if fit is not None:
        guides.save(fit, folder / "guide.pt")
