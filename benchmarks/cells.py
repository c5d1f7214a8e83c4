"""A cell as strict JSON (the schema of `cell.json` and of `zoo compare --json`) and back to a comparison."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from benchmarks.store import canonical, finite
from benchmarks.types import CellStatus, Comparison, Distance, Mcmc, ParetoK, Reason, Score, Verdict
from zoo.types import Cost, Posterior, Reference

__all__ = ["SCHEMA", "Cell", "comparison_of", "drawn_cell", "failed_cell", "machine", "reference_record", "scored_cell", "versions"]

SCHEMA = 1
Number = float | None
_PACKAGES = ("posterior-zoo", "torch", "pyro-ppl", "nutpie", "arviz", "numpy", "scipy", "scikit-learn")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ScoreRecord(_Record):
    """One component of one quantity; errors in reference standard deviations, None where undefined."""

    quantity: str
    index: tuple[int, ...]
    label: str
    mean_error: Number
    mean_error_se: Number
    sd_ratio: Number
    sd_ratio_se: Number
    wasserstein: Number
    q05_error: Number
    q50_error: Number
    q95_error: Number
    coverage50: Number
    coverage90: Number
    judged: bool


class DistanceRecord(_Record):
    """A joint distance with the noise floor between reference chains and the line it is judged by."""

    name: str
    value: Number
    se: Number
    floor: Number
    line: Number


class ReasonRecord(_Record):
    """One finding behind a verdict; `excess` is how many times its threshold it is."""

    verdict: Verdict
    label: str
    excess: Number
    sentence: str


class Cell(_Record):
    """The content of `cell.json`; a cell that is drawn but not yet compared has verdict None."""

    schema_: Literal[1]
    key: str
    entry: str
    options: dict[str, Any]
    method: str
    seed: int
    data_seed: int
    status: CellStatus
    verdict: Verdict | None
    sentence: str
    reasons: list[ReasonRecord]
    scores: list[ScoreRecord]
    distances: list[DistanceRecord]
    elbo: dict[str, Number] | None
    log_evidence: dict[str, Number] | None
    pareto_k: dict[str, Any] | None
    heldout_lpd: dict[str, Number] | None
    mcmc: dict[str, Any] | None
    correlations: dict[str, Any]
    cost: dict[str, Number]
    compiled: dict[str, Any]
    stop: dict[str, Any] | None
    reference: dict[str, Any] | None
    versions: dict[str, str]
    machine: dict[str, Any]


def validated(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields as JSON's own types after checking them against `Cell`."""
    plain = finite({("schema_" if k == "schema" else k): v for k, v in fields.items()})
    dumped = Cell.model_validate(plain).model_dump(mode="json")
    return {("schema" if k == "schema_" else k): v for k, v in dumped.items()}


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that decide numbers."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}}


@functools.cache
def machine() -> dict[str, Any]:
    """Describe the machine in words that name neither its user nor its network."""
    cpu = platform.processor() or platform.machine()
    if sys.platform.startswith("linux") and Path("/proc/cpuinfo").exists():
        models = [
            line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
        ]
        cpu = models[0] if models else cpu
    return {"system": f"{platform.system()} {platform.machine()}", "cpu": cpu, "cores": os.cpu_count() or 1}


def _blank(**fields: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "schema": SCHEMA, "verdict": None, "sentence": "", "reasons": [], "scores": [], "distances": [], "elbo": None,
        "log_evidence": None, "pareto_k": None, "heldout_lpd": None, "mcmc": None, "correlations": {},
        "cost": dataclasses.asdict(Cost(seconds=0.0)), "compiled": {"used": False, "reason": "eager"}, "stop": None,
        "reference": None, "versions": versions(), "machine": machine(),
    }  # fmt: skip
    return validated({**empty, **fields})


