"""Linear regression of posteriordb.

Twenty-five posteriors of one form, most of them from Gelman and Hill (2007): a response that is
linear in a few predictors, with normal errors. A table defines the columns of X, the rest is
common.

    beta_j ~ flat,  or Normal(0, 10)              # j = 1..p, column 1 of X is the intercept
    sigma  ~ flat on (0, inf), or HalfCauchy(2.5), or HalfNormal(10)
    y_i    ~ Normal((X beta)_i, sigma),           i = 1..n

With flat priors the posterior of beta is a multivariate t. What makes some of them hard for VI is
neither shape nor size but scale: predictors in raw units (inches, dollars) give coefficients with
sds of different orders of magnitude and correlations of up to 0.9999; the sds of the best
factorized normal are up to 100 times too small.

References:
    Gelman and Hill (2007), Data Analysis Using Regression and Multilevel/Hierarchical Models,
    chapters 3, 4 and 9. Magnusson et al. (2024), posteriordb: testing, benchmarking and developing
    Bayesian inference algorithms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.models.posteriordb import _database as posteriordb
from zoo.models.posteriordb._cards import CITE, flat, flat_positive, make_card_data, published
from zoo.quantities import log_site, site
from zoo.types import Data, ModelEntry, Program, Quantity

TAGS = frozenset({"posteriordb", "regression"})
REFERENCE = "stored"
NAMES = {
    "posteriordb/earnings-earn_height": "Earnings in dollars on height",
    "posteriordb/earnings-log10earn_height": "Log10 earnings on height",
    "posteriordb/earnings-logearn_height": "Log earnings on height",
    "posteriordb/earnings-logearn_height_male": "Log earnings on height and sex",
    "posteriordb/earnings-logearn_interaction_z": "Log earnings on standardized height by sex",
    "posteriordb/earnings-logearn_logheight_male": "Log earnings on log height and sex",
    "posteriordb/kidiq-kidscore_interaction": "Test score of children on mother's schooling by IQ",
    "posteriordb/kidiq-kidscore_momhs": "Test score of children on mother's schooling",
    "posteriordb/kidiq-kidscore_momhsiq": "Test score of children on mother's schooling and IQ",
    "posteriordb/kidiq-kidscore_momiq": "Test score of children on mother's IQ",
    "posteriordb/kidiq_with_mom_work-kidscore_interaction_c": (
        "Test score on centered schooling by IQ"
    ),
    "posteriordb/kidiq_with_mom_work-kidscore_interaction_z": (
        "Test score on standardized schooling by IQ"
    ),
    "posteriordb/kidiq_with_mom_work-kidscore_mom_work": "Test score on mother's work",
    "posteriordb/mesquite-logmesquite": "Log leaf weight of mesquite bushes on log sizes",
    "posteriordb/mesquite-logmesquite_logvas": (
        "Log leaf weight on log volume, area and shape of the canopy"
    ),
    "posteriordb/mesquite-logmesquite_logvash": (
        "Log leaf weight on log volume, area, shape and height"
    ),
    "posteriordb/mesquite-logmesquite_logvolume": "Log leaf weight on log canopy volume",
    "posteriordb/mesquite-mesquite": "Leaf weight of mesquite bushes in raw units",
    "posteriordb/nes1972-nes": "Party identification 1972 on ideology and background",
    "posteriordb/nes1976-nes": "Party identification 1976 on ideology and background",
    "posteriordb/nes1980-nes": "Party identification 1980 on ideology and background",
    "posteriordb/nes1984-nes": "Party identification 1984 on ideology and background",
    "posteriordb/nes1992-nes": "Party identification 1992 on ideology and background",
    "posteriordb/nes2000-nes": "Party identification 2000 on ideology and background",
    "posteriordb/sblrc-blr": "Simulated regression with correlated predictors",
}
PRIOR_SCALE, CAUCHY_SCALE = 10.0, 2.5

Table = Mapping[str, Tensor]
Column = Callable[[Table], Tensor]


@dataclass(frozen=True, kw_only=True)
class Design:
    """How the response and the columns after the intercept are computed from the raw data."""

    response: Column
    columns: Mapping[str, Column]
    intercept: bool = True
    priors: Literal["flat", "half_cauchy", "normal"] = "flat"


def raw(name: str) -> Column:
    """Return the raw column."""
    return lambda table: table[name]


def log(*names: str) -> Column:
    """Return the log of a product of columns."""
    return lambda table: torch.stack([table[n] for n in names]).prod(0).log()


def indicator(name: str, level: int) -> Column:
    """Return 1 where a category has the level, else 0."""
    return lambda table: (table[name] == level).double()


def centered(name: str) -> Column:
    """Return the column minus its mean."""
    return lambda table: table[name] - table[name].mean()


def standardized(name: str, sds: float) -> Column:
    """Return the centered column, divided by `sds` sample standard deviations."""
    return lambda table: (table[name] - table[name].mean()) / (sds * table[name].std())


def times(one: Column, other: Column) -> Column:
    """Return the product of two columns, their interaction."""
    return lambda table: one(table) * other(table)


def _design_of_blr() -> Design:
    return Design(
        response=raw("y"),
        columns={f"x{j}": _matrix_column(j) for j in range(5)},
        intercept=False,
        priors="normal",
    )


def _matrix_column(j: int) -> Column:
    return lambda table: table["X"][:, j]


_height, _male = {"height": raw("height")}, {"male": raw("male")}
_hs, _iq = raw("mom_hs"), raw("mom_iq")
_mesquite = {
    "canopy_height": log("canopy_height"),
    "total_height": log("total_height"),
    "density": log("density"),
    "group": raw("group"),
}
_canopy = {
    "volume": log("diam1", "diam2", "canopy_height"),
    "area": log("diam1", "diam2"),
    "shape": lambda table: (table["diam1"] / table["diam2"]).log(),
    "total_height": log("total_height"),
}
_ages = {
    "age30_44": indicator("age_discrete", 2),
    "age45_64": indicator("age_discrete", 3),
    "age65up": indicator("age_discrete", 4),
}
_voter = {name: raw(name) for name in ("real_ideo", "race_adj", "educ1", "gender", "income")}


def _kid(
    columns: Mapping[str, Column], priors: Literal["flat", "half_cauchy"] = "half_cauchy"
) -> Design:
    return Design(response=raw("kid_score"), columns=columns, priors=priors)


def _by(hs: Column, iq: Column) -> dict[str, Column]:
    return {"mom_hs": hs, "mom_iq": iq, "hs_by_iq": times(hs, iq)}


_z_height, _z_hs, _z_iq = (
    standardized("height", 1),
    standardized("mom_hs", 2),
    standardized("mom_iq", 2),
)
DESIGNS: dict[str, Design] = {
    "earn_height": Design(response=raw("earn"), columns=_height),
    "log10earn_height": Design(response=lambda table: table["earn"].log10(), columns=_height),
    "logearn_height": Design(response=log("earn"), columns=_height),
    "logearn_height_male": Design(response=log("earn"), columns=_height | _male),
    "logearn_interaction_z": Design(
        response=log("earn"),
        columns={"z_height": _z_height, **_male, "height_by_male": times(_z_height, raw("male"))},
    ),
    "logearn_logheight_male": Design(
        response=log("earn"), columns={"log_height": log("height"), **_male}
    ),
    "kidscore_interaction": _kid(_by(_hs, _iq)),
    "kidscore_momhs": _kid({"mom_hs": _hs}),
    "kidscore_momhsiq": _kid({"mom_hs": _hs, "mom_iq": _iq}),
    "kidscore_momiq": _kid({"mom_iq": _iq}),
    "kidscore_interaction_c": _kid(_by(centered("mom_hs"), centered("mom_iq")), "flat"),
    "kidscore_interaction_z": _kid(_by(_z_hs, _z_iq), "flat"),
    "kidscore_mom_work": _kid({f"work{k}": indicator("mom_work", k) for k in (2, 3, 4)}, "flat"),
    "logmesquite": Design(
        response=log("weight"), columns={"diam1": log("diam1"), "diam2": log("diam2"), **_mesquite}
    ),
    "logmesquite_logvas": Design(
        response=log("weight"),
        columns={**_canopy, "density": log("density"), "group": raw("group")},
    ),
    "logmesquite_logvash": Design(
        response=log("weight"), columns={**_canopy, "group": raw("group")}
    ),
    "logmesquite_logvolume": Design(response=log("weight"), columns={"volume": _canopy["volume"]}),
    "mesquite": Design(
        response=raw("weight"),
        columns={
            name: raw(name)
            for name in ("diam1", "diam2", "canopy_height", "total_height", "density", "group")
        },
    ),
    "nes": Design(
        response=raw("partyid7"),
        columns={
            **{n: _voter[n] for n in ("real_ideo", "race_adj")},
            **_ages,
            **{n: _voter[n] for n in ("educ1", "gender", "income")},
        },
    ),
    "blr": _design_of_blr(),
}


def make_data_of(name: str, design: Design) -> Callable[[int], Data]:
    """Return the `make_data` of one posterior; real data do not depend on the seed."""

    def make_data(seed: int) -> Data:
        table = posteriordb.data(name)
        y = design.response(table)
        ones = {"intercept": torch.ones_like(y)} if design.intercept else {}
        columns = ones | {label: column(table) for label, column in design.columns.items()}
        return make_card_data(
            name,
            {"X": torch.stack(list(columns.values()), -1).contiguous(), "y": y},
            ("y",),
            coords={"coefficient": tuple(columns)},
            dims={"X": ("row", "coefficient"), "y": ("row",), "beta": ("coefficient",)},
        )

    return make_data


def build_of(design: Design) -> Callable[[Data], Program]:
    """Return the `build` of one posterior."""
    # created inside the program, where the default dtype is the entry's
    sigmas = {
        "flat": flat_positive,
        "half_cauchy": lambda: dist.HalfCauchy(CAUCHY_SCALE),
        "normal": lambda: dist.HalfNormal(PRIOR_SCALE),
    }
    size = len(design.columns) + design.intercept

    def build(data: Data) -> Program:
        def program(X: Tensor, y: Tensor | None = None) -> None:
            normal = dist.Normal(0.0, PRIOR_SCALE).expand([size]).to_event(1)
            beta = pyro.sample(
                "beta", normal if design.priors == "normal" else flat(size)
            )  # [coefficient]
            sigma = pyro.sample("sigma", sigmas[design.priors]())
            with pyro.plate("row", len(X)):
                pyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)

        return program

    return build


def _entry(key: str, title: str) -> ModelEntry:
    name = key.partition("/")[2]
    design = DESIGNS[name.partition("-")[2]]
    return ModelEntry(
        name=key,
        title=title,
        make_data=make_data_of(name, design),
        build=build_of(design),
        quantities={
            "beta": Quantity(
                fn=site("beta"),
                dims=("coefficient",),
                description="coefficients, response per unit of the predictor",
            ),
            "log_sigma": Quantity(
                fn=log_site("sigma"), description="log standard deviation of the errors"
            ),
        },
        reference="stored",
        published=published(name),
        tags=TAGS,
        cites=(
            CITE,
            (
                "Gelman and Hill (2007), Data Analysis Using Regression and"
                " Multilevel/Hierarchical Models"
            ),
        ),
    )


ENTRIES = tuple(_entry(key, title) for key, title in NAMES.items())
