"""Eight schools of posteriordb, in both forms, with its data and reference draws.

The story and the programs are those of `eight_schools` (non-centered) and
`eight_schools_centered`:

    mu ~ Normal(0, 5),  tau ~ HalfCauchy(5)
    theta_j ~ Normal(mu, tau),  y_j ~ Normal(theta_j, se_j),   j = 1..8

posteriordb has one set of reference draws for both, of mu, tau and theta. The centered form is a
funnel whose neck neither NUTS nor any guide explores fully.

References:
    Rubin (1981), Estimation in parallel randomized experiments, Journal of Educational Statistics
    6(4), 377-401. Magnusson et al. (2024), posteriordb: testing, benchmarking and developing
    Bayesian inference algorithms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from zoo.models.hierarchical import eight_schools, eight_schools_centered
from zoo.models.posteriordb import _database as posteriordb
from zoo.models.posteriordb._cards import CITE, make_card_data, published
from zoo.types import Data

TAGS = frozenset({"posteriordb", "hierarchical"})
REFERENCE = "stored"
NAMES = {
    "posteriordb/eight_schools-eight_schools_centered": "Eight schools of posteriordb, centered",
    "posteriordb/eight_schools-eight_schools_noncentered": (
        "Eight schools of posteriordb, non-centered"
    ),
}
CENTERED, NONCENTERED = (key.partition("/")[2] for key in NAMES)


def make_data(seed: int) -> Data:
    """Return effects and standard errors; real data do not depend on the seed."""
    table = posteriordb.data(NONCENTERED)
    return make_card_data(
        NONCENTERED,
        {"se": table["sigma"], "y": table["y"]},
        ("y",),
        coords={"school": eight_schools.SCHOOLS},
        dims={name: ("school",) for name in ("se", "y", "theta", "theta_raw")},
    )


def standardized(draws: Mapping[str, Tensor], data: Data) -> dict[str, Tensor]:
    """Return the sites of the non-centered program, `theta_raw = (theta - mu) / tau`."""
    mu, tau = draws["mu"].unsqueeze(-1), draws["tau"].unsqueeze(-1)
    return {"mu": draws["mu"], "tau": draws["tau"], "theta_raw": (draws["theta"] - mu) / tau}


_titles = list(NAMES.values())
ENTRIES = (
    replace(
        eight_schools_centered.ENTRY,
        name=f"posteriordb/{CENTERED}",
        title=_titles[0],
        make_data=make_data,
        reference="stored",
        reference_of=None,
        published=published(CENTERED),
        tags=TAGS,
        cites=(CITE, *eight_schools.ENTRY.cites),
    ),
    replace(
        eight_schools.ENTRY,
        name=f"posteriordb/{NONCENTERED}",
        title=_titles[1],
        make_data=make_data,
        reference="stored",
        published=published(NONCENTERED, standardized),
        tags=TAGS,
        cites=(CITE, *eight_schools.ENTRY.cites),
    ),
)
