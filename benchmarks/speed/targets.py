"""The eight entries of the benchmark: four of the registry, four defined here.

    mixture        weight ~ Beta(2, 2), location_k ~ Normal(0, 5), scale_k ~ LogNormal(0, 0.5),
                   y_i ~ mixture; 5 parameters
    linear_20000   the conjugate regression of the registry on 20,000 x 50 generated numbers;
                   51 parameters
    radon          intercept_c ~ Normal(center, spread),
                   y_i ~ Normal(intercept_c(i) + slope floor_i, noise); 89 parameters
    hierarchy_400  the random intercepts of the registry with 396 groups of 6 rows;
                   400 parameters
    growth         a regression whose rows may come as minibatches, for the growth curve;
                   not in the table

Generated numbers come from numpy's default generator with a fixed seed; every side of one run gets
the same arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.errors import UnknownNameError
from zoo.models.conjugate import linear_regression
from zoo.models.hierarchical import eight_schools, random_intercepts
from zoo.models.mixtures import gaussian_mixture
from zoo.models.regression import logistic_regression
from zoo.quantities import log_site, site, sorted_by
from zoo.types import Data, ModelEntry, Program, Quantity

__all__ = ["GROWTH", "TARGETS", "Target", "arrays", "find"]

RADON_ROWS, RADON_COUNTIES = 919, 85
GROWTH_BATCH = 100


@dataclass(frozen=True, kw_only=True)
class Target:
    """One entry of the benchmark; `form` names the program that the peers implement."""

    name: str
    title: str
    form: str
    entry: ModelEntry


def _floats(values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float64))


def mixture_data(seed: int, rows: int) -> Data:
    """Draw rows from 0.35 Normal(-1.5, 0.8) + 0.65 Normal(1.5, 1.1)."""
    rng = np.random.default_rng(seed)
    first = rng.random(rows) < 0.35
    y = np.where(
        first, -1.5 + 0.8 * rng.standard_normal(rows), 1.5 + 1.1 * rng.standard_normal(rows)
    )
    return Data(
        train={"y": _floats(y)},
        observed=("y",),
        dims={"y": ("row",)},
        source="generated",
        licence="CC0-1.0",
    )


def mixture(data: Data, rows: int) -> Program:
    """Return the two-component mixture with the class summed out by hand."""

    def program(y: Tensor | None = None) -> None:
        weight = pyro.sample("weight", dist.Beta(2.0, 2.0))
        with pyro.plate("class", 2):
            location = pyro.sample("location", dist.Normal(0.0, 5.0))  # [class]
            scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))  # [class]
        parts = dist.Categorical(probs=torch.stack([weight, 1 - weight], -1))
        with pyro.plate("row", rows):
            pyro.sample("y", dist.MixtureSameFamily(parts, dist.Normal(location, scale)), obs=y)

    return program


def linear_data(seed: int, rows: int, features: int) -> Data:
    """Draw a correlated design and a response with noise 1, for the conjugate regression."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, features)) + 0.5 * rng.standard_normal((rows, 1))
    y = x @ (rng.standard_normal(features) / np.sqrt(features)) + rng.standard_normal(rows)
    return Data(
        train={"x": _floats(x), "y": _floats(y)},
        observed=("y",),
        dims={"x": ("row", "feature"), "y": ("row",)},
        source="generated",
        licence="CC0-1.0",
    )


def radon_data(seed: int) -> Data:
    """Draw counties of unequal size, at least two rows each.

    The spread is 0.35 between counties and 0.75 within them.
    """
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.full(RADON_COUNTIES, 1.2))
    extra = rng.choice(RADON_COUNTIES, RADON_ROWS - 2 * RADON_COUNTIES, p=share)
    county = np.sort(np.concatenate([np.repeat(np.arange(RADON_COUNTIES), 2), extra]))
    floor = (rng.random(RADON_ROWS) < 0.17).astype(float)
    intercept = 1.45 + 0.35 * rng.standard_normal(RADON_COUNTIES)
    y = intercept[county] - 0.7 * floor + 0.75 * rng.standard_normal(RADON_ROWS)
    return Data(
        train={"county": torch.as_tensor(county), "floor": _floats(floor), "y": _floats(y)},
        observed=("y",),
        dims={"county": ("row",), "floor": ("row",), "y": ("row",)},
        source="generated",
        licence="CC0-1.0",
    )


def radon(data: Data) -> Program:
    """Return the varying-intercept regression in its centered form."""

    def program(county: Tensor, floor: Tensor, y: Tensor | None = None) -> None:
        center = pyro.sample("center", dist.Normal(0.0, 10.0))
        slope = pyro.sample("slope", dist.Normal(0.0, 10.0))
        spread = pyro.sample("spread", dist.HalfNormal(1.0))
        noise = pyro.sample("noise", dist.HalfNormal(1.0))
        with pyro.plate("counties", RADON_COUNTIES):
            intercept = pyro.sample("intercept", dist.Normal(center, spread))  # [county]
        with pyro.plate("rows", RADON_ROWS):
            pyro.sample("y", dist.Normal(intercept[..., county] + slope * floor, noise), obs=y)

    return program


