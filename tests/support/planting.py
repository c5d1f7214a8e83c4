"""Planted posteriors: a target, references of four chains, guides with one known fault.

The target is an equicorrelated normal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from zoo.types import Data, ModelEntry, Posterior, Quantity, Reference

Array = Any
CHAINS = 4


def entry(d: int, name: str = "planted") -> ModelEntry:
    def make_data(seed: int) -> Data:
        return Data(train={"y": torch.zeros(1)}, coords={"dim": [f"d{i}" for i in range(d)]})

    def build(data: Data) -> Callable[..., None]:
        raise NotImplementedError

    return ModelEntry(
        name=name,
        title="planted",
        make_data=make_data,
        build=build,
        quantities={"x": Quantity(fn=lambda draws, data: draws["x"], dims=("dim",))},
        reference="exact",
        families=("mean_field", "full_rank"),
    )


def normals(rng: np.random.Generator, n: int, d: int, rho: float) -> Array:
    """Unit normals with one common correlation, `[draw, dim]`."""
    cov = np.full((d, d), rho) + (1 - rho) * np.eye(d)
    return rng.standard_normal((n, d)) @ np.linalg.cholesky(cov).T


def guide(
    draws: Array, log_weights: Array | None = None, model: ModelEntry | None = None
) -> Posterior:
    model = model or entry(draws.shape[1])
    weights = None if log_weights is None else torch.as_tensor(log_weights)
    return Posterior(
        entry=model,
        data=model.load_data(),
        method="full_rank",
        draws={"x": torch.as_tensor(draws)},
        sample_dims=("sample",),
        log_weights=weights,
    )


def chains(draws: Array, model: ModelEntry | None = None) -> Posterior:
    """Return `[chain, draw, dim]` as an MCMC posterior."""
    model = model or entry(draws.shape[2])
    return Posterior(
        entry=model,
        data=model.load_data(),
        method="nuts",
        draws={"x": torch.as_tensor(draws)},
        sample_dims=("chain", "draw"),
    )


def reference(draws: Array, **fields: Any) -> Reference:
    """Return `[chain, draw, dim]` as a reference that passed its gates."""
    return Reference(kind="stored", posterior=chains(draws), **fields)


def four_chains(draws: Array) -> Array:
    return draws.reshape(CHAINS, -1, draws.shape[1])


def _affine(shift: float, factor: float, rho: float) -> Callable[..., tuple[Array, Array]]:
    def plant(rng: np.random.Generator, n: int, m: int, d: int) -> tuple[Array, Array]:
        return shift + factor * normals(rng, n, d, rho), normals(rng, m, d, rho)

    return plant


def _rho(rng: np.random.Generator, n: int, m: int, d: int) -> tuple[Array, Array]:
    return normals(rng, n, d, 0.5), normals(rng, m, d, 0.9)


def _heavy(df: float, *, joint: bool) -> Callable[..., tuple[Array, Array]]:
    """Normal guide, reference Student t with the same sd: tails no Gaussian guide has."""

    def plant(rng: np.random.Generator, n: int, m: int, d: int) -> tuple[Array, Array]:
        tails = rng.chisquare(df, (m, 1 if joint else d)) / df
        return normals(rng, n, d, 0.3), normals(rng, m, d, 0.3) / np.sqrt(tails) * np.sqrt(
            (df - 2) / df
        )

    return plant


def _bimodal(rng: np.random.Generator, n: int, m: int, d: int) -> tuple[Array, Array]:
    truth = normals(rng, m, d, 0.0)
    truth[:, 0] = 0.9 * rng.choice([-1.0, 1.0], m) + np.sqrt(1 - 0.81) * truth[:, 0]
    return normals(rng, n, d, 0.0), truth


def _swap(plant: Callable[..., tuple[Array, Array]]) -> Callable[..., tuple[Array, Array]]:
    def swapped(rng: np.random.Generator, n: int, m: int, d: int) -> tuple[Array, Array]:
        theirs, ours = plant(rng, m, n, d)
        return ours, theirs

    return swapped


# name -> (plant(rng, n, m, d) -> (guide draws, reference draws), verdict, fewest dimensions)
PLANTS: dict[str, tuple[Callable[..., tuple[Array, Array]], str, int]] = {
    "shift 0.25 sd": (_affine(0.25, 1.0, 0.5), "shifted", 1),
    "sd x 0.75": (_affine(0.0, 0.75, 0.5), "too_narrow", 1),
    "sd x 1.35": (_affine(0.0, 1.35, 0.5), "too_wide", 1),
    "rho 0.9 -> 0.5": (_rho, "wrong_shape", 2),
    "heavy tails t3": (_heavy(3.0, joint=False), "wrong_shape", 1),
    "heavy tails t4": (_heavy(4.0, joint=False), "wrong_shape", 1),
    "heavy tails t3 in the guide": (_swap(_heavy(3.0, joint=False)), "wrong_shape", 1),
    "joint heavy tails t4": (_heavy(4.0, joint=True), "wrong_shape", 1),
    "bimodal reference": (_bimodal, "wrong_shape", 1),
    "bimodal guide": (_swap(_bimodal), "wrong_shape", 1),
    "shift 0.05 sd": (_affine(0.05, 1.0, 0.5), "agrees", 1),
    "sd x 0.97": (_affine(0.0, 0.97, 0.5), "agrees", 1),
}


def planted(
    name: str, seed: int, d: int, n: int = 2000, m: int = 4000
) -> tuple[Posterior, Reference]:
    """Draw one planted guide of n draws and a reference of m draws in four chains."""
    plant = PLANTS[name][0]
    rng = np.random.default_rng([seed, d, sum(map(ord, name))])
    ours, theirs = plant(rng, n, m, d)
    return guide(ours), reference(four_chains(theirs))
