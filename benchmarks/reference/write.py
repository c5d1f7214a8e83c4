"""Write a reference posterior: nearly independent NUTS draws that pass every gate."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.mcmc.nuts import run_nuts
from benchmarks.reference import gates as certify
from benchmarks.trust.climbs import GATE, wide_climbs
from zoo.density.log_density import LogDensity
from zoo.errors import InfrastructureError, ReferenceError, UsageError
from zoo.storage import write_whole
from zoo.truth import stored as stored_reference
from zoo.types import ModelEntry, Moments, Posterior

__all__ = ["write"]

CHAINS, TOTAL, SMALL = 10, 10_000, 2_000
TUNE, SMALL_TUNE = 2000, 600
ACCEPT = (0.95, 0.99, 0.999)  # raised to the next when a transition diverges
THIN = (5, 8, 12, 20, 30, 40)  # raised to the next while the draws are not independent enough
STORED, BYTES = 2_000, 180_000  # most draws, most bytes of float32 deviations
_PACKAGES = ("posterior-zoo", "torch", "pyro-ppl", "nutpie", "arviz", "numpy")


def write(
    entry: ModelEntry,
    jobs: int = 2,
    *,
    seed: int = 0,
    small: bool = False,
    folder: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Run NUTS to the standard of a reference, store the result, and return its JSON path.

    Ten chains give 10,000 nearly independent draws (2,000 in the declared smaller tier). A
    divergence raises the target acceptance rate, dependence raises the thinning. Nothing is
    written unless every gate passes and wide climbs find no other mode of comparable mass.

    Raises:
        UsageError: the entry borrows its reference, has a closed form, or learns weights.
        ReferenceError: the gates cannot be passed; it names them.
        InfrastructureError: the files cannot be written.
    """
    if entry.reference_of is not None:
        raise UsageError(
            f"{entry.key} borrows the reference of {entry.reference_of}; write that one."
        )
    if entry.reference != "stored":
        raise UsageError(
            f"{entry.key} has reference={entry.reference!r}; only entries with reference='stored'"
            " get one written, so change that on its card first."
        )
    if entry.published is not None:
        raise UsageError(
            f"{entry.key} uses reference draws that others published; `zoo reference {entry.key}"
            " --check` checks them."
        )
    say = progress or (lambda line: None)
    data = entry.load_data()
    log_density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    log_density.compile("auto", expected_calls=2_000_000)
    per_chain = (SMALL if small else TOTAL) // CHAINS
    accept, thin = 0, 0
    while True:
        settings: dict[str, Any] = {
            "seed": seed,
            "chains": CHAINS,
            "tune": min(TUNE, SMALL_TUNE) if small else TUNE,
            "draws": per_chain * THIN[thin],
        }
        settings["target_accept"] = ACCEPT[accept]
        full = run_nuts(
            entry, data=data, jobs=jobs, log_density=log_density, min_ess=0, **settings
        )
        thinned = _thin(full, THIN[thin])
        gates, values = certify.independence_gates(thinned)
        passed, numbers = certify.sampler_gates(full)
        gates, values = {**gates, **passed}, {**values, **numbers}
        assert thinned.unconstrained is not None
        distance, limit, where = certify.stein(log_density, thinned.unconstrained.numpy())
        gates["stein"] = distance <= limit
        values["stein"] = distance
        say(
            f"{entry.key}: acceptance {ACCEPT[accept]}, thinning {THIN[thin]}:"
            f" {full.cost.seconds:.0f} s, {_words(gates, values)}"
        )
        if all(gates.values()):
            break
        if not gates["no_divergences"] and accept + 1 < len(ACCEPT):
            accept += 1
        elif not (
            gates["finite"]
            and gates.get("ess_band", False)
            and gates.get("autocorrelation", False)
        ) and thin + 1 < len(THIN):
            thin += 1
        else:
            failed = ", ".join(name for name, passed in gates.items() if not passed)
            hint = f" ({where})" if not gates["stein"] else ""
            raise ReferenceError(
                f"No reference of {entry.key} was written: {failed} failed{hint}; reparameterize"
                " the program, or use the small tier."
            )
    climbs = wide_climbs(log_density, thinned, seed=seed)
    say(f"{entry.key}: {climbs.sentence}")
    if climbs.gate is False:
        raise ReferenceError(
            f"No reference of {entry.key} was written: {climbs.sentence}; the chains start too"
            " near to each other to see it."
        )
    if climbs.gate:
        gates[GATE] = True
    values["climb_gradients"] = float(climbs.gradients)
    values["thin"], values["seconds"], values["gradients"] = (
        float(THIN[thin]),
        full.cost.seconds,
        float(full.cost.gradient_evaluations),
    )
    record = _record(entry, thinned, log_density, settings, gates, values, small)
    return _save(entry.key, record, thinned, folder)