def hierarchy_data(seed: int, groups: int, rows: int) -> Data:
    """Draw groups with spread 1 and noise 0.8, as the registry's random intercepts do."""
    rng = np.random.default_rng(seed)
    effect = 2.0 + rng.standard_normal((groups, 1))
    x = rng.standard_normal((groups, rows))
    y = effect + 0.5 * x + 0.8 * rng.standard_normal((groups, rows))
    return Data(
        train={"x": _floats(x), "y": _floats(y)},
        observed=("y",),
        batched=("x", "y"),
        size=groups,
        dims={"x": ("group", "row"), "y": ("group", "row")},
        source="generated",
        licence="CC0-1.0",
    )


def growth_data(seed: int, rows: int) -> Data:
    """Draw a regression with ten features whose rows allow minibatches."""
    table = linear_data(seed, rows, 10)
    return replace(table, batched=("x", "y"), size=rows)


def growth(data: Data, rows: int) -> Program:
    """Return a regression whose rows are a minibatch plate."""

    def program(x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> None:
        weight = pyro.sample("weight", dist.Normal(0.0, 1.0).expand([10]).to_event(1))  # [feature]
        noise = pyro.sample("noise", dist.HalfNormal(1.0))
        with pyro.plate("row", rows, subsample=index):
            pyro.sample("y", dist.Normal(x @ weight, noise), obs=y)

    return program


def _entry(
    name: str,
    title: str,
    make: Callable[..., Data],
    build: Callable[..., Program],
    quantities: Mapping[str, Quantity],
    **options: Any,
) -> ModelEntry:
    return ModelEntry(
        name=name,
        title=title,
        make_data=make,
        build=build,
        quantities=quantities,
        reference="nuts",
        options=options,
    )


MIXTURE = _entry(
    "bench_mixture",
    "Two normals on 1,000 rows, class summed out by hand",
    mixture_data,
    mixture,
    {
        "location": Quantity(fn=sorted_by("location", "location"), dims=("class",)),
        "log_scale": Quantity(fn=sorted_by("scale", "location", log=True), dims=("class",)),
    },
    rows=1000,
)
LINEAR_20000 = replace(
    linear_regression.ENTRY,
    name="bench_linear_20000",
    title="Conjugate regression, 20,000 x 50",
    families=("mean_field", "full_rank"),
    make_data=lambda seed: linear_data(seed, 20_000, 50),
)
RADON = _entry(
    "bench_radon",
    "Varying intercepts, 919 rows in 85 counties",
    radon_data,
    radon,
    {
        **{name: Quantity(fn=site(name)) for name in ("center", "slope")},
        **{f"log_{name}": Quantity(fn=log_site(name)) for name in ("spread", "noise")},
        "intercept": Quantity(fn=site("intercept"), dims=("county",)),
    },
)
HIERARCHY = replace(
    random_intercepts.ENTRY,
    name="bench_hierarchy_400",
    title="Random intercepts, 396 groups of 6 rows",
    reference="nuts",
    amortize=None,
    families=("mean_field", "full_rank"),
    make_data=lambda seed: hierarchy_data(seed, 396, 6),
)
GROWTH = _entry(
    "bench_growth",
    "Regression on ten features",
    growth_data,
    growth,
    {"weight": Quantity(fn=site("weight"))},
    rows=1000,
)

TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target(
            name="mixture",
            title="mixture, 1,000 rows, 5 parameters",
            form="mixture",
            entry=MIXTURE,
        ),
        Target(
            name="eight_schools",
            title="eight schools, non-centered",
            form="eight_schools",
            entry=eight_schools.ENTRY,
        ),
        Target(
            name="linear", title="linear, 442 x 10", form="linear", entry=linear_regression.ENTRY
        ),
        Target(
            name="linear_20000", title="linear, 20,000 x 50", form="linear", entry=LINEAR_20000
        ),
        Target(
            name="logistic",
            title="logistic, 569 x 30",
            form="logistic",
            entry=logistic_regression.ENTRY,
        ),
        Target(
            name="radon", title="hierarchy, 89 parameters, 919 rows", form="radon", entry=RADON
        ),
        Target(
            name="hierarchy_400",
            title="hierarchy, 400 parameters",
            form="hierarchy",
            entry=HIERARCHY,
        ),
        Target(
            name="enumerated",
            title="iris mixture, enumerated class",
            form="enumerated",
            entry=gaussian_mixture.ENTRY,
        ),
    )
}


def find(name: str) -> Target:
    """Return a target by name, `growth_N` for the regression on N rows.

    Raises:
        UnknownNameError: no such target, with the nearest guess.
    """
    if name.startswith("growth_") and name[7:].isdigit():
        entry = replace(GROWTH.with_options(rows=int(name[7:])), minibatch=GROWTH_BATCH)
        return Target(
            name=name, title=f"regression on {int(name[7:]):,} rows", form="growth", entry=entry
        )
    if name not in TARGETS:
        raise UnknownNameError("benchmark entry", name, TARGETS)
    return TARGETS[name]


def arrays(target: Target) -> dict[str, np.ndarray[Any, Any]]:
    """Return the data of a target as numpy arrays, as passed to the peers."""
    return {name: value.numpy() for name, value in target.entry.load_data().train.items()}
