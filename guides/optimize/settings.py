"""The settings of a fit: those of the caller, the family, and the entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from guides.objectives.records import objective_of
from guides.registry import family_of
from guides.types import MOVED, FitConfig
from zoo.compiler.cuda import check_device
from zoo.errors import UnknownNameError, UsageError
from zoo.types import ModelEntry

__all__ = ["configure", "training_of"]


def training_of(entry: ModelEntry, family: str, *, given: bool) -> dict[str, Any]:
    """Return the entry's settings for fits to all of its data.

    They apply to the fit that trains the program's weights, and to amortized families.

    Raises:
        UnknownNameError: a setting that is no field of `FitConfig`.
    """
    for name in entry.training:
        if name not in FitConfig.__dataclass_fields__ and name not in MOVED:
            raise UnknownNameError("setting in training", name, FitConfig.__dataclass_fields__)
    if given and not family_of(family, entry).amortized:
        return {}
    own = ("objective", *MOVED) if given else ()  # with fixed weights the ELBO is maximized
    return {k: v for k, v in entry.training.items() if k not in own}


def configure(
    entry: ModelEntry,
    family: str,
    config: FitConfig | None,
    overrides: Mapping[str, Any],
    *,
    given: bool = False,
) -> tuple[FitConfig, dict[str, Any]]:
    """Split keyword arguments into the configuration and the family's own options.

    Raises:
        UnknownNameError: a keyword that is neither a field of `FitConfig` nor an option of the
            family.
    """
    fields = FitConfig.__dataclass_fields__
    options = {k: v for k, v in overrides.items() if k not in fields}
    record = family_of(family, entry)
    for name in options:
        if name not in record.options:
            raise UnknownNameError("fit option", name, [*fields, *record.options])
    chosen = {k: v for k, v in overrides.items() if k in fields}
    if config is None:
        config = FitConfig(
            **{**record.defaults, **training_of(entry, family, given=given), **chosen}
        )
    else:
        config = replace(config, **chosen)
    if config.steps < 1 and not record.own:
        raise UsageError(
            f"steps=0 scores a guide as it is given, but {family} would be scored at its start;"
            " accepted for guides of your own: guide=..., trained=True."
        )
    config = replace(config, objective=objective_of(config.objective).spec)
    check_device(config.device)
    if config.batch_size is None and entry.minibatch is not None:
        config = replace(config, batch_size=entry.minibatch)
    return config, options
