"""Read a local copy of posteriordb: posteriors, data, reference draws with checks.

posteriordb (github.com/stan-dev/posteriordb) is a public collection of posteriors with draws of
long, checked runs of Stan. Its folder layout is read unchanged, with plain JSON or one JSON file
per zip; none of it is part of this package.

    posterior_database/posteriors/NAME.json                    its model, data and reference
    posterior_database/data/{data,info}/NAME.{json.zip,info.json}
    posterior_database/reference_posteriors/draws/{draws,info}/...

Source: Magnusson et al. (2024), posteriordb: testing, benchmarking and developing Bayesian
inference algorithms.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import DataError, UnknownNameError, UsageError

__all__ = [
    "ENVIRONMENT",
    "PosteriorInfo",
    "ReferenceInfo",
    "data",
    "draws",
    "folder",
    "info",
    "names",
    "reference_info",
    "titles",
]

ENVIRONMENT = "POSTERIORDB"
CURE = (
    f"clone https://github.com/stan-dev/posteriordb and set {ENVIRONMENT} to the folder that"
    " contains posterior_database/"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
_COLUMN = re.compile(r"([A-Za-z]\w*)(?:\[(\d+(?:,\d+)*)\])?")


@dataclass(frozen=True, kw_only=True)
class PosteriorInfo:
    """One posterior of the collection: the names of its parts and the sizes of its parameters."""

    name: str
    model: str
    data: str
    reference: str | None
    dimensions: Mapping[str, int] = field(default_factory=dict)
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReferenceInfo:
    """What the collection recorded about reference draws.

    Attributes:
        gates: the checks made when the draws were accepted, name -> passed.
        rhat_max, ess_min, divergences, ebfmi_min: worst values over parameters and chains, None if
            not recorded.
        arguments: how they were drawn (chains, iterations, thinning, seed, ...).
    """

    gates: Mapping[str, bool]
    rhat_max: float | None
    ess_min: float | None
    divergences: int | None
    ebfmi_min: float | None
    arguments: Mapping[str, Any]


def folder(path: str | Path | None = None) -> Path:
    """Return the folder `posterior_database`, from the argument or from `$POSTERIORDB`.

    Args:
        path: the folder that contains `posterior_database/`, or that folder itself.

    Raises:
        UsageError: neither is given, or there is no collection.
    """
    given = os.environ.get(ENVIRONMENT) if path is None else str(path)
    if not given:
        raise UsageError(
            f"The posteriors of posteriordb need a local copy and {ENVIRONMENT} is not set;"
            f" {CURE}."
        )
    for candidate in (Path(given) / "posterior_database", Path(given)):
        if (candidate / "posteriors").is_dir():
            return candidate
    raise UsageError(
        f"There is no posteriordb at {given!r} (no folder posterior_database/posteriors in it);"
        f" {CURE}."
    )


def names(path: str | Path | None = None) -> list[str]:
    """Return the sorted names of all posteriors of the copy."""
    return sorted(p.stem for p in (folder(path) / "posteriors").glob("*.json"))


def info(name: str, path: str | Path | None = None) -> PosteriorInfo:
    """Return the model, data and reference of a posterior.

    Raises:
        UnknownNameError: the copy has no such posterior.
        DataError: its file is damaged.
    """
    root = folder(path)
    file = root / "posteriors" / f"{name}.json"
    if not _NAME.fullmatch(name) or not file.is_file():
        raise UnknownNameError(
            "posterior of posteriordb",
            name,
            names(path),
            hint="An older or partial copy may lack it.",
        )
    record = _mapping(file)
    missing = {"model_name", "data_name"} - set(record)
    if missing:
        raise DataError(f"{file.name} lacks {sorted(missing)}; {CURE} anew.")
    return PosteriorInfo(
        name=name,
        model=str(record["model_name"]),
        data=str(record["data_name"]),
        reference=record.get("reference_posterior_name"),
        dimensions={str(k): int(v) for k, v in (record.get("dimensions") or {}).items()},
        keywords=tuple(record.get("keywords") or ()),
    )


def data(name: str, path: str | Path | None = None) -> dict[str, Any]:
    """Return the data of a posterior, with arrays as float64 tensors.

    Raises:
        UsageError: no copy, or the posterior is not in it.
        DataError: the file is damaged or an array is ragged.
    """
    file = _content(folder(path) / "data" / "data", info(name, path).data)
    record = _mapping(file)
    return {
        str(k): _tensor(file, str(k), v) if isinstance(v, list) else v for k, v in record.items()
    }


def titles(name: str, path: str | Path | None = None) -> tuple[str, str]:
    """Return the title and the licence of a posterior's data; the default is BSD-3-Clause."""
    file = folder(path) / "data" / "info" / f"{info(name, path).data}.info.json"
    record = _mapping(file)
    return " ".join(str(record.get("title") or name).split()), str(
        record.get("licence") or "BSD-3-Clause (posteriordb's default)"
    )


