"""Read a stored reference: unconstrained draws, moments, gates, fingerprint.

`NAME.json` says how the draws of the certified run were made, which gates they passed and the
moments of every quantity (from all draws); `NAME.npz` holds up to 2,000 draws as a float64 mean
plus float32 deviations `[chain, draw, dim]`, with chains kept. The fingerprint is the log joint
density at three stored points: if the program or the data have changed, the values differ and the
reference is stale.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from zoo.density.log_density import LogDensity as Density
from zoo.errors import ReferenceError
from zoo.registry import load as load_entry
from zoo.types import Moments, Posterior, Reference

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.density.log_density import LogDensity
    from zoo.types import Data, ModelEntry, Moments, Reference

__all__ = [
    "FOLDER",
    "SCHEMA",
    "StoredReference",
    "borrowed",
    "exists",
    "fingerprint",
    "load",
    "paths",
    "read",
    "record_digest",
]

FOLDER = Path(__file__).parents[1] / "references"
SCHEMA = 1
TOLERANCE = 1e-8  # admissible relative difference of a log density in a fingerprint
_KEYS = {
    "schema",
    "entry",
    "sites",
    "gates",
    "values",
    "moments",
    "fingerprint",
    "npz_sha256",
    "sha256",
    "command",
    "versions",
    "seed",
}


@dataclass(frozen=True, kw_only=True)
class StoredReference:
    """The content of the two files of a reference.

    Attributes:
        key: key of the entry it belongs to.
        record: the JSON document.
        unconstrained: stored draws `[chain, draw, dim]`, float64.
        points: the three points of the fingerprint, `[3, dim]`, float64.
        moments: per quantity, from all draws of the run.
    """

    key: str
    record: Mapping[str, Any]
    unconstrained: Tensor
    points: Tensor
    moments: Mapping[str, Moments]

    @property
    def gates(self) -> dict[str, bool]:
        """The gates and whether each was passed when the reference was made."""
        return {str(name): bool(passed) for name, passed in self.record["gates"].items()}


def paths(key: str, folder: Path | None = None) -> tuple[Path, Path]:
    """Return the JSON and NPZ paths of an entry's key, spelled as valid file names.

    Raises:
        ReferenceError: the key has characters that a file name cannot hold.
    """
    stem = key.replace("/", "__").replace("[", "--").replace("]", "").replace(",", "_")
    if (
        not stem
        or set(stem) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-=.+")
        or stem.startswith(".")
    ):
        raise ReferenceError(
            f"Entry key {key!r} cannot name a reference file; accepted: letters, digits and the"
            " characters _-=.+[],/"
        )
    base = FOLDER if folder is None else folder
    return base / f"{stem}.json", base / f"{stem}.npz"


def exists(key: str, folder: Path | None = None) -> bool:
    """Whether a reference of this key is stored."""
    return paths(key, folder)[0].exists()


def record_digest(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record's canonical JSON without its own digest."""
    content = {name: value for name, value in record.items() if name != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _cure(key: str) -> str:
    return f"write it anew with `zoo reference {key} --write`"


def read(key: str, folder: Path | None = None) -> StoredReference:
    """Read and verify the two files of a reference.

    Raises:
        ReferenceError: no such reference, a damaged file, missing fields, or draws that are not
            finite.
    """
    record_path, draws_path = paths(key, folder)
    if not record_path.exists():
        raise ReferenceError(
            f"No reference is stored for {key!r}; make one with `zoo reference {key} --write`."
        )
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        missing = _KEYS - set(record)
        content = draws_path.read_bytes()
        if missing or record["schema"] != SCHEMA:
            raise ReferenceError(
                f"Reference {record_path.name} lacks {sorted(missing) or 'schema 1'};"
                f" {_cure(key)}."
            )
        if record_digest(record) != record["sha256"]:
            raise ReferenceError(
                f"Reference {record_path.name} does not match its own SHA-256, so it was edited or"
                f" is damaged; {_cure(key)}."
            )
        if hashlib.sha256(content).hexdigest() != record["npz_sha256"]:
            raise ReferenceError(
                f"Reference {draws_path.name} does not match its SHA-256, it is damaged;"
                f" {_cure(key)}."
            )
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            draws = arrays["mean"] + arrays["deviations"].astype(np.float64)
            points = np.array(arrays["points"], dtype=np.float64)
        moments = {
            str(name): Moments(
                *(
                    torch.tensor(m[part], dtype=torch.float64)
                    for part in ("mean", "mean_se", "sd", "sd_se")
                )
            )
            for name, m in record["moments"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ReferenceError(
            f"Reference of {key!r} cannot be read ({type(error).__name__}: {error}); {_cure(key)}."
        ) from error
    if (
        draws.ndim != 3
        or not np.isfinite(draws).all()
        or not all(torch.isfinite(t).all() for m in moments.values() for t in m)
    ):
        raise ReferenceError(
            f"Reference of {key!r} holds draws or moments that are not finite; {_cure(key)}."
        )
    return StoredReference(
        key=key,
        record=record,
        unconstrained=torch.from_numpy(draws),
        points=torch.from_numpy(points),
        moments=moments,
    )


def fingerprint(log_density: LogDensity, points: Tensor) -> list[float]:
    """Return the log joint density in nats at points `[n, dim]`, never by a compiled graph."""
    with torch.no_grad():
        return [float(log_density.evaluate(point.to(log_density.dtype))) for point in points]


def borrowed(entry: ModelEntry) -> ModelEntry:
    """Return the entry whose reference this one uses: its own, or that of `reference_of`."""
    if entry.reference_of is None:
        return entry
    owner = load_entry(entry.reference_of)
    return owner.with_options(**{k: v for k, v in entry.chosen.items() if k in owner.options})


def stale(stored: StoredReference, log_density: LogDensity) -> str | None:
    """Say how a log density differs from that of the reference; None if it is the same."""
    sites = [[s.name, s.start, s.stop] for s in log_density.sites]
    if sites != stored.record["sites"]:
        return "the program has other latent sites than the reference"
    now = fingerprint(log_density, stored.points)
    for value, before in zip(now, stored.record["fingerprint"], strict=True):
        if not abs(value - before) <= TOLERANCE * max(1.0, abs(before)):
            return f"the log joint at a stored point is now {value:.10g}, it was {before:.10g}"
    return None


def _of_others(owner: ModelEntry, data: Data, log_density: LogDensity | None) -> Reference:
    """Return published draws as a reference; the gate `data` says whether the data match."""
    assert owner.published is not None
    found = owner.published(data)
    if log_density is None:
        log_density = Density(owner.program(data), data, dtype=owner.dtype)
    same = same_data(data, owner.load_data())
    failed = [name for name, passed in found.gates.items() if not passed]
    reason = ""
    if not same:
        reason = f"The published draws of {owner.key} belong to other data; run NUTS on these."
    elif failed:
        reason = (
            f"The published draws of {owner.key} failed {', '.join(failed)} when they were made;"
            " run NUTS instead."
        )
    sites = {s.name: found.draws[s.name].to(log_density.dtype) for s in log_density.sites}
    posterior = Posterior(
        entry=owner,
        data=data,
        method="stored",
        draws=sites,
        sample_dims=("chain", "draw"),
        unconstrained=log_density.unconstrain(sites),
    )
    return Reference(
        kind="stored",
        posterior=posterior,
        gates={**found.gates, "data": same},
        rhat_max=found.rhat_max,
        ess_min=found.ess_min,
        usable=not reason,
        reason=reason,
        provenance=found.provenance,
    )


def same_data(one: Data, other: Data) -> bool:
    """Whether two data sets condition a program on the same tensors."""

    def equal(a: Any, b: Any) -> bool:
        return (
            torch.equal(a, b)
            if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
            else bool(a == b)
        )

    return one.train.keys() == other.train.keys() and all(
        equal(one.train[k], other.train[k]) for k in one.train
    )


def load(
    entry: ModelEntry,
    data: Data,
    log_density: LogDensity | None = None,
    *,
    folder: Path | None = None,
) -> Reference:
    """Return the stored reference of an entry, with its fingerprint verified.

    An entry with `reference_of` uses the draws of that entry; `log_density`, if given, must be
    that entry's.

    Raises:
        ReferenceError: nothing is stored, or a file is damaged.
    """
    owner = borrowed(entry)
    if owner.published is not None:
        return _of_others(owner, data, log_density)
    stored = read(owner.key, folder)
    if log_density is None:
        log_density = Density(owner.program(data), data, dtype=owner.dtype)
    changed = stale(stored, log_density)
    failed = [name for name, passed in stored.gates.items() if not passed]
    reason = ""
    if changed is not None:
        reason = f"The stored reference of {owner.key} is stale: {changed}; {_cure(owner.key)}."
    elif failed:
        reason = (
            f"The stored reference of {owner.key} failed {', '.join(failed)} when it was made;"
            f" {_cure(owner.key)}."
        )
    posterior = None
    if stored.unconstrained.shape[-1] == log_density.dim:
        sites = {
            k: v.detach()
            for k, v in log_density.constrain(stored.unconstrained.to(log_density.dtype)).items()
        }
        posterior = Posterior(
            entry=owner,
            data=data,
            method="stored",
            draws=sites,
            sample_dims=("chain", "draw"),
            unconstrained=stored.unconstrained,
            seed=int(stored.record["seed"]),
            engine=stored.record.get("engine"),
        )
    values = stored.record["values"]
    return Reference(
        kind="stored",
        posterior=posterior,
        moments=stored.moments,
        gates={**stored.gates, "fingerprint": changed is None},
        rhat_max=values.get("rhat_max"),
        ess_min=values.get("ess_min"),
        usable=not reason,
        reason=reason,
        provenance={
            "of": owner.key,
            **{k: stored.record[k] for k in ("command", "seed", "versions")},
            **dict(values),
        },
    )
