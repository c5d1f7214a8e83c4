"""Cells as strict JSON (schema of `cell.json` and `zoo compare --json`), and back."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
import platform
import sys
import types
import typing
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Union

from pydantic import BaseModel, ConfigDict, TypeAdapter, create_model

from benchmarks.run.store import canonical, finite
from benchmarks.types import CellStatus, Comparison, Distance, Mcmc, ParetoK, Reason, Score, Trust
from benchmarks.verdicts import VerdictWord
from zoo.types import Cost, Posterior, Reference

__all__ = [
    "SCHEMA",
    "Cell",
    "comparison_of",
    "drawn_cell",
    "failed_cell",
    "machine",
    "reference_record",
    "scored_cell",
    "uncompared_cell",
    "versions",
]

SCHEMA = 1
Number = float | None
_PACKAGES = (
    "posterior-zoo",
    "torch",
    "pyro-ppl",
    "nutpie",
    "arviz",
    "numpy",
    "scipy",
    "scikit-learn",
)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _nullable(hint: Any) -> Any:
    """Return the type with None allowed for floats: NaN and infinities are null in JSON."""
    if hint is float:
        return float | None
    arguments = typing.get_args(hint)
    if not arguments or typing.get_origin(hint) is Literal:
        return hint
    inner = tuple(_nullable(a) for a in arguments)
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return Union[inner]  # noqa: UP007
    return origin[inner]


def _record(noun: type) -> Any:
    """Return a pydantic model with the fields of a dataclass of `benchmarks.types`."""
    hints = typing.get_type_hints(noun)
    fields: dict[str, Any] = {
        f.name: (_nullable(hints[f.name]), {} if f.metadata.get("open") else ...)
        for f in dataclasses.fields(noun)
    }
    return create_model(f"{noun.__name__}Record", __base__=_Record, **fields)


ScoreRecord, DistanceRecord, ReasonRecord = _record(Score), _record(Distance), _record(Reason)
ParetoKRecord, McmcRecord, TrustRecord = _record(ParetoK), _record(Mcmc), _record(Trust)


class Cell(_Record):
    """The content of `cell.json`; verdict is None for a cell that is not compared yet."""

    schema_: Literal[1]
    key: str
    entry: str
    options: dict[str, Any]
    method: str
    seed: int
    data_seed: int
    status: CellStatus
    verdict: VerdictWord | None
    sentence: str
    reasons: list[ReasonRecord]  # type: ignore[valid-type]
    scores: list[ScoreRecord]  # type: ignore[valid-type]
    distances: list[DistanceRecord]  # type: ignore[valid-type]
    trust: list[TrustRecord]  # type: ignore[valid-type]
    notes: list[str]
    elbo: dict[str, Number] | None
    log_evidence: dict[str, Number] | None
    pareto_k: ParetoKRecord | None  # type: ignore[valid-type]
    heldout_lpd: dict[str, Number] | None
    mcmc: McmcRecord | None  # type: ignore[valid-type]
    correlations: dict[str, Any]
    compared_with: str = ""
    cost: dict[str, int | float | None]
    compiled: dict[str, Any]
    stop: dict[str, Any] | None
    reference: dict[str, Any] | None
    versions: dict[str, str]
    machine: dict[str, Any]


def validated(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields as JSON types after validating them against `Cell`."""
    plain = finite({("schema_" if k == "schema" else k): v for k, v in fields.items()})
    dumped = Cell.model_validate(plain).model_dump(mode="json")
    for score in dumped["scores"]:
        if not score["extra"]:
            del score["extra"]
    return {("schema" if k == "schema_" else k): v for k, v in dumped.items()}


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that affect numbers."""
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
    }


@functools.cache
def machine() -> dict[str, Any]:
    """Describe the machine without naming its user or network."""
    cpu = platform.processor() or platform.machine()
    if sys.platform.startswith("linux") and Path("/proc/cpuinfo").exists():
        models = [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = models[0] if models else cpu
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu,
        "cores": os.cpu_count() or 1,
    }


def _blank(**fields: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "schema": SCHEMA,
        "verdict": None,
        "sentence": "",
        "reasons": [],
        "scores": [],
        "distances": [],
        "trust": [],
        "notes": [],
        "elbo": None,
        "log_evidence": None,
        "pareto_k": None,
        "heldout_lpd": None,
        "mcmc": None,
        "correlations": {},
        "cost": dataclasses.asdict(Cost(seconds=0.0)),
        "compiled": {"used": False, "reason": "eager"},
        "stop": None,
        "reference": None,
        "versions": versions(),
        "machine": machine(),
    }
    return validated({**empty, **fields})


def drawn_cell(
    head: Mapping[str, Any],
    status: CellStatus,
    posterior: Posterior,
    fit: Any,
    memory: float | None,
    compiled: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the cell of a method that has run but is not compared yet.

    `memory` is the peak memory of its process in MB; `compiled` says whether a compiled graph was
    used, for methods without a fit.
    """
    cost = dataclasses.asdict(dataclasses.replace(posterior.cost, peak_memory_mb=memory))
    stop = dataclasses.asdict(fit.stop) if fit is not None else None
    record = (
        dict(fit.compiled)
        if fit is not None
        else dict(compiled or {"used": False, "reason": "eager"})
    )
    return _blank(
        **head, status=status, cost=cost, stop=stop, compiled=record, notes=list(posterior.notes)
    )


