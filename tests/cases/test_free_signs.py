"""Exact symmetries are found by evaluating the density, named once, and judged around.

A one-factor model with normal loadings has the same density at (load, f) and (-load, -f): by that
invariance every mean of load and f is 0. Chains choose signs by chance; guides choose one.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import benchmarks
import zoo
from zoo.density.log_density import LogDensity
from zoo.density.symmetries import EVALUATIONS, symmetries

RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal(30)
WEIGHTS = np.array([1.0, 0.9, 1.1, 0.8, 1.2, 1.0])
Y = SCORES[:, None] * WEIGHTS + 0.5 * RNG.standard_normal((30, 6))


def factor(Y=None):
    with pyro.plate("item", 6, dim=-1):
        load = pyro.sample("load", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.HalfNormal(1.0))
    with pyro.plate("row", 30, dim=-2):
        f = pyro.sample("f", dist.Normal(0.0, 1.0))
        with pyro.plate("item_of_row", 6, dim=-1):
            pyro.sample("Y", dist.Normal(f * load, s), obs=Y)


def product(y):
    a = pyro.sample("a", dist.Normal(torch.zeros(5, 2), 1.0).to_event(2))
    b = pyro.sample("b", dist.Normal(torch.zeros(2, 4), 1.0).to_event(2))
    pyro.sample("y", dist.Normal(a @ b, 1.0).to_event(2), obs=y)


def scaled_product(y):
    """The same with factors of different scales: columns can be told apart, their signs not."""
    a = pyro.sample("a", dist.Normal(torch.zeros(5, 2), 1.0).to_event(2))
    scales = torch.tensor([[1.0], [3.0]]).expand(2, 4)
    b = pyro.sample("b", dist.Normal(0.0, scales).to_event(2))
    pyro.sample("y", dist.Normal(a @ b, 1.0).to_event(2), obs=y)


def mixture(y, shares=None):
    w = pyro.sample("w", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("k", 3):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        sd = pyro.sample("sd", dist.LogNormal(0.0, 1.0))
    with pyro.plate("n", len(y)):
        c = pyro.sample("c", dist.Categorical(w))
        pyro.sample("y", dist.Normal(mu[c], sd[c]), obs=y)


def chain(y):
    """A hidden Markov chain of two states: labels move both axes of the transitions."""
    rows = pyro.sample("rows", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 5.0).to_event(1))
    log_p = torch.full((2,), 0.5).log()
    for value in y:
        log_p = log_p + dist.Normal(mu, 1.0).log_prob(value)
        log_p = (log_p.unsqueeze(-1) + rows.log()).logsumexp(0)
    pyro.factor("evidence", log_p.logsumexp(0))


THREE = torch.cat([torch.linspace(-1, 1, 12) + shift for shift in (-4, 1, 7)])
TABLE = 3 * torch.cos(torch.arange(20.0)).reshape(5, 4)
FOUND = {
    "one factor": (factor, {"Y": Y}, [("sign", ("load", "f"))]),
    "product": (product, {"y": TABLE}, [("rotation", ("a", "b"))]),
    "scaled product": (scaled_product, {"y": TABLE}, [("sign", ("a", "b"))]),
    "mixture": (mixture, {"y": THREE}, [("label", ("w", "mu", "sd"))]),
    "hidden chain": (chain, {"y": torch.tensor([3.0, -3.0] * 4)}, [("label", ("rows", "mu"))]),
}


def plain(y):
    m = pyro.sample("m", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    s = pyro.sample("s", dist.HalfNormal(1.0))
    pyro.sample("y", dist.Normal(m, s).to_event(1), obs=y)


def centered():
    """Its own mirror image: one mode at zero, whatever signs do to it."""
    pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1))


def ordered_shares(y):
    with pyro.plate("k", 2):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("n", len(y)):
        c = pyro.sample("c", dist.Categorical(torch.tensor([0.3, 0.7])))
        pyro.sample("y", dist.Normal(mu[c], 1.0), obs=y)


NONE = {
    "nothing is free": (plain, {"y": torch.tensor([1.0, 2.0, -1.0, 0.5])}),
    "its own mirror image": (centered, {}),
    "shares tell labels apart": (ordered_shares, {"y": THREE}),
}


def density_of(program, data):
    entry = zoo.from_program(program, data)
    made = entry.load_data()
    return entry, LogDensity(entry.program(made), made)


@pytest.mark.parametrize("name", FOUND)
def test_a_symmetry_is_found_once_by_few_evaluations(name, monkeypatch):
    program, data, expected = FOUND[name]
    entry, density = density_of(program, data)
    calls = []
    whole = density.log_joint
    monkeypatch.setattr(density, "log_joint", lambda *a: calls.append(1) or whole(*a))
    monkeypatch.setattr(
        "zoo.density.symmetries._climb", lambda d, u: u
    )  # any point but a fixed one
    found = symmetries(density)
    assert [(s.kind, s.sites) for s in found] == expected
    assert len(calls) <= EVALUATIONS
    monkeypatch.undo()
    assert len(entry.notices) == 1


@pytest.mark.parametrize("name", FOUND)
def test_what_is_judged_does_not_change(name):
    """Quantities at z and at the moved z are equal, for another move than the tested one."""
    program, data, ((kind, sites),) = FOUND[name]
    entry, density = density_of(program, data)
    u = torch.randn(density.dim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    z = {k: v[None] for k, v in density.constrain(u).items()}
    moved = dict(z)
    (symmetry,) = symmetries(density)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    for site, axis in symmetry.axes:
        value = moved[site]
        if kind == "sign":
            moved[site] = -value
        elif kind == "label":
            moved[site] = value.flip(-axis)
        else:
            moved[site] = (value.movedim(-axis, -1) @ turn).movedim(-1, -axis)
    data = entry.load_data()
    for name, quantity in entry.quantities.items():
        if quantity.judged:
            before, after = quantity.fn(z, data), quantity.fn(moved, data)
            assert torch.allclose(before, after, atol=1e-12), name
            assert before.ndim == 1 + len(quantity.dims)
    assert any(q.judged for q in entry.quantities.values())
    assert set(sites) == {s for s, _ in symmetry.axes}


@pytest.mark.parametrize("name", NONE)
def test_no_false_notice(name):
    program, data = NONE[name]
    entry, density = density_of(program, data)
    assert symmetries(density) == ()
    assert not [n for n in entry.notices if "free" in n]


@pytest.mark.parametrize(
    "name", ["eight_schools", "funnel", "correlated_gaussian", "linear_regression", "banana"]
)
def test_no_notice_on_entries_without_copies(name):
    entry = zoo.load(name)
    data = entry.load_data()
    assert symmetries(LogDensity(entry.program(data), data)) == ()


@pytest.mark.parametrize(
    ("locs", "scales"),
    [((3.0, 1000.0), (1.0, 1e-3)), ((3.0, 100.0), (1.0, 1e-5)), ((5e6, -2.0), (1e6, 3e-6))],
)
def test_a_steep_density_hides_no_sign(locs, scales):
    """Far from the mode the log density is -1e10, whose rounding is as large as the difference."""

    def program():
        for name, loc, scale in zip("ab", locs, scales, strict=True):
            loc = torch.tensor(loc, dtype=torch.float64)
            pyro.sample(name, dist.Normal(loc, torch.tensor(scale, dtype=torch.float64)))

    assert symmetries(LogDensity(program, zoo.Data(train={}))) == ()


@pytest.mark.slow
def test_the_sign_that_chains_choose_decides_nothing():
    """Judged by signs, full rank was shifted by 11 sds whenever all chains chose the other one."""
    card = benchmarks.compare_program(factor, {"Y": Y}, families=["full_rank"], quick=True, jobs=1)
    found = card.comparisons["full_rank"]
    assert max(abs(s.mean_error) for s in found.scores) < 1.0


def test_quantities_of_a_factor_model_carry_no_sign():
    entry = zoo.from_program(factor, {"Y": Y})
    assert list(entry.quantities) == ["abs load", "log s", "abs f"]
    assert "The sign of load and f is free" in entry.notices[0]
