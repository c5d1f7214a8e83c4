"""A fit as one file: a zip with `meta.json` and the tensors, written atomically."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import zoo
from guides.objectives.records import OBJECTIVES
from guides.registry import build
from guides.session import as_module, name_of, session
from guides.types import FIT, MOVED, Elbo, Fit, FitConfig, Restart, Stop
from zoo.density.log_density import LogDensity
from zoo.errors import FitError, InfrastructureError, UsageError, described, one_line
from zoo.fields import Kind, accepted
from zoo.storage import digest_of, written
from zoo.types import DATA, ENTRY, Cost, Data, ModelEntry

__all__ = ["data_digest", "load", "save"]

FORMAT = 1
FIELDS: dict[str, type] = {
    **dict.fromkeys(("entry", "name", "family", "data"), str),
    **dict.fromkeys(("chosen", "options", "compiled"), dict),
    "seed": int,
}
PATH = Kind(accepted="a path of a file", holds=lambda value: isinstance(value, str | os.PathLike))


def data_digest(data: Data) -> str:
    """Return the SHA-256 of names, shapes, types and bytes of the training data."""
    return digest_of(data.train)


def save(fit: Fit, path: str | Path) -> None:
    """Write a fit to one file; a failure leaves nothing behind.

    Raises:
        UsageError: no fit, or no path.
        InfrastructureError: the file cannot be written.
    """
    accepted("guides.save", fit=(fit, FIT), path=(path, PATH))
    meta = {
        "format": FORMAT,
        "entry": fit.entry.key,
        "name": fit.entry.name,
        "chosen": dict(fit.entry.chosen),
        "family": fit.family,
        "options": dict(fit.options),
        "data": data_digest(fit.data),
        "seed": fit.seed,
        "config": asdict(fit.config),
        "stop": asdict(fit.stop),
        "elbo": None if fit.elbo is None else asdict(fit.elbo),
        "cost": asdict(fit.cost),
        "compiled": dict(fit.compiled),
        "restarts": [asdict(r) for r in fit.restarts],
        "points": list(fit.points),
        "centers": _centers(fit.density),
    }
    tensors = {f"guide.{k}": v for k, v in fit.guide.state_dict().items()}
    if isinstance(fit.program, nn.Module):
        tensors |= {f"program.{k}": v for k, v in fit.program.state_dict().items()}
    tensors |= {f"history.{k}": torch.as_tensor(v) for k, v in fit.history.items()}
    tensors["losses"] = torch.as_tensor(np.asarray(fit.losses, dtype=np.float64))
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    path = Path(path)
    try:
        with written(path) as place, zipfile.ZipFile(place, "w") as archive:
            archive.writestr("meta.json", json.dumps(meta, indent=1))
            archive.writestr("tensors.pt", buffer.getvalue())
    except OSError as error:
        raise InfrastructureError(
            f"The fit cannot be written to {path}: {error.strerror or error}; choose another path."
        ) from error


def load(
    path: str | Path,
    entry: ModelEntry | None = None,
    *,
    data: Data | None = None,
    density: LogDensity | None = None,
) -> Fit:
    """Read a fit from a file.

    Args:
        path: a file written by `save`.
        entry: the entry it belongs to; by default it is looked up by name.
        data: the data it was fitted to, by default `entry.load_data()`.
        density: the log density of the entry's program on these data, if there is one already; a
            program with weights of its own is built anew.

    Raises:
        UsageError: no such file, not a file of `save`, or a fit of another entry, other options or
            other data.
        FitError: the program or the guide has other networks or parameters than when it was saved.
    """
    accepted("guides.load", path=(path, PATH), entry=(entry, ENTRY | None))
    accepted("guides.load", data=(data, DATA | None))
    meta, tensors = _read(Path(path))
    stored = _stored(meta, tensors, str(path))
    if entry is None:
        if meta["name"] not in zoo.names():  # never a file: reading a fit executes no code
            raise UsageError(
                f"{path} holds a fit of {meta['name']!r}, which is no entry of the registry; pass"
                " the entry it belongs to: guides.load(path, entry), with zoo.load('FILE.py') or"
                " zoo.from_program(...)."
            )
        entry = zoo.load(meta["name"], **meta["chosen"])
    if entry.key != meta["entry"]:
        raise UsageError(
            f"{path} holds a fit of {meta['entry']}, not of {entry.key}; load it with that entry."
        )
    data = entry.load_data() if data is None else data
    if data_digest(data) != meta["data"]:
        raise UsageError(
            f"{path} holds a fit of {meta['entry']} to other data; pass the data it was fitted to,"
            " or fit again."
        )
    with session(entry.dtype):
        owns = any(k.startswith("program.") for k in tensors)
        density = None if owns else density
        program = entry.program(data) if density is None else density.program
        if owns:
            program = as_module(program, data.train, entry.dtype)
        density = density or LogDensity(program, data, dtype=entry.dtype)
        if meta.get("centers", _centers(density)) != _centers(density):
            raise UsageError(
                f"{path} holds a fit whose angles are cut elsewhere than they are today (another"
                " version of a library moved a center); fit again."
            )
        own = meta["family"] in entry.own_guides
        guide = build(meta["family"], program, data, entry, **meta["options"], density=density)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            if own:
                guide(**data.train)
        for noun, module in (("guide", guide), ("program", program)):
            prefix = f"{noun}."
            part = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            if part:
                _fill(module, part, str(path), noun)
        guide.eval()
    return Fit(
        entry=entry,
        data=data,
        family=meta["family"],
        program=program,
        guide=guide,
        seed=meta["seed"],
        options=meta["options"],
        compiled=meta["compiled"],
        points=tuple(meta.get("points", ())),
        density=density,
        **stored,
    )


def _centers(density: LogDensity | None) -> dict[str, list[float]]:
    """Return the centers of the charts of angles, which say what the guide's vector means."""
    centers = {} if density is None else density.completion.centers
    return {name: center.double().reshape(-1).tolist() for name, center in centers.items()}