def failed_cell(
    head: Mapping[str, Any], status: CellStatus, sentence: str, seconds: float = 0.0
) -> dict[str, Any]:
    """Return the cell of a method without draws, with the reason in one sentence."""
    stop = {"status": status, "sentence": sentence, "step": None}
    cost = dataclasses.asdict(Cost(seconds=seconds))
    return _blank(
        **head,
        status=status,
        verdict="fit_failed",
        sentence=sentence,
        reasons=_failure(sentence),
        stop=stop,
        cost=cost,
    )


def _failure(sentence: str) -> list[dict[str, Any]]:
    return [{"verdict": "fit_failed", "label": "", "excess": None, "sentence": sentence}]


def uncompared_cell(cell: Mapping[str, Any], why: str) -> dict[str, Any]:
    """Return the cell of a method whose comparison failed: an error, shown like every other row.

    It is run again by the next command that asks for it.
    """
    sentence = f"comparing its draws with the reference failed: {why.rstrip('.')}"
    return validated(
        {
            **cell,
            "status": "error",
            "verdict": "fit_failed",
            "sentence": f"{cell['method']} has draws but no scores: {sentence}.",
            "reasons": _failure(sentence),
        }
    )


def scored_cell(cell: Mapping[str, Any], comparison: Comparison) -> dict[str, Any]:
    """Return the cell with the results of its comparison."""
    c = comparison
    return validated(
        {
            **cell,
            "status": c.status if cell["status"] == "ok" else cell["status"],
            "verdict": c.verdict,
            "sentence": c.sentence,
            "reasons": [dataclasses.asdict(r) for r in c.reasons],
            "scores": [dataclasses.asdict(s) for s in c.scores],
            "distances": [dataclasses.asdict(d) for d in c.distances],
            "trust": [dataclasses.asdict(t) for t in c.trust],
            "notes": [*cell["notes"], *c.notes],
            "elbo": c.elbo,
            "log_evidence": c.log_evidence,
            "pareto_k": None if c.pareto_k is None else _fields(c.pareto_k),
            "heldout_lpd": c.heldout_lpd,
            "mcmc": None if c.mcmc is None else _fields(c.mcmc),
            "correlations": dict(c.correlations),
            "compared_with": c.compared_with,
            "reference": {
                **{k: getattr(c.reference, k) for k in ("kind", "usable", "reason")},
                "digest": digest_of(c.reference),
            },
        }
    )


def _fields(record: Any) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}


def comparison_of(
    cell: Mapping[str, Any], posterior: Posterior, reference: Reference, fit: Any = None
) -> Comparison:
    """Rebuild the comparison of a cell; null becomes NaN again."""
    return Comparison(
        posterior=posterior,
        reference=reference,
        fit=fit,
        verdict=cell["verdict"],
        sentence=cell["sentence"],
        status=cell["status"],
        scores=tuple(_restore(Score, s) for s in cell["scores"]),
        distances=tuple(_restore(Distance, d) for d in cell["distances"]),
        reasons=tuple(_restore(Reason, r) for r in cell["reasons"]),
        trust=tuple(_restore(Trust, t) for t in cell["trust"]),
        notes=tuple(cell["notes"]),
        compared_with=cell.get("compared_with", ""),
        pareto_k=None if cell["pareto_k"] is None else _restore(ParetoK, cell["pareto_k"]),
        mcmc=None if cell["mcmc"] is None else _restore(Mcmc, cell["mcmc"]),
        **{name: cell[name] for name in ("elbo", "log_evidence", "heldout_lpd", "correlations")},
    )


def _restore(noun: type, record: Mapping[str, Any]) -> Any:
    """Build a dataclass from its record: null becomes NaN for floats, lists become tuples."""
    hints = typing.get_type_hints(noun)
    return TypeAdapter(noun).validate_python(
        {name: _fill(hints[name], value) for name, value in record.items()}
    )


def _fill(hint: Any, value: Any) -> Any:
    if value is None:
        return math.nan if hint is float else None
    if isinstance(value, dict):
        return (
            {k: _fill(typing.get_args(hint)[1], v) for k, v in value.items()}
            if len(typing.get_args(hint)) == 2
            else value
        )
    if isinstance(value, list):
        return tuple(_fill((typing.get_args(hint) or (Any,))[0], v) for v in value)
    return value


def digest_of(reference: Reference) -> str:
    """Return the digest of what a comparison uses of its reference, to detect a changed truth."""
    moments = {
        name: [part.tolist() for part in m] for name, m in sorted(reference.moments.items())
    }
    parts: dict[str, Any] = {
        "kind": reference.kind,
        "usable": reference.usable,
        "gates": dict(reference.gates),
        "moments": moments,
    }
    if reference.log_evidence_se is not None:
        parts["log_evidence"] = [reference.log_evidence, reference.log_evidence_se]
    return hashlib.sha256(canonical(parts)).hexdigest()[:16]


def reference_record(reference: Reference) -> dict[str, Any]:
    """Return the record of a reference in `--json`."""
    record: dict[str, Any] = finite(
        {
            "kind": reference.kind,
            "gates": dict(reference.gates),
            "ess_min": reference.ess_min,
            "rhat_max": reference.rhat_max,
            "log_evidence": reference.log_evidence,
            "log_evidence_se": reference.log_evidence_se,
            "usable": reference.usable,
            "reason": reference.reason,
        }
    )
    return record