def _words(gates: Mapping[str, bool], values: Mapping[str, float]) -> str:
    failed = [name for name, passed in gates.items() if not passed]
    numbers = ", ".join(f"{k} {v:.4g}" for k, v in values.items())
    return f"{'failed ' + ', '.join(failed) if failed else 'every gate passed'} [{numbers}]"


def _thin(posterior: Posterior, step: int) -> Posterior:
    """Keep the last of every `step` draws of each chain."""
    assert posterior.unconstrained is not None
    keep = slice(step - 1, None, step)
    return dataclasses.replace(
        posterior,
        draws={k: v[:, keep] for k, v in posterior.draws.items()},
        unconstrained=posterior.unconstrained[:, keep],
        stats={k: v[:, keep] for k, v in posterior.stats.items()},
    )


def _record(
    entry: ModelEntry,
    thinned: Posterior,
    log_density: LogDensity,
    settings: Mapping[str, Any],
    gates: Mapping[str, bool],
    values: Mapping[str, float],
    small: bool,
) -> dict[str, Any]:
    chains, draws = thinned.sample_shape
    return {
        "schema": stored_reference.SCHEMA,
        "entry": entry.key,
        "tier": "small" if small else "full",
        "command": f"zoo reference {entry.key} --write" + (" --small" if small else ""),
        "made": datetime.now(UTC).strftime("%Y-%m-%d"),
        "engine": thinned.engine,
        **settings,
        "kept": chains * draws,
        "sites": [[s.name, s.start, s.stop] for s in log_density.sites],
        "gates": dict(gates),
        "values": {k: float(f"{v:.6g}") for k, v in values.items()},
        "moments": {
            name: {part: _rounded(getattr(m, part)) for part in Moments._fields}
            for name, m in certify.all_moments(thinned).items()
        },
        "versions": {name: metadata.version(name) for name in _PACKAGES},
    }


def _rounded(value: torch.Tensor) -> Any:
    """Return the value as nested lists of ten digits, far below any Monte Carlo error."""
    numbers = [float(f"{v:.10g}") for v in value.double().reshape(-1).tolist()]
    return np.array(numbers).reshape(tuple(value.shape)).tolist()


def _save(key: str, record: dict[str, Any], thinned: Posterior, folder: Path | None) -> Path:
    """Write the draws, then the record with their digest, each atomically."""
    assert thinned.unconstrained is not None
    u = thinned.unconstrained.numpy()
    chains, draws, dim = u.shape
    most = min(STORED, BYTES // (4 * dim)) // chains  # per chain
    kept = u[:, :: -(-draws // max(most, 2))]
    mean = kept.mean((0, 1))
    deviations = (kept - mean).astype(np.float32)
    restored = mean + deviations.astype(np.float64)
    points = np.stack(
        [restored[0, 0], restored[chains // 2, restored.shape[1] // 2], restored[-1, -1]]
    )
    buffer = io.BytesIO()
    np.savez_compressed(buffer, mean=mean, deviations=deviations, points=points)
    data = thinned.entry.load_data()
    log_density = LogDensity(thinned.entry.program(data), data, dtype=thinned.entry.dtype)
    record["fingerprint"] = stored_reference.fingerprint(log_density, torch.from_numpy(points))
    record["stored"] = int(np.prod(kept.shape[:2]))
    record["npz_sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    json_path, npz_path = stored_reference.paths(key, folder)
    record["sha256"] = stored_reference.record_digest(record)
    _replace(npz_path, buffer.getvalue())
    _replace(json_path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    return json_path


def _replace(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise InfrastructureError(
            f"Cannot write {path.name}: {error.strerror or error}; free some space or choose"
            " another folder."
        ) from error
