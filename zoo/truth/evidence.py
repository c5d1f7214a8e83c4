"""Log evidences by tempered SMC, stored in the package: `zoo/references/evidence.json`.

`zoo study evidence --write` makes the file. A value belongs to a program and its data: beside it
lies the log joint density at three points, never by a compiled graph, which has to be the same
now. Entries with an improper prior have no evidence.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.seeds import derive_seed
from zoo.truth.stored import FOLDER, TOLERANCE, fingerprint

if TYPE_CHECKING:
    from zoo.density.log_density import LogDensity
    from zoo.types import Reference

__all__ = ["FILE", "Evidence", "evidence", "points", "stored", "with_evidence"]

FILE = FOLDER / "evidence.json"
POINTS, SPREAD = 3, 0.5  # of the fingerprint, unconstrained


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """log p(observed) of an entry.

    Attributes:
        value: log of the mean of the islands' estimates of Z, nats.
        se: its standard error, nats.
        exact: the exact value, None where it is not known.
        islands: how many independent islands it rests on.
        fingerprint: log joint density at the points, nats.
    """

    value: float
    se: float
    exact: float | None
    islands: int
    fingerprint: tuple[float, ...]


@functools.cache
def stored() -> dict[str, Evidence]:
    """Return the stored evidences by key of their entry."""
    if not FILE.exists():
        return {}
    rows = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        key: Evidence(**{**row, "fingerprint": tuple(row["fingerprint"])})
        for key, row in rows.items()
    }


def points(key: str, density: LogDensity) -> Tensor:
    """Return the points of the fingerprint of an entry, `[3, dim]`."""
    generator = torch.Generator().manual_seed(derive_seed("evidence", key))
    return SPREAD * torch.randn(POINTS, density.dim, generator=generator, dtype=torch.float64)


def evidence(key: str, density: LogDensity) -> Evidence | None:
    """Return the stored evidence of an entry, None if there is none for this program and data.

    Args:
        key: of the entry; that of the owner, for an entry in another form.
        density: its log density.
    """
    found = stored().get(key)
    if found is None:
        return None
    now = fingerprint(density, points(key, density))
    same = all(
        abs(value - before) <= TOLERANCE * max(1.0, abs(before))
        for value, before in zip(now, found.fingerprint, strict=True)
    )
    return found if same else None


def with_evidence(reference: Reference, key: str, density: LogDensity) -> Reference:
    """Return the reference with the stored evidence, unless it has an exact one or none fits."""
    if reference.log_evidence is not None or key not in stored():
        return reference
    found = evidence(key, density)
    if found is None:
        return reference
    if found.exact is not None:
        return replace(reference, log_evidence=found.exact)
    return replace(reference, log_evidence=found.value, log_evidence_se=found.se)
