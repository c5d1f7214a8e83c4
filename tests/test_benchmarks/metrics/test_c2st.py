"""The line of the classifier: 0.55, or what two halves of the reference give, with errors."""

import numpy as np
import pytest
from support import planting

from benchmarks.comparison.score import compare
from benchmarks.metrics.joint.c2st import METRIC


@pytest.mark.parametrize(
    ("se", "floor", "floor_se", "line"),
    [
        (0.005, 0.5, 0.005, 0.55),  # three errors are less than 0.05
        (0.03, 0.5, 0.04, 0.65),
        (0.0, 0.6, 0.02, 0.66),
        (0.0, 0.42, 0.02, 0.56),  # no floor is below one half
    ],
)
def test_a_noisy_floor_raises_the_line(se, floor, floor_se, line):
    assert METRIC.line(0.6, se, floor, floor_se) == pytest.approx(line)


def test_chains_that_differ_among_themselves_raise_the_line_of_a_comparison():
    """Half of the chains have another dependence: a guide with either is no finding for C2ST."""
    rng = np.random.default_rng(0)
    halves = [planting.normals(rng, 4000, 2, rho) for rho in (0.85, -0.85)]
    truth = planting.reference(np.stack([half[k::2] for half in halves for k in (0, 1)]))
    found = compare(planting.guide(planting.normals(rng, 2000, 2, 0.85)), truth)
    distance = next(d for d in found.distances if d.name == "c2st")
    assert distance.floor > 0.7
    assert distance.line > distance.floor
    assert 0.55 < distance.value < distance.line
    assert not any("classifier" in r.sentence or r.label == "c2st" for r in found.reasons)
