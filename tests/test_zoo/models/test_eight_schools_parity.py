"""Eight schools against Stan: log densities at the points in the folder POSTERIORDB."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from zoo.density.log_density import LogDensity
from zoo.models.hierarchical import eight_schools, eight_schools_centered
from zoo.types import ModelEntry

FOLDER = os.environ.get("POSTERIORDB")
needs_points = pytest.mark.skipif(
    FOLDER is None,
    reason="POSTERIORDB is not set, so there are no density points of Stan to compare with",
)


@needs_points
@pytest.mark.parametrize(
    ("entry", "name", "rename"),
    [
        (
            eight_schools.ENTRY,
            "eight_schools-eight_schools_noncentered",
            {"theta_raw": "theta_trans"},
        ),
        (eight_schools_centered.ENTRY, "eight_schools-eight_schools_centered", {}),
    ],
    ids=["noncentered", "centered"],
)
@pytest.mark.parametrize("key", ["log_density", "log_density_unconstrained"])
def test_differences_of_log_density_are_those_of_stan(
    entry: ModelEntry, name: str, rename: dict[str, str], key: str
) -> None:
    assert FOLDER is not None
    stored = json.loads((Path(FOLDER) / "parity" / f"{name}.json").read_text(encoding="utf-8"))[
        "points"
    ]
    assert len(stored) >= 10
    data = entry.load_data()
    density = LogDensity(entry.program(data), data)
    ours, stan = [], []
    for point in stored:
        z = {
            s.name: torch.tensor(
                point["parameters"][rename.get(s.name, s.name)], dtype=torch.float64
            )
            for s in density.sites
        }
        value = density(density.unconstrain(z)).item()
        if key == "log_density":
            value -= z["tau"].log().item()  # Stan's value without the Jacobian of tau = exp(u)
        ours.append(value)
        stan.append(point[key])
    # Both are known up to one constant, so the first point is the origin.
    for a, b in zip(ours, stan, strict=True):
        assert abs((a - ours[0]) - (b - stan[0])) <= 1e-9 * (1 + abs(b))
