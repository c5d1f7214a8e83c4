"""Time series against sums over change points and recursions."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pytest
import torch
from scipy import stats
from support.densities import log_density, points

import zoo
from zoo.distributions.multivariate import LevelShift
from zoo.models.time_series import change_point, stochastic_volatility


def test_the_level_shift_sums_over_every_change() -> None:
    x = torch.tensor([0.3, 1.9, -0.4, 2.2, 0.8], dtype=torch.float64)
    level, scale = (
        torch.tensor([0.1, 1.4], dtype=torch.float64),
        torch.tensor(0.7, dtype=torch.float64),
    )
    terms = [
        stats.norm.logpdf(x[:c], 0.1, 0.7).sum()
        + stats.norm.logpdf(x[c:], 1.4, 0.7).sum()
        - math.log(4)
        for c in range(1, 5)
    ]
    shift = LevelShift(level, scale, 5)
    assert shift.log_prob(x).item() == pytest.approx(np.logaddexp.reduce(terms), abs=1e-12)
    assert torch.allclose(shift.joint(x), torch.tensor(terms, dtype=torch.float64))
    torch.manual_seed(0)
    drawn = shift.sample((20_000,))
    # the first value is always of the first level, the third one of it in two of four cases
    assert drawn[:, 0].mean().item() == pytest.approx(0.1, abs=5 * 0.7 / 141)
    assert drawn[:, 2].mean().item() == pytest.approx(0.1 + 1.3 * 0.5, abs=5 * 1.0 / 141)


def test_evidence_of_the_change_point_is_a_sum_of_multivariate_t() -> None:
    data = change_point.ENTRY.load_data()
    exact = change_point.ENTRY.exact(data)
    assert exact is not None
    flow, terms = data.train["flow"].numpy(), []
    for change in range(1, 100):
        x = np.repeat(np.eye(2), [change, 100 - change], axis=0)
        # normal-inverse-gamma with shape 3 and rate 4: t with 6 degrees
        shape = (4 / 3) * (np.eye(100) + 4 * x @ x.T)
        terms.append(
            stats.multivariate_t.logpdf(flow, np.full(100, 9.0), shape, df=6) - math.log(99)
        )
    assert exact.log_evidence == pytest.approx(np.logaddexp.reduce(terms), abs=1e-8)
    assert 1871 + int(np.argmax(terms)) == 1898


@pytest.mark.parametrize("share", [0.97, 0.3], ids=["slow", "alternating"])
def test_deviations_follow_the_recursion(share: float) -> None:
    p, step = (torch.tensor(v, dtype=torch.float64) for v in (share, 0.3))
    z, phi = points(1, 50, scale=1.0)[0], 2 * share - 1
    d = [(step * z[0] / math.sqrt(1 - phi**2)).item()]
    for t in range(1, 50):
        d.append(phi * d[-1] + step.item() * z[t].item())
    assert torch.allclose(
        stochastic_volatility.deviations(p, step, z), torch.tensor(d, dtype=torch.float64)
    )


def test_stochastic_volatility_has_the_density_of_the_form_with_a_level() -> None:
    """The forms with average and with level have equal density: a shift has Jacobian 1."""
    density, data = log_density(stochastic_volatility.ENTRY)
    u = points(1, density.dim)[0]
    z = density.constrain(u)
    p, step, noise = (z[k].numpy() for k in ("persistence", "volatility", "z"))
    phi = 2 * p - 1
    d = [step * noise[0] / math.sqrt(1 - phi**2)]
    for e in noise[1:]:
        d.append(phi * d[-1] + step * e)
    level = z["average"].item() - np.mean(d)
    value = (
        stats.norm.logpdf(level, -0.5, 1)
        + stats.beta.logpdf(p, 20, 1.5)
        + stats.halfnorm.logpdf(step, scale=0.5)
    )
    value += (
        stats.norm.logpdf(noise).sum()
        + stats.norm.logpdf(data.train["growth"], 0, np.exp((level + np.array(d)) / 2)).sum()
    )
    value += np.log(p * (1 - p)) + np.log(step)  # of the logistic function and of exp
    assert density(u).item() == pytest.approx(value, abs=1e-9)
    assert stochastic_volatility.level(
        {k: v[None] for k, v in z.items()}, data
    ).item() == pytest.approx(level, abs=1e-12)


def test_the_levels_of_a_change_point_are_one_per_regime_with_one_scale():
    entry = zoo.load("change_point")
    data = entry.load_data()
    trace = pyro.poutine.trace(entry.program(data)).get_trace(**data.train)
    level = trace.nodes["level"]["fn"]
    assert level.batch_shape == ()
    assert level.event_shape == (2,)
    scale = math.sqrt(change_point.LEVEL_VARIANCE * float(trace.nodes["noise_variance"]["value"]))
    assert level.base_dist.scale.tolist() == pytest.approx([scale, scale])
