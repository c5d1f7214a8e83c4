"""Table of programs whose log evidence is known, and how one is added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from zoo.types import Data, ModelEntry, Program, Quantity

__all__ = ["TARGETS", "Target", "add", "as_tensor", "mvn"]

FAMILIES = ("mean_field", "full_rank")


@dataclass(frozen=True, kw_only=True)
class Target:
    """An entry with its log evidence in nats and the method that computed it."""

    entry: ModelEntry
    log_evidence: Callable[[], float]
    route: str


TARGETS: dict[str, Target] = {}


def as_tensor(values: Any) -> Tensor:
    """Return the values as a float64 tensor."""
    return torch.as_tensor(values, dtype=torch.float64)


def add(
    name: str,
    route: str,
    evidence: Callable[[], float],
    program: Program,
    train: dict[str, Any],
    *,
    observed: tuple[str, ...] = ("y",),
    **fields: Any,
) -> None:
    """Add a program with its data and the function that computes its log evidence.

    `fields` are passed to the entry.
    """
    tensors = {
        k: as_tensor(v) if isinstance(v, list | np.ndarray) else v for k, v in train.items()
    }
    size = len(tensors[fields["batched"][0]]) if fields.get("batched") else None
    data = Data(
        train=tensors,
        observed=observed,
        batched=fields.pop("batched", ()),
        size=size,
        source="chosen by hand",
        licence="CC0-1.0",
    )
    entry = ModelEntry(
        name=name,
        title=name.replace("_", " "),
        make_data=lambda seed: data,
        build=lambda data: program,
        quantities={"first": Quantity(fn=lambda draws, data: next(iter(draws.values())))},
        reference="none",
        families=fields.pop("families", FAMILIES),
        **fields,
    )
    TARGETS[name] = Target(entry=entry, log_evidence=evidence, route=route)


def mvn(y: Any, mean: Any, covariance: Any) -> float:
    """Return the log density of a multivariate normal at y, in nats."""
    return float(
        stats.multivariate_normal.logpdf(
            np.asarray(y), np.broadcast_to(mean, np.shape(y)), covariance
        )
    )
