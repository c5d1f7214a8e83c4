"""Shared parts of posteriordb's cards: data with source, reference draws, flat priors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor

from zoo.models.posteriordb import _database as posteriordb
from zoo.types import Data, Published

__all__ = ["CITE", "flat", "flat_positive", "make_card_data", "published"]

CITE = (
    "Magnusson et al. (2024), posteriordb: testing, benchmarking and developing Bayesian inference"
    " algorithms"
)


def flat(size: int | None = None) -> dist.Distribution:
    """Return the improper flat prior over the real line, or over vectors of the given size."""
    return (
        dist.ImproperUniform(constraints.real, (), ())
        if size is None
        else dist.ImproperUniform(constraints.real_vector, (), (size,))
    )


def flat_positive() -> dist.Distribution:
    """Return the improper flat prior over the positive half-line."""
    return dist.ImproperUniform(constraints.positive, (), ())


def make_card_data(
    name: str,
    train: Mapping[str, Any],
    observed: tuple[str, ...],
    *,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, tuple[str, ...]] | None = None,
) -> Data:
    """Return the data of a posterior, with the title and licence that posteriordb states."""
    title, licence = posteriordb.titles(name)
    return Data(
        train=train,
        observed=observed,
        coords=dict(coords or {}),
        dims=dict(dims or {}),
        source=f"posteriordb: {title}",
        licence=licence,
    )


def published(
    name: str, sites: Callable[[Mapping[str, Tensor], Data], Mapping[str, Tensor]] | None = None
) -> Callable[[Data], Published]:
    """Return the hook of a card that reads the reference draws of a posterior.

    Args:
        name: name of the posterior in posteriordb.
        sites: maps draws under Stan's names, `[chain, draw, *shape]`, to the program's sites;
            default: the same names.
    """

    def read(data: Data) -> Published:
        draws = posteriordb.draws(name)
        record = posteriordb.reference_info(name)
        gates = dict(record.gates)
        if record.divergences is not None:
            gates["no_divergences"] = record.divergences == 0
        return Published(
            draws=draws if sites is None else sites(draws, data),
            gates=gates,
            rhat_max=record.rhat_max,
            ess_min=record.ess_min,
            provenance={
                "of": f"posteriordb: {posteriordb.info(name).reference}",
                "ebfmi_min": record.ebfmi_min,
                **record.arguments,
            },
        )

    return read