def drawn_cell(head: Mapping[str, Any], status: CellStatus, posterior: Posterior | None, fit: Any = None) -> dict[str, Any]:
    """Return the cell of a method that has run but is not compared yet."""
    source = fit if posterior is None else posterior
    cost = dataclasses.asdict(source.cost) if source is not None else dataclasses.asdict(Cost(seconds=0.0))
    stop = dataclasses.asdict(fit.stop) if fit is not None else None
    compiled = {"compiled": dict(fit.compiled)} if fit is not None else {}
    return _blank(**head, status=status, cost=cost, stop=stop, **compiled)


def failed_cell(head: Mapping[str, Any], status: CellStatus, sentence: str, seconds: float = 0.0) -> dict[str, Any]:
    """Return the cell of a method that gave no draws, with the reason in one sentence."""
    reason = {"verdict": "fit_failed", "label": "", "excess": None, "sentence": sentence}
    stop = {"status": status, "sentence": sentence, "step": None}
    cost = dataclasses.asdict(Cost(seconds=seconds))
    return _blank(**head, status=status, verdict="fit_failed", sentence=sentence, reasons=[reason], stop=stop, cost=cost)


def scored_cell(cell: Mapping[str, Any], comparison: Comparison) -> dict[str, Any]:
    """Return the cell with everything the comparison found."""
    c = comparison
    return validated({
        **cell,
        "status": c.status if cell["status"] == "ok" else cell["status"],
        "verdict": c.verdict,
        "sentence": c.sentence,
        "reasons": [dataclasses.asdict(r) for r in c.reasons],
        "scores": [dataclasses.asdict(s) for s in c.scores],
        "distances": [dataclasses.asdict(d) for d in c.distances],
        "elbo": c.elbo,
        "log_evidence": c.log_evidence,
        "pareto_k": None if c.pareto_k is None else _fields(c.pareto_k),
        "heldout_lpd": c.heldout_lpd,
        "mcmc": None if c.mcmc is None else _fields(c.mcmc),
        "correlations": dict(c.correlations),
        "reference": {"kind": c.reference.kind, "usable": c.reference.usable, "reason": c.reference.reason, "digest": digest_of(c.reference)},
    })  # fmt: skip


def _fields(record: Any) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}


def comparison_of(cell: Mapping[str, Any], posterior: Posterior, reference: Reference, fit: Any = None) -> Comparison:
    """Rebuild the comparison a cell was written from; null becomes NaN again."""
    k, m = cell["pareto_k"], cell["mcmc"]
    return Comparison(
        posterior=posterior,
        reference=reference,
        scores=tuple(Score(**{**_nan(s), "index": tuple(s["index"])}) for s in cell["scores"]),
        distances=tuple(Distance(**{**d, "value": math.nan if d["value"] is None else d["value"]}) for d in cell["distances"]),
        verdict=cell["verdict"],
        reasons=tuple(Reason(**_nan(r)) for r in cell["reasons"]),
        sentence=cell["sentence"],
        fit=fit,
        status=cell["status"],
        elbo=cell["elbo"],
        log_evidence=cell["log_evidence"],
        pareto_k=None if k is None else ParetoK(**{**_nan(k), "reweighted": {n: tuple(pair) for n, pair in k["reweighted"].items()}}),
        heldout_lpd=cell["heldout_lpd"],
        mcmc=None if m is None else Mcmc(**m),
        correlations=cell["correlations"],
    )


def _nan(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in record.items()}


def digest_of(reference: Reference) -> str:
    """Return a digest of what a comparison takes from its reference, so that a changed truth is noticed."""
    moments = {name: [part.tolist() for part in m] for name, m in sorted(reference.moments.items())}
    parts = {"kind": reference.kind, "usable": reference.usable, "gates": dict(reference.gates), "moments": moments}
    return hashlib.sha256(canonical(parts)).hexdigest()[:16]


def reference_record(reference: Reference) -> dict[str, Any]:
    """Return what `--json` says of a reference."""
    record: dict[str, Any] = finite({
        "kind": reference.kind,
        "gates": dict(reference.gates),
        "ess_min": reference.ess_min,
        "rhat_max": reference.rhat_max,
        "log_evidence": reference.log_evidence,
        "usable": reference.usable,
        "reason": reference.reason,
    })  # fmt: skip
    return record
