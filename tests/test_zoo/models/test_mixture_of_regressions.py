"""The mixture of regressions against its hand-written density."""

from __future__ import annotations

import math

import pytest
import torch
from support.densities import log_density, normal, points

from zoo.models.mixtures import mixture_of_regressions


def test_mixture_of_regressions_is_the_hand_written_density() -> None:
    density, data = log_density(mixture_of_regressions.ENTRY)
    x, y = data.train["length"], data.train["width"]
    u = points(1, density.dim)[0]
    z = density.constrain(u)
    parts = (
        normal(y.unsqueeze(-1), z["center"] + z["slope"] * x.unsqueeze(-1), z["scale"])
        + z["weight"].log()
    )
    prior = (
        torch.distributions.Dirichlet(torch.full((2,), 5.0).double()).log_prob(z["weight"])
        + normal(z["center"], 3.0, 0.5).sum()
        + normal(z["slope"], 0.0, 1.0).sum()
        + (normal(z["scale"].log(), math.log(0.3), 0.4) - z["scale"].log()).sum()
    )
    jacobian = sum(
        s.transform.log_abs_det_jacobian(u[s.start : s.stop], s.transform(u[s.start : s.stop]))
        .sum()
        .item()
        for s in density.sites
    )
    assert density(u).item() == pytest.approx(
        (parts.logsumexp(-1).sum() + prior).item() + jacobian, abs=1e-8
    )
