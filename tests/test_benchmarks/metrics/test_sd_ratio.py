"""The ratio of sds: of spreads, of a point, and of values that are constant on both sides."""

import numpy as np
import pytest

from benchmarks.metrics.components import Side
from benchmarks.metrics.marginal.sd_ratio import METRIC


def side(mean, sd, n=1000):
    """A side with given moments; its draws are not looked at."""
    mean, sd = np.array(mean, dtype=float), np.array(sd, dtype=float)
    zeros = np.zeros_like(mean)
    return Side(
        draws=np.broadcast_to(mean, (1, n, len(mean))),
        independent=True,
        mean=mean,
        mean_se=sd / n**0.5,
        sd=sd,
        sd_se=sd / (2 * n) ** 0.5,
        ess=zeros + n,
        tail_se=zeros,
    )


def test_a_spread_a_point_and_a_constant():
    """Half the sd is 0.5, a point 0, and a value that is the same constant on both sides is 1."""
    found = METRIC.compute(
        side([0.0, 0.0, 3.0], [1.0, 0.0, 0.0]), side([0.0, 0.0, 3.0], [2.0, 1.0, 0.0])
    )
    assert found["sd_ratio"].tolist() == pytest.approx([0.5, 0.0, 1.0])
    # both sds have a relative error of 1 / sqrt(2 n)
    assert found["sd_ratio_se"][0] == pytest.approx(0.5 * (2 / 2000) ** 0.5, rel=0.01)