def draws(name: str, path: str | Path | None = None) -> dict[str, Tensor]:
    """Return the reference draws, `{parameter: [chain, draw, *shape]}`, float64, Stan's names.

    Raises:
        DataError: the posterior has no reference draws, or their file is damaged.
    """
    file = _content(
        folder(path) / "reference_posteriors" / "draws" / "draws", _reference(name, path)
    )
    chains = _read(file)
    if (
        not isinstance(chains, list)
        or not chains
        or not all(isinstance(c, dict) and c.keys() == chains[0].keys() for c in chains)
    ):
        raise DataError(f"{file.name} is no list of chains with the same parameters; {CURE} anew.")
    columns = {
        str(key): _tensor(file, str(key), [chain[key] for chain in chains]) for key in chains[0]
    }
    return _assemble(file, columns)


def reference_info(name: str, path: str | Path | None = None) -> ReferenceInfo:
    """Return the checks and diagnostics recorded with the reference draws of a posterior.

    Raises:
        DataError: the posterior has no reference draws, or the record is damaged.
    """
    file = (
        folder(path)
        / "reference_posteriors"
        / "draws"
        / "info"
        / f"{_reference(name, path)}.info.json"
    )
    record = _mapping(file)
    found, checks = record.get("diagnostics") or {}, record.get("checks_made") or {}
    ess = [
        *found.get("effective_sample_size_bulk", ()),
        *found.get("effective_sample_size_tail", ()),
    ]
    divergences = found.get("divergent_transitions")
    return ReferenceInfo(
        gates={str(k): bool(v) for k, v in checks.items()},
        rhat_max=max(found.get("r_hat", ()), default=None),
        ess_min=min(ess, default=None),
        divergences=None if divergences is None else int(sum(divergences)),
        ebfmi_min=min(found.get("expected_fraction_of_missing_information", ()), default=None),
        arguments=dict((record.get("inference") or {}).get("method_arguments") or {}),
    )


def _reference(name: str, path: str | Path | None) -> str:
    found = info(name, path).reference
    if not found:
        raise DataError(
            f"posteriordb has no reference draws for {name!r}; compare with NUTS instead."
        )
    return str(found)


# -- files -------------------------------------------------------------------------------------


def _content(place: Path, name: str) -> Path:
    for candidate in (place / f"{name}.json.zip", place / f"{name}.json"):
        if candidate.is_file():
            return candidate
    raise DataError(
        f"The copy of posteriordb lacks {place.parent.name}/{place.name}/{name}.json(.zip); {CURE}"
        " anew."
    )


def _read(file: Path) -> Any:
    """Parse a JSON file, plain or the only one in a zip."""
    try:
        if file.suffix == ".zip":
            with zipfile.ZipFile(file) as archive:
                members = [
                    m
                    for m in archive.namelist()
                    if m.endswith(".json") and not m.startswith("__MACOSX")
                ]
                if len(members) != 1:
                    raise DataError(
                        f"{file.name} holds {len(members)} JSON files; accepted: exactly one;"
                        f" {CURE} anew."
                    )
                text = archive.read(members[0]).decode("utf-8")
        else:
            text = file.read_text(encoding="utf-8")
        return json.loads(text)
    except (
        OSError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
    ) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"{file.name} cannot be read ({type(error).__name__}: {first}); {CURE} anew."
        ) from error


def _mapping(file: Path) -> dict[str, Any]:
    record = _read(file)
    if not isinstance(record, dict):
        raise DataError(
            f"{file.name} holds a {type(record).__name__}; accepted: a JSON object; {CURE} anew."
        )
    return record


def _tensor(file: Path, key: str, value: list[Any]) -> Tensor:
    try:
        tensor = torch.tensor(value, dtype=torch.float64)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{file.name} holds a ragged or non-numeric array {key!r}; {CURE} anew."
        ) from error
    if not torch.isfinite(tensor).all():
        raise DataError(f"{file.name} holds NaN or infinite values in {key!r}; {CURE} anew.")
    return tensor


def _assemble(file: Path, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join columns `theta[1,2]` (one-based indices) into arrays with one axis per index."""
    parts: dict[str, dict[tuple[int, ...], Tensor]] = {}
    for label, column in columns.items():
        match = _COLUMN.fullmatch(label)
        if match is None or column.ndim != 2:
            raise DataError(
                f"{file.name} holds a column {label!r} that is no parameter of equally long"
                f" chains; {CURE} anew."
            )
        index = tuple(int(i) - 1 for i in match[2].split(",")) if match[2] else ()
        parts.setdefault(match[1], {})[index] = column
    arrays = {}
    for name, cells in parts.items():
        ranks = {len(index) for index in cells}
        shape = [max(axis) + 1 for axis in zip(*cells, strict=True)] if len(ranks) == 1 else []
        if len(ranks) != 1 or set(cells) != set(itertools.product(*(range(n) for n in shape))):
            raise DataError(f"{file.name} lacks elements of parameter {name!r}; {CURE} anew.")
        stacked = torch.stack(
            [cells[index] for index in itertools.product(*(range(n) for n in shape))], -1
        )
        arrays[name] = stacked.reshape(*stacked.shape[:2], *shape)
    return arrays
