"""What happens inside one cell: run a method and keep its draws, or compare them; each in a process of its own."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
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

from benchmarks.cells import SCHEMA, drawn_cell, failed_cell, scored_cell, versions
from benchmarks.store import RunDir, canonical, cell_name, disk_errors, strict_json, write_atomic
from benchmarks.types import CellStatus
from zoo.errors import FitError, InfrastructureError, ZooError
from zoo.seeds import derive_seed
from zoo.types import Cost, Data, ModelEntry, Posterior, Reference

__all__ = ["NUTS", "Cell", "Prepared", "compare_cell", "load_fit", "load_posterior", "run_cell"]

NUTS = "nuts"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An entry with its data made once, what its numbers depend on, and a guess of the seconds each method takes.

    `data` are what methods are compared on; `training` are all data where an entry that learns is compared on some of them.
    """

    request: str
    entry: ModelEntry
    data: Data
    methods: tuple[str, ...]
    digest: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    most_draws: int | None = None
    training: Data | None = None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One unit of work: a method with a seed on an entry; `given` is the cell whose trained program is held fixed."""

    prepared: Prepared
    method: str
    seed: int
    data_seed: int
    config: Mapping[str, Any]
    draws: int
    given: Cell | None = None
    stored: str | None = None

    @functools.cached_property
    def key(self) -> str:
        """SHA-256 of everything the draws depend on."""
        parts = {
            "schema": SCHEMA, "entry": self.prepared.entry.key, "source": self.prepared.digest, "method": self.method,
            "seed": self.seed, "data_seed": self.data_seed, "config": dict(self.config), "draws": self.draws,
            "versions": versions(), "code": code_digest("draw"),
            "given": None if self.given is None else self.given.key,
        }  # fmt: skip
        return hashlib.sha256(canonical(parts)).hexdigest()

    @property
    def name(self) -> str:
        """Folder name of the cell; `stored` names one that an earlier version of the programs made."""
        return self.stored or cell_name(self.prepared.entry.key, self.method, self.seed, self.key)

    @property
    def label(self) -> str:
        """Words for progress lines."""
        return f"{self.prepared.entry.key} {self.method}" + (f" seed {self.seed}" if self.seed else "")

    @property
    def head(self) -> dict[str, Any]:
        """The fields of `cell.json` that are known before the work."""
        entry = self.prepared.entry
        return {
            "key": self.key, "entry": entry.key, "options": entry.settings, "method": self.method, "seed": self.seed,
            "data_seed": self.data_seed,
        }  # fmt: skip


@functools.cache
def code_digest(part: str) -> str:
    """Digest the sources that `draw` (zoo, guides, NUTS) or `compare` results come from: a changed program is a new key."""
    own = {"draw": ["zoo/*.py", "guides/*.py", "benchmarks/nuts*.py", "benchmarks/work.py"]}
    judges = ("compare", "verdict", "thresholds", "truth", "trust", "guide_scores", "sentences", "mcmc", "arviz_bridge")
    patterns = own.get(part, [*(f"benchmarks/{name}.py" for name in judges), "benchmarks/metrics/*.py"])
    digest = hashlib.sha256()
    for path in sorted(p for pattern in patterns for p in ROOT.glob(pattern)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def source_digest(request: str, entry: ModelEntry, data: Data) -> str:
    """Digest the file an entry comes from and the data it was given."""
    digest = hashlib.sha256()
    files = {Path(request.rpartition(":")[0] or request)} if ".py" in request else set()
    for function in (entry.build, entry.make_data, *(q.fn for q in entry.quantities.values())):
        code = getattr(inspect.unwrap(function), "__code__", None)
        if code is not None:
            files.add(Path(code.co_filename))
    for content in sorted(hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()):
        digest.update(content.encode())
    for part in (data.train, data.test or {}):
        for name, value in sorted(part.items()):
            raw = value.detach().contiguous().numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode()
            kind = f"{value.dtype}{tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            digest.update(f"{name}\0{kind}\0".encode() + raw)
    return digest.hexdigest()


@contextmanager
def captured(path: Path) -> Iterator[None]:
    """Send everything this process prints, also from compiled code, to a file."""
    with path.open("w", buffering=1, encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
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
        with captured(folder / "log.txt"):
            content = _attempt(cell, run, folder, jobs)
        write_atomic(folder / "cell.json", strict_json(content))
    return content["status"], (content["stop"] or {}).get("sentence", "")


def _attempt(cell: Cell, run: RunDir, folder: Path, jobs: int) -> dict[str, Any]:
    try:
        return _nuts(cell, run, folder, jobs) if cell.method == NUTS else _fit(cell, run, folder)
    except InfrastructureError:
        raise
    except FitError as error:
        return failed_cell(cell.head, "init_failed", str(error))
    except ZooError as error:
        return failed_cell(cell.head, "error", str(error))
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        first = (str(error).splitlines() or [""])[0]
        return failed_cell(
            cell.head, "error", f"{cell.label} stopped with {type(error).__name__}: {first} (log.txt of the cell has the rest)."
        )


def _nuts(cell: Cell, run: RunDir, folder: Path, jobs: int) -> dict[str, Any]:
    from benchmarks.nuts import LEAPFROGS, run_nuts
    from zoo.log_density import LogDensity

    given = None if cell.given is None else load_fit(cell.given, run)
    entry, data, config = cell.prepared.entry, cell.prepared.data, dict(cell.config)
    density = LogDensity(entry.program(data) if given is None else given.program, data, dtype=entry.dtype)
    record = density.compile(config.pop("compile"), expected_calls=4 * (800 + config["draws"]) * int(LEAPFROGS))
    options: dict[str, Any] = {"given": given, "jobs": jobs, "in_process": jobs == 1, "progress": print, "log_density": density, **config}
    posterior = run_nuts(entry, seed=cell.seed, data=data, **options)
    posterior = dataclasses.replace(posterior, cost=dataclasses.replace(posterior.cost, compile_seconds=record["compile_seconds"]))
    _save(posterior, None, folder)
    compiled = {name: density.compiled[name] for name in ("used", "reason")}
    return drawn_cell(cell.head, "ok", posterior, None, _peak_memory(), compiled)


def _fit(cell: Cell, run: RunDir, folder: Path) -> dict[str, Any]:
    import guides

    entry, given = cell.prepared.entry, {} if cell.given is None else {"given": load_fit(cell.given, run)}
    fit = _fitted(cell, given)
    print(fit.stop.sentence)
    if not fit.ok:
        return failed_cell(cell.head, fit.stop.status, fit.stop.sentence, fit.cost.seconds)
    posterior = guides.draw(fit, cell.draws, seed=derive_seed(cell.seed, entry.key, cell.method, "draw"))
    _save(posterior, fit, folder)
    status: CellStatus = "ok" if fit.stop.status == "ok" else "not_converged"
    return drawn_cell(cell.head, status, dataclasses.replace(posterior, seed=cell.seed), fit, _peak_memory())


def _fitted(cell: Cell, given: dict[str, Any]) -> Any:
    """Fit to the data that are compared; what learns weights or an encoder is fitted to all data and brought there."""
    import guides

    entry, prepared, options = cell.prepared.entry, cell.prepared, dict(cell.config)
    encodes = getattr(guides.FAMILIES.get(cell.method), "AMORTIZED", False)
    if prepared.training is None or not (encodes or not given):
        return guides.fit(entry, cell.method, seed=cell.seed, data=prepared.data, **given, **options)
    fit = guides.fit(entry, cell.method, seed=cell.seed, data=prepared.training, **given, **options)
    if not fit.ok:
        return fit
    if encodes:
        return guides.transfer(fit, prepared.data)
    return guides.fit(entry, cell.method, seed=cell.seed, data=prepared.data, given=fit, **options)


def _save(posterior: Posterior, fit: Any, folder: Path) -> None:
    import guides
    from benchmarks.arviz_bridge import save_netcdf

    with disk_errors(folder):
        save_netcdf(posterior, folder / "posterior.nc")
        if fit is not None:
            guides.save(fit, folder / "guide.pt")


def _peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def load_posterior(cell: Cell, run: RunDir, content: Mapping[str, Any]) -> Posterior:
    """Read the draws of a finished cell; a failed one has none and gives an empty posterior of its method."""
    from benchmarks.arviz_bridge import load_netcdf

    path, cost = run.cells / cell.name / "posterior.nc", Cost(**content["cost"])
    entry, data = cell.prepared.entry, cell.prepared.data
    if not path.exists():
        nothing = {"none": torch.empty(0)}
        return Posterior(entry=entry, data=data, method=cell.method, draws=nothing, sample_dims=("sample",), cost=cost, seed=cell.seed)
    posterior = load_netcdf(path, entry, data)
    return dataclasses.replace(posterior, cost=cost, seed=cell.seed)


def load_fit(cell: Cell, run: RunDir) -> Any:
    """Read the fit of a finished cell, None for NUTS and for failed cells."""
    import guides

    path = run.cells / cell.name / "guide.pt"
    return guides.load(path, entry=cell.prepared.entry, data=cell.prepared.data) if path.exists() else None


def compare_cell(cell: Cell, run: RunDir, content: Mapping[str, Any], reference: Reference, itself: bool = False) -> dict[str, Any]:
    """Compare the draws of a finished cell with the reference and return its scored content.

    Draws that are `itself` the reference would agree with themselves whatever they are: they get no scores.
    """
    from benchmarks.compare import compare

    posterior = load_posterior(cell, run, content)
    if not itself:
        return scored_cell(content, compare(posterior, reference, fit=load_fit(cell, run)))
    alone = compare(posterior, None)
    because = tuple(dataclasses.replace(r, sentence="it is the reference of the other rows") for r in alone.reasons[:1])
    sentence = f"{cell.method} is the reference of the other rows; no other truth is known here."
    return scored_cell(content, dataclasses.replace(alone, reference=reference, reasons=because, sentence=sentence))
