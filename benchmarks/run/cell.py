"""One cell: run a method and store its draws, or compare them; each in its own process."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import resource
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import guides
from benchmarks.arviz_bridge import load_netcdf
from benchmarks.comparison.assess import assess_row
from benchmarks.comparison.score import compare
from benchmarks.run import estimates, methods, outside, reweighted, witness
from benchmarks.run.record import SCHEMA, drawn_cell, failed_cell, scored_cell, versions
from benchmarks.run.sources import code_digest
from benchmarks.run.store import (
    RunDir,
    canonical,
    cell_name,
    disk_errors,
    strict_json,
    write_atomic,
)
from benchmarks.types import CellStatus
from guides.draws import density_of
from guides.objectives.records import OBJECTIVES
from guides.registry import FAMILIES
from zoo.compiler.policy import backend, compiler_missing
from zoo.density.log_density import LogDensity
from zoo.errors import FitError, InfrastructureError, ZooError, one_line
from zoo.types import Cost, Data, ModelEntry, Posterior, Reference

__all__ = ["NUTS", "Cell", "Prepared", "compare_cell", "load_fit", "load_posterior", "run_cell"]

NUTS = "nuts"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An entry with its data, its witness and a rough estimate of seconds per method.

    `data` are what methods are compared on. `training` holds all data if an entry that learns is
    compared on an evaluation subset. `witness` holds numbers of the program as it is now
    (`benchmarks.run.witness`), `files` the digests of the files behind it, and `outside` finds
    those that a method opens (`benchmarks.run.outside`). `density` is that of a fresh program.
    `remark` says what the run leaves out, if anything. `reweighted` maps the rows of reweighted
    draws to their families.
    """

    request: str
    entry: ModelEntry
    data: Data
    methods: tuple[str, ...]
    digest: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    most_draws: int | None = None
    training: Data | None = None
    witness: witness.Record = field(default_factory=dict)
    density: LogDensity | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    outside: outside.Outside = field(default_factory=outside.Outside)
    remark: str = ""
    reweighted: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One unit of work: a method with a seed on an entry.

    `given` is the cell whose trained program is held fixed. SMC and short chains begin from the
    first usable guide of `starts`, reweighted draws from the guide of the only one.
    """

    prepared: Prepared
    method: str
    seed: int
    data_seed: int
    config: Mapping[str, Any]
    draws: int
    given: Cell | None = None
    starts: tuple[Cell, ...] = ()
    stored: str | None = None

    @functools.cached_property
    def key(self) -> str:
        """SHA-256 of everything the draws depend on."""
        parts = {
            "schema": SCHEMA,
            "entry": self.prepared.entry.key,
            "source": self.prepared.digest,
            "method": self.method,
            "seed": self.seed,
            "data_seed": self.data_seed,
            "config": dict(self.config),
            "draws": self.draws,
            "versions": versions(),
            "code": code_digest("draw"),
            "compiler": _compiler(self.config),
            "given": None if self.given is None else self.given.key,
        }
        if self.method in estimates.ESTIMATES:
            parts |= {"starts": [c.key for c in self.starts], "estimate": code_digest("estimate")}
        if self.reweights:
            parts |= {"starts": [c.key for c in self.starts], "reweight": code_digest("reweight")}
        if self.method not in self.prepared.entry.own_guides:
            family = outside.plugin_digest(FAMILIES, [self.method])
            parts |= {"family": family} if family else {}
        if not (self.method in (NUTS, *estimates.ESTIMATES) or self.reweights):
            # a plug-in's bound may be named in settings or in defaults
            objectives = outside.plugin_digest(OBJECTIVES)
            parts |= {"objectives": objectives} if objectives else {}
        return hashlib.sha256(canonical(parts)).hexdigest()

    @property
    def name(self) -> str:
        """Folder name of the cell, from the request and from what its program computes.

        `stored` overrides it with the name of a kept cell.
        """
        if self.stored:
            return self.stored
        seen = {"key": self.key, "witness": witness.short(self.prepared.witness)}
        return cell_name(
            self.prepared.entry.key,
            self.method,
            self.seed,
            hashlib.sha256(canonical(seen)).hexdigest(),
        )

    @property
    def reweights(self) -> str:
        """The family whose draws it reweights, empty for other methods."""
        return self.prepared.reweighted.get(self.method, "")

    @property
    def label(self) -> str:
        """Label for progress lines."""
        return f"{self.prepared.entry.key} {self.method}" + (
            f" seed {self.seed}" if self.seed else ""
        )

    @property
    def head(self) -> dict[str, Any]:
        """The fields of `cell.json` that are known before the work."""
        entry = self.prepared.entry
        return {
            "key": self.key,
            "entry": entry.key,
            "options": entry.settings,
            "method": self.method,
            "seed": self.seed,
            "data_seed": self.data_seed,
        }


def _compiler(config: Mapping[str, Any]) -> str:
    """Return the backend that compiles graphs; two backends differ in the last digits."""
    return "none" if config.get("compile") == "off" or compiler_missing() else backend()


@contextmanager
def captured(path: Path) -> Iterator[None]:
    """Redirect everything this process prints, compiled code included, to a file."""
    with (
        path.open("w", buffering=1, encoding="utf-8") as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        kept = [os.dup(1), os.dup(2)]
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)


def run_cell(cell: Cell, run: RunDir, jobs: int = 1) -> tuple[str, str]:
    """Run the method and write the cell without a comparison.

    Args:
        cell: what to run.
        run: where to write it.
        jobs: NUTS chains at once.

    Returns:
        status and a sentence.

    Raises:
        InfrastructureError: the cell cannot be written.
    """
    with run.draft(cell.name) as folder:
        with captured(folder / "log.txt"), cell.prepared.outside.reading():
            content = _attempt(cell, run, folder, jobs)
        if files := {**cell.prepared.files, **cell.prepared.outside.digests()}:
            write_atomic(folder / outside.FILE, strict_json(files))
        write_atomic(folder / "cell.json", strict_json(content))
        if not (folder / witness.FILE).exists():  # a fit has written it, with numbers of its guide
            write_atomic(folder / witness.FILE, strict_json(cell.prepared.witness))
    return content["status"], (content["stop"] or {}).get("sentence", "")


def differs(cell: Cell, run: RunDir, name: str) -> str:
    """Return the file or number in which a kept cell differs from its program and guide today.

    An empty string means that there is no difference.

    Args:
        cell: what is requested.
        run: the run that holds the kept cell.
        name: folder name of the kept cell.
    """
    place, prepared = run.cells / name, cell.prepared
    try:
        kept = witness.load((place / witness.FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "witness"
    files = place / outside.FILE
    known = json.loads(files.read_text(encoding="utf-8")) if files.exists() else {}
    if found := outside.changed(known, prepared.files, prepared.outside):
        return found
    fresh: dict[str, Any] = dict(prepared.witness)
    dtype = prepared.entry.dtype or torch.float64
    drawn = {n for n in kept if n.startswith("guide ")}
    found = witness.difference({n: x for n, x in kept.items() if n not in drawn}, fresh, dtype)
    if found or not drawn:
        return found
    try:
        fit = load_fit(cell if name == cell.name else dataclasses.replace(cell, stored=name), run)
    except ZooError as error:
        return f"guide, which cannot be read ({error}),"
    return (
        "guide"
        if fit is None
        else witness.difference({n: kept[n] for n in drawn}, witness.of_guide(fit), dtype)
    )


def _attempt(cell: Cell, run: RunDir, folder: Path, jobs: int) -> dict[str, Any]:
    try:
        if cell.method == NUTS:
            return _nuts(cell, run, folder, jobs)
        if cell.reweights:
            return _reweighted(cell, run, folder)
        estimates_it = cell.method in estimates.ESTIMATES
        return _estimate(cell, run, folder) if estimates_it else _fit(cell, run, folder)
    except InfrastructureError:
        raise
    except FitError as error:
        status: CellStatus = "refused" if cell.reweights else "init_failed"
        return failed_cell(cell.head, status, str(error))
    except ZooError as error:
        return failed_cell(cell.head, "error", str(error))
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        first = one_line(error)
        return failed_cell(
            cell.head,
            "error",
            f"{cell.label} stopped with {type(error).__name__}: {first} (log.txt of the cell has"
            " the rest).",
        )


def _nuts(cell: Cell, run: RunDir, folder: Path, jobs: int) -> dict[str, Any]:
    given = None if cell.given is None else load_fit(cell.given, run)
    made = cell.prepared
    posterior, compiled = methods.sampled(
        made.entry, made.data, cell.config, seed=cell.seed, given=given, jobs=jobs
    )
    _save(posterior, None, folder)
    return drawn_cell(cell.head, "ok", posterior, None, _peak_memory(), compiled)


def _estimate(cell: Cell, run: RunDir, folder: Path) -> dict[str, Any]:
    fits = [fit for start in cell.starts if (fit := load_fit(start, run)) is not None]
    posterior, compiled = estimates.estimated(cell.method, fits, cell.config, seed=cell.seed)
    _save(posterior, None, folder)
    return drawn_cell(cell.head, "ok", posterior, None, _peak_memory(), compiled)


def _reweighted(cell: Cell, run: RunDir, folder: Path) -> dict[str, Any]:
    fit = load_fit(cell.starts[0], run)
    posterior, compiled = reweighted.from_fit(
        fit, cell.reweights, cell.config, draws=cell.draws, seed=cell.seed
    )
    _save(posterior, None, folder)
    return drawn_cell(cell.head, "ok", posterior, None, _peak_memory(), compiled)


def _fit(cell: Cell, run: RunDir, folder: Path) -> dict[str, Any]:
    made, given = cell.prepared, None if cell.given is None else load_fit(cell.given, run)
    fit = methods.fitted(
        made.entry,
        cell.method,
        made.data,
        cell.config,
        seed=cell.seed,
        given=given,
        trains=made.entry.learns and cell.given is None,
        training=made.training,
    )
    print(fit.stop.sentence)
    if not fit.ok:
        return failed_cell(cell.head, fit.stop.status, fit.stop.sentence, fit.cost.seconds)
    posterior = methods.drawn(fit, cell.draws, cell.seed)
    _save(posterior, fit, folder)
    write_atomic(
        folder / witness.FILE, strict_json({**cell.prepared.witness, **witness.of_guide(fit)})
    )
    status: CellStatus = "ok" if fit.stop.status == "ok" else "not_converged"
    return drawn_cell(cell.head, status, posterior, fit, _peak_memory())


def _save(posterior: Posterior, fit: Any, folder: Path) -> None:
    with disk_errors(folder):
        methods.save(posterior, fit, folder)


def _peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _trained(cell: Cell, run: RunDir) -> LogDensity | None:
    """Return the log density of reweighted draws whose program was trained; None for others."""
    fit = load_fit(cell.starts[0], run) if cell.reweights and cell.prepared.entry.learns else None
    return None if fit is None else density_of(fit)


def load_posterior(cell: Cell, run: RunDir, content: Mapping[str, Any]) -> Posterior:
    """Read the draws of a finished cell; a failed one gives an empty posterior of its method."""
    path, cost = run.cells / cell.name / "posterior.nc", Cost(**content["cost"])
    entry, data = cell.prepared.entry, cell.prepared.data
    if not path.exists():
        nothing = {"none": torch.empty(0)}
        return Posterior(
            entry=entry,
            data=data,
            method=cell.method,
            draws=nothing,
            sample_dims=("sample",),
            cost=cost,
            seed=cell.seed,
        )
    posterior = load_netcdf(path, entry, data)
    return dataclasses.replace(posterior, cost=cost, seed=cell.seed)


def load_fit(cell: Cell, run: RunDir) -> Any:
    """Return the fit of a finished cell, None for NUTS and for failed cells.

    Each file is read once per process.
    """
    path = run.cells / cell.name / "guide.pt"
    if cell.name not in run.fits and path.exists():
        made = cell.prepared
        run.fits[cell.name] = guides.load(
            path, entry=made.entry, data=made.data, density=made.density
        )
    return run.fits.get(cell.name)


def compare_cell(
    cell: Cell,
    posterior: Posterior,
    fit: Any,
    content: Mapping[str, Any],
    reference: Reference,
    trust: bool = True,
    run: RunDir | None = None,
) -> dict[str, Any]:
    """Compare the draws of a finished cell with the reference and return its scored content.

    Where no truth is known, a fit is assessed, if that is asked for (`trust`). Draws that are the
    reference would agree with themselves in any case, so they get no scores.
    """
    if reference.posterior is not posterior:
        if trust and fit is not None and fit.ok and reference.kind in ("none", "estimated"):
            return scored_cell(content, assess_row(posterior, fit, reference, seed=cell.seed))
        density = _trained(cell, run) if run is not None else None
        compared = compare(posterior, reference, fit=fit, log_density=density, climb=False)
        return scored_cell(content, compared)
    alone = compare(posterior, None)
    because = tuple(
        dataclasses.replace(r, sentence="the reference of the other rows")
        for r in alone.reasons[:1]
    )
    sentence = f"{cell.method} is the reference of the other rows; no other truth is known here."
    return scored_cell(
        content,
        dataclasses.replace(alone, reference=reference, reasons=because, sentence=sentence),
    )