def _stored(meta: Any, tensors: Any, path: str) -> dict[str, Any]:
    """Return the records in a file other than the guide.

    Raises:
        UsageError: something is missing or malformed.
    """
    try:
        for name, kind in FIELDS.items():
            if not isinstance(meta[name], kind):
                raise UsageError(f"its {name!r} is {described(meta[name])}")
        return {
            "config": _config(meta["config"]),
            "stop": Stop(**meta["stop"]),
            "elbo": _elbo(meta["elbo"]),
            "cost": Cost(**meta["cost"]),
            "restarts": tuple(
                Restart(
                    seed=r["seed"],
                    elbo=_elbo(r["elbo"]),
                    stop=Stop(**r["stop"]),
                    answer={k: (float(m), float(s)) for k, (m, s) in r.get("answer", {}).items()},
                )
                for r in meta["restarts"]
            ),
            "losses": tensors["losses"].numpy(),
            "history": {k[8:]: v.numpy() for k, v in tensors.items() if k.startswith("history.")},
        }
    except (KeyError, TypeError, AttributeError, ValueError, UsageError) as error:
        raise UsageError(
            f"{path} is not a fit or is damaged ({_in_words(error)}); give a file written by"
            " guides.save."
        ) from error


def _in_words(error: Exception) -> str:
    """Return what is wrong with a record of a file, without names of classes and functions."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"
    if isinstance(error, UsageError):
        return one_line(error)
    unknown = re.search(r"unexpected keyword argument ('\w+')", str(error))
    missing = re.search(r"missing .*?('\w+')", str(error))
    if unknown:
        return f"it has the unknown field {unknown.group(1)}"
    return f"it has no {missing.group(1)}" if missing else "a record in it has another form"


def _config(fields: Mapping[str, Any]) -> FitConfig:
    """Return a stored configuration.

    Earlier versions have the mode `cached`, and parameters that the objective may lack.
    """
    record = OBJECTIVES.get(str(fields["objective"]))
    kind = None if record is None else type(record)
    own = (
        ()
        if kind is None
        else [f.name for f in dataclasses.fields(kind) if fields.get(f.name) is not None]
    )
    spec = (
        fields["objective"] if kind is None else kind(**{name: fields[name] for name in own}).spec
    )
    mode = "auto" if fields.get("compile") == "cached" else fields.get("compile", "auto")
    return FitConfig(**{**fields, **dict.fromkeys(MOVED), "objective": spec, "compile": mode})


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with zipfile.ZipFile(path) as archive:
            meta = json.loads(archive.read("meta.json"))
            tensors = torch.load(io.BytesIO(archive.read("tensors.pt")), weights_only=True)
    except OSError as error:
        raise UsageError(
            f"The fit {path} cannot be read: {error.strerror or error}; give a file written by"
            " guides.save."
        ) from error
    except zipfile.BadZipFile as error:
        raise UsageError(
            f"{path} is not a fit or is damaged (it is no zip file); give a file written by"
            " guides.save."
        ) from error
    except Exception as error:
        inside = "lacks" if isinstance(error, KeyError) else "has unreadable"
        raise UsageError(
            f"{path} is not a fit or is damaged (it {inside} meta.json or tensors.pt); give a file"
            " written by guides.save."
        ) from error
    whole = isinstance(meta, dict) and isinstance(tensors, dict)
    if not whole or not all(isinstance(v, torch.Tensor) for v in tensors.values()):
        raise UsageError(f"{path} is not a fit or is damaged; give a file written by guides.save.")
    if meta.get("format") != FORMAT:
        raise UsageError(
            f"{path} has format {meta.get('format')}; accepted: format {FORMAT}; fit again."
        )
    return meta, tensors


def _fill(module: Any, part: Mapping[str, torch.Tensor], path: str, noun: str) -> None:
    different = _difference(module, part, noun)
    if different:
        raise FitError(
            f"{path} does not match the {noun} its entry builds today ({different}); load it with"
            " the program and guide it was made with, or fit again."
        )
    module.load_state_dict(dict(part))
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def _difference(module: Any, part: Mapping[str, torch.Tensor], noun: str) -> str:
    """Return the first value that a file and a module do not both have in one shape."""
    known = module.state_dict()
    for key in [*part, *known]:
        if key not in known:
            return f"the file has {name_of(module, key)}, the {noun} has not"
        if key not in part:
            return f"the {noun} has {name_of(module, key)}, the file has not"
        if part[key].shape != known[key].shape:
            return (
                f"{name_of(module, key)} has shape {tuple(part[key].shape)} in the file and"
                f" {tuple(known[key].shape)} in the {noun}"
            )
    return ""


def _elbo(values: Mapping[str, Any] | None) -> Elbo | None:
    return None if values is None else Elbo(**values)
