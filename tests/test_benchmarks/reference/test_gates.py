"""Gates of a certified reference: each fault fails its own gate, and no other hides it."""

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support import planting

import zoo
from benchmarks.reference import gates
from zoo.density.log_density import LogDensity


def autoregressive(rho, shape=(10, 1000, 2), seed=0):
    """Return chains of variance one with this lag-1 autocorrelation."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    x = np.empty(shape)
    x[:, 0] = noise[:, 0]
    for i in range(1, shape[1]):
        x[:, i] = rho * x[:, i - 1] + (1 - rho**2) ** 0.5 * noise[:, i]
    return x


def test_independent_draws_pass():
    passed, values = gates.independence_gates(planting.chains(autoregressive(0.0, seed=1)))
    assert all(passed.values())
    assert values["autocorrelation_max"] < 0.05


@pytest.mark.parametrize("rho", [0.5, -0.5, 0.1])
def test_draws_thinned_too_little_fail_the_autocorrelation_gate(rho):
    """Also negative autocorrelation, at which every ESS is above the number of draws."""
    passed, values = gates.independence_gates(planting.chains(autoregressive(rho)))
    assert not passed["autocorrelation"]
    assert values["autocorrelation_max"] == pytest.approx(abs(rho), abs=0.05)
    assert passed["rhat"]


def test_one_chain_with_wandering_energy_fails():
    rng = np.random.default_rng(1)
    energy = rng.standard_normal((10, 1000))
    energy[4] = 0.1 * rng.standard_normal(1000).cumsum()
    chains = replace(
        planting.chains(autoregressive(0.0)),
        stats={
            "energy": torch.as_tensor(energy),
            "diverging": torch.zeros(10, 1000, dtype=torch.bool),
        },
    )
    passed, values = gates.sampler_gates(chains)
    assert passed == {"no_divergences": True, "ebfmi": False}
    assert values["ebfmi_min"] < 0.1


@pytest.mark.parametrize(
    ("shift", "factor", "what"),
    [(0.0, 0.9, "mean of (u - mean) * gradient"), (0.2, 1.0, "mean gradient")],
)
def test_steins_identities_see_means_and_widths(shift, factor, what):
    def program():
        pyro.sample("x", dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1))

    entry = zoo.from_program(program, {})
    data = entry.load_data()
    density = LogDensity(entry.program(data), data)
    draws = autoregressive(0.0)
    found, limit, _ = gates.stein(density, draws)
    assert found < limit
    found, limit, where = gates.stein(density, shift + factor * draws)
    assert found > limit
    assert where.startswith(f"{what} of x[")


def test_the_gap_of_moments_is_in_standard_errors():
    chains = planting.chains(autoregressive(0.0, seed=3))
    known = gates.all_moments(chains)
    (name,) = known
    gap, limit = gates.moment_gap(chains, known)
    assert gap == 0.0
    assert 3 < limit < 6  # of four comparisons
    both = (2 * known[name].mean_se[1] ** 2).sqrt()
    for part, se in (("mean", known[name].mean_se), ("sd", known[name].sd_se)):
        both = 2**0.5 * se[1]
        moved = getattr(known[name], part).clone()
        moved[1] += 7 * both
        found, same = gates.moment_gap(chains, {name: known[name]._replace(**{part: moved})})
        assert found == pytest.approx(7.0)
        assert same == limit
    other = known[name]._replace(mean=known[name].mean[:1])
    assert gates.moment_gap(chains, {name: other})[0] == np.inf
    # a component without an error, such as a constant, has to be equal
    exact = known[name]._replace(
        mean_se=torch.zeros(2), sd_se=torch.zeros(2), mean=known[name].mean + 1e-6
    )
    still = planting.chains(np.broadcast_to(known[name].mean.numpy(), (4, 100, 2)).copy())
    assert gates.moment_gap(still, {name: exact._replace(sd=torch.zeros(2))})[0] > 1e5


def test_moments_of_chains_are_those_of_numpy_with_errors_of_independent_draws():
    x = autoregressive(0.0, seed=5) * [1.0, 3.0] + [0.0, 2.0]
    (found,) = gates.all_moments(planting.chains(x)).values()
    flat = x.reshape(-1, 2)
    np.testing.assert_allclose(found.mean, flat.mean(0))
    np.testing.assert_allclose(found.sd, flat.std(0, ddof=1))
    np.testing.assert_allclose(found.mean_se, flat.std(0) / len(flat) ** 0.5, rtol=0.1)
    np.testing.assert_allclose(found.sd_se, flat.std(0) / (2 * len(flat)) ** 0.5, rtol=0.1)
