"""Draws of a guide program: log q over the unconstrained vector, many at a time."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch

from guides.base import program_draws as module
from guides.base.program_draws import program_draws
from guides.session import session
from zoo.density.log_density import LogDensity
from zoo.types import Data

ROWS = 5
LAWS = {
    # the program's prior, the guide's law, the same in scipy, log |dz/du|
    "Exponential on a Normal": (
        dist.Normal(0.0, 1.0),
        lambda: dist.Exponential(torch.tensor(2.0)),
        scipy.stats.expon(scale=0.5),
        lambda z: 0.0 * z,
    ),
    "Gamma on a LogNormal": (
        dist.LogNormal(0.0, 1.0),
        lambda: dist.Gamma(torch.tensor(3.0), torch.tensor(2.0)),
        scipy.stats.gamma(3.0, scale=0.5),
        np.log,
    ),
    "Beta on a Uniform": (
        dist.Uniform(0.0, 1.0),
        lambda: dist.Beta(torch.tensor(2.0), torch.tensor(5.0)),
        scipy.stats.beta(2.0, 5.0),
        lambda z: np.log(z) + np.log1p(-z),
    ),
}


def pair(prior, law, rows=ROWS):
    """A program with one shared value and one per row, its guide, and the runs of the guide."""
    runs = []

    def program(y):
        pyro.sample("one", prior)
        with pyro.plate("row", rows):
            z = pyro.sample("z", prior)
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def guide(y):
        runs.append(1)
        pyro.sample("one", law())
        with pyro.plate("row", rows):
            pyro.sample("z", law())

    return program, guide, runs


def drawn(law, n, dtype=torch.float64, seed=4, rows=ROWS):
    prior, make, *_ = LAWS[law]
    program, guide, runs = pair(prior, make, rows)
    data = Data(train={"y": torch.linspace(-1.0, 1.0, rows, dtype=dtype)}, observed=("y",))
    with session(dtype), torch.no_grad():
        density = LogDensity(program, data, dtype=dtype)
        torch.manual_seed(seed)
        u, log_q = program_draws(guide, density, n)
        return u, log_q, density.constrain(u), len(runs)


@pytest.mark.parametrize("law", LAWS)
def test_log_q_is_that_of_the_guide_with_the_jacobian_of_the_program(law):
    u, log_q, sites, _ = drawn(law, 400)
    *_, theirs, jacobian = LAWS[law]
    z = torch.cat([sites["one"][:, None], sites["z"]], -1).numpy()
    assert u.shape == (400, 1 + ROWS)
    np.testing.assert_allclose(log_q, (theirs.logpdf(z) + jacobian(z)).sum(-1), rtol=1e-9)
    # 2,400 independent draws: five standard errors of their mean
    error = theirs.std() / np.sqrt(z.size)
    assert abs(z.mean() - theirs.mean()) < 5 * error


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_guide_in_any_precision_draws_many_at_a_time(dtype):
    u, log_q, _, runs = drawn("Gamma on a LogNormal", 100, dtype, rows=700)
    assert u.dtype == log_q.dtype == dtype
    assert runs < 10


def test_a_guide_draws_in_blocks_of_a_fixed_size(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 40 * (1 + ROWS))
    law = "Exponential on a Normal"
    few, many = drawn(law, 40), drawn(law, 101)
    assert torch.equal(many[0][:40], few[0])
    assert torch.equal(many[1][:40], few[1])
    assert len(many[0]) == 101
    assert len(torch.unique(many[0], dim=0)) == 101, "each block is drawn anew"
    assert many[3] == few[3] + 2
    sites = torch.cat([many[2]["one"][:, None], many[2]["z"]], -1).numpy()
    np.testing.assert_allclose(many[1], LAWS[law][2].logpdf(sites).sum(-1), rtol=1e-9)


def test_a_guide_that_takes_one_draw_at_a_time_is_run_that_often():
    def guide(y):
        one = pyro.sample("one", dist.Normal(0.5, 1.0))
        with pyro.plate("row", ROWS):
            pyro.sample("z", dist.Normal(1.0 if float(one) > 0 else -1.0, 1.0))

    program, _, _ = pair(dist.Normal(0.0, 1.0), None)
    data = Data(train={"y": torch.zeros(ROWS, dtype=torch.float64)}, observed=("y",))
    with session(torch.float64), torch.no_grad():
        u, log_q = program_draws(guide, LogDensity(program, data), 50)
    one, z = u[:, :1].numpy(), u[:, 1:].numpy()
    terms = scipy.stats.norm(0.5, 1.0).logpdf(one).sum(-1)
    terms += scipy.stats.norm(np.where(one > 0, 1.0, -1.0), 1.0).logpdf(z).sum(-1)
    np.testing.assert_allclose(log_q, terms, rtol=1e-9)
    assert 0 < (one > 0).mean() < 1


def test_a_fault_of_this_project_is_no_reason_to_draw_one_by_one(monkeypatch):
    monkeypatch.setattr(module, "SAME", None)  # read where single runs are compared
    with pytest.raises(AttributeError):
        drawn("Exponential on a Normal", 20)


def test_draws_whose_log_q_is_not_that_of_single_runs_are_drawn_one_by_one():
    """A guide that reads the number of its draws: relative errors of 1e-5 count, of 1e-7 not."""

    def program(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    data = Data(train={"y": torch.zeros((), dtype=torch.float64)}, observed=("y",))
    runs = {}
    for error in (1e-5, 1e-7):
        counted = []

        def guide(y, error=error, counted=counted):
            counted.append(1)
            many = any(
                getattr(m, "name", "") == module.PLATE for m in pyro.poutine.runtime._PYRO_STACK
            )
            pyro.sample("z", dist.Uniform(-2.0, 2.0 * (1 + 4 * error) if many else 2.0))

        with session(torch.float64), torch.no_grad():
            _, log_q = program_draws(guide, LogDensity(program, data), 30)
        runs[error] = len(counted)
        np.testing.assert_allclose(log_q, -np.log(4.0), rtol=1e-6)
    assert runs[1e-5] > 30
    assert runs[1e-7] < 10


def test_a_block_is_larger_than_the_draws_that_are_checked(monkeypatch):
    """Of a block of one coordinate, four draws are made at a time: three are compared."""
    monkeypatch.setattr(module, "BLOCK", 1)
    few, many = drawn("Exponential on a Normal", 4), drawn("Exponential on a Normal", 9)
    assert torch.equal(many[0][:4], few[0])
    assert many[3] == few[3] + 2


def test_a_point_computed_from_all_draws_together_is_drawn_one_by_one():
    """z.sum() adds the draws of the plate: the point of a single run has density 0 there."""

    def program(y):
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(b, 1.0), obs=y)

    def guide(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        pyro.sample("b", dist.Delta(z.sum()))

    data = Data(train={"y": torch.zeros((), dtype=torch.float64)}, observed=("y",))
    with session(torch.float64), torch.no_grad():
        u, log_q = program_draws(guide, LogDensity(program, data), 20)
    assert len(torch.unique(u)) == 20
    np.testing.assert_allclose(log_q, scipy.stats.norm.logpdf(u[:, 0]), rtol=1e-9)
