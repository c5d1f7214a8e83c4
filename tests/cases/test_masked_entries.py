"""Masked entries count nothing: discrete states behind a mask, latents that no term holds."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import constraints

import guides
import zoo
from zoo.density.log_density import LogDensity
from zoo.errors import ProgramError

F = torch.float64


def density_of(entry):
    data = entry.load_data()
    return LogDensity(entry.program(data), data, dtype=entry.dtype)


# -- two sequences of unequal length, padded ---------------------------------------------------

SEQ = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]], dtype=F)
LENGTHS = torch.tensor([4, 2])
MOVES = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6]], dtype=F)


def sequences(by):
    def program(seq, lengths):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        emit = torch.stack([p * 0.5, p, 1 - p])
        with pyro.plate("s", 2):
            x = torch.zeros(2).long()
            for t in pyro.markov(range(4)):
                counted = t < lengths
                state, seen = dist.Categorical(MOVES[x]), dist.Bernoulli(emit[x])
                if by == "mask of the distribution":
                    x = pyro.sample(f"x{t}", state.mask(counted))
                    pyro.sample(f"y{t}", dist.Bernoulli(emit[x]).mask(counted), obs=seq[:, t])
                    continue
                with poutine.mask(mask=counted):
                    x = pyro.sample(f"x{t}", state)
                    pyro.sample(f"y{t}", dist.Bernoulli(emit[x]), obs=seq[:, t])
                del seen

    return program


def forward_recursion(p):
    """Log joint of p and the sequences up to their true lengths."""
    emit = torch.stack([p * 0.5, p, 1 - p])
    total = dist.Beta(torch.tensor(2.0, dtype=F), 2.0).log_prob(p)
    for row, length in zip(SEQ, LENGTHS, strict=True):
        state = torch.eye(3, dtype=F)[0]
        for value in row[:length]:
            state = (state @ MOVES) * (emit if value == 1 else 1 - emit)
        total = total + state.sum().log()
    return total


@pytest.mark.parametrize("by", ["mask of the statement", "mask of the distribution"])
def test_masked_states_are_no_factor(by):
    density = density_of(zoo.from_program(sequences(by), {"seq": SEQ, "lengths": LENGTHS}))
    for u in (0.3, -1.2):
        p = torch.tensor(u, dtype=F).sigmoid()
        expected = forward_recursion(p) + torch.log(p * (1 - p))
        assert float(density(torch.tensor([u], dtype=F))) == pytest.approx(
            float(expected), abs=1e-12
        )
    assert float(density(torch.tensor([0.3], dtype=F))) == pytest.approx(-5.5371, abs=5e-5)


def test_no_elbo_lies_above_the_evidence_of_masked_sequences():
    """Log evidence -4.7276 by quadrature; the flat guide and Pyro's own estimator."""
    grid = (torch.arange(4000, dtype=F) + 0.5) / 4000
    evidence = float(torch.stack([forward_recursion(p) for p in grid]).logsumexp(0)) - math.log(
        4000
    )
    assert evidence == pytest.approx(-4.7276, abs=5e-5)
    program = sequences("mask of the statement")

    def own(seq, lengths):
        a = pyro.param("a", torch.tensor(3.0), constraint=constraints.positive)
        b = pyro.param("b", torch.tensor(3.0), constraint=constraints.positive)
        pyro.sample("p", dist.Beta(a, b))

    entry = zoo.from_program(program, {"seq": SEQ, "lengths": LENGTHS}, guide=own)
    for family, steps in (("laplace", 1), ("own", 50)):
        fit = guides.fit(entry, family, seed=0, steps=steps)
        assert fit.elbo.value_nats < evidence + 4 * fit.elbo.se
        assert fit.elbo.value_nats > evidence - 0.3
        if family == "own":  # Pyro's own loss has the same states summed
            assert np.mean(fit.losses[-50:]) == pytest.approx(
                -fit.elbo.value_nats, abs=5 * np.std(fit.losses[-50:]) / 50**0.5
            )


def test_pointwise_terms_of_masked_states_are_zero():
    density = density_of(
        zoo.from_program(sequences("mask of the statement"), {"seq": SEQ, "lengths": LENGTHS})
    )
    with pytest.raises(ProgramError, match="are a chain"):
        density.pointwise({"p": torch.tensor([0.5], dtype=F)})

    def mixture(y, keep):
        m = pyro.sample("m", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        with pyro.plate("rows", 3), poutine.mask(mask=keep):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.8])))
            pyro.sample("y", dist.Normal(m[c], 1.0), obs=y)

    y, keep = torch.tensor([0.1, 0.7, 5.0], dtype=F), torch.tensor([True, True, False])
    density = density_of(zoo.from_program(mixture, {"y": y, "keep": keep}))
    m = torch.tensor([[0.3, -1.0]], dtype=F)
    rows = density.pointwise({"m": m})["y"]
    terms = dist.Normal(m, 1.0).log_prob(y[:, None]) + torch.tensor([0.2, 0.8], dtype=F).log()
    assert torch.allclose(rows, (terms.logsumexp(-1) * keep)[None], rtol=1e-7, atol=1e-12)


# -- continuous latents that no term holds -----------------------------------------------------

N = 40
X = np.linspace(-1.5, 1.5, N)
Y = 0.5 + 1.5 * X + 0.7 * np.sin(5.0 * np.arange(N))
THERE = np.arange(N) % 4 != 0


def line(x, there, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("n", N):
        pyro.sample("y", dist.Normal(a + b * x, 0.7), obs=y, obs_mask=there)


def test_missing_targets_leave_the_posterior_of_the_rows_that_are_there():
    entry = zoo.from_program(
        line, {"x": X, "there": torch.tensor(THERE), "y": np.where(THERE, Y, 0.0)}
    )
    assert any("30 of 40 entries of site 'y_unobserved'" in n for n in entry.notices)
    design = np.c_[np.ones(N), X][THERE]
    covariance = np.linalg.inv(design.T @ design / 0.49 + np.eye(2) / 25)
    mean, sd = covariance @ (design.T @ Y[THERE] / 0.49), np.sqrt(np.diag(covariance))
    assert mean == pytest.approx([0.4785, 1.6020], abs=5e-5)
    posterior = guides.draw(guides.fit(entry, "laplace", seed=0), 4000)  # exact: all is Gaussian
    for i, name in enumerate("ab"):
        draws = posterior.draws[name]
        assert abs(float(draws.mean()) - mean[i]) < 5 * sd[i] / 4000**0.5
        assert abs(float(draws.std()) / sd[i] - 1) < 5 / 8000**0.5
    missing = posterior.quantities()["y_unobserved"]
    assert missing.shape == (4000, 10)
    assert entry.quantities["y_unobserved"].dims == ("held_n",)
    at = np.c_[np.ones(N), X][~THERE]
    predicted = np.sqrt(np.einsum("ij,jk,ik->i", at, covariance, at) + 0.49)
    assert np.all(np.abs(missing.mean(0).numpy() - at @ mean) < 5 * predicted / 4000**0.5)
    assert np.all(np.abs(missing.std(0).numpy() / predicted - 1) < 5 / 8000**0.5)


UNITS = torch.tensor([1.0, 2.0, 1.5, 0.0, 0.0], dtype=F)
REAL = torch.tensor([True, True, True, False, False])


def padded(mask, y=None):
    s = pyro.sample("s", dist.HalfNormal(1.0))
    with pyro.plate("d", 5), poutine.mask(mask=mask):
        z = pyro.sample("z", dist.Normal(0.0, s))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def evidence_of_three_rows():
    s = (torch.arange(20_000, dtype=F) + 0.5) * (8 / 20_000)
    v = 1 + s**2
    lp = dist.HalfNormal(torch.tensor(1.0, dtype=F)).log_prob(s) - 1.5 * torch.log(2 * math.pi * v)
    lp = lp - UNITS[:3].square().sum() / (2 * v)
    return float(lp.logsumexp(0)) + math.log(8 / 20_000)


def test_padded_units_integrate_to_one():
    """The density at fixed s, integrated over z[3] and z[4], is that of three rows."""
    density = density_of(zoo.from_program(padded, {"mask": REAL, "y": UNITS}))
    grid = torch.linspace(-9, 9, 181, dtype=F)
    pairs = torch.cartesian_prod(grid, grid)
    fixed = torch.tensor([-0.3, 0.5, 1.0, -0.2], dtype=F)
    points = torch.cat([fixed.expand(len(pairs), 4), pairs], -1)
    total = density.batch(points).logsumexp(0) + 2 * math.log(0.1)
    s = fixed[0].exp()
    three = dist.HalfNormal(torch.tensor(1.0, dtype=F)).log_prob(s) + fixed[0]
    three = three + dist.Normal(0.0, s).log_prob(fixed[1:]).sum()
    three = three + dist.Normal(fixed[1:], 1.0).log_prob(UNITS[:3]).sum()
    assert float(total) == pytest.approx(float(three), abs=1e-6)


@pytest.mark.parametrize(
    ("prior", "value"),
    [(dist.Gamma(2.0, 1.0), 0.7), (dist.Beta(2.0, 3.0), 0.4), (dist.StudentT(3.0), 0.7)],
)
def test_padded_units_of_any_support_integrate_to_one(prior, value):
    """The Jacobian of the bijection belongs to the factor of a unit that no term holds."""

    def program(mask, y):
        with pyro.plate("d", 2), poutine.mask(mask=mask):
            z = pyro.sample("z", prior)
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    data = {"mask": torch.tensor([True, False]), "y": torch.tensor([0.5, 0.0], dtype=F)}
    density = density_of(zoo.from_program(program, data))
    transform = density.sites[0].transform
    raw = transform.inv(torch.tensor(value, dtype=F))
    grid = torch.linspace(-9, 9, 1801, dtype=F)
    points = torch.stack([raw.expand(1801), grid], -1)
    total = density.batch(points).logsumexp(0) + math.log(0.01)
    one = prior.log_prob(torch.tensor(value, dtype=F))
    one = one + dist.Normal(torch.tensor(value, dtype=F), 1.0).log_prob(data["y"][0])
    one = one + transform.log_abs_det_jacobian(raw, torch.tensor(value, dtype=F))
    assert float(total) == pytest.approx(float(one), abs=1e-6)


def own_units(mask, y=None):
    loc = pyro.param("loc", torch.tensor(0.0))
    pyro.sample("s", dist.LogNormal(loc, 0.5))
    at, wide = pyro.param("at", torch.zeros(5)), pyro.param("wide", torch.tensor(0.5))
    with pyro.plate("d", 5), poutine.mask(mask=mask):
        pyro.sample("z", dist.Normal(at, wide.abs()))


def own_units_unmasked(mask, y=None):
    own_units(torch.tensor(True), y)


@pytest.mark.parametrize("guide", [own_units, own_units_unmasked])
def test_no_elbo_lies_above_the_evidence_of_padded_units(guide):
    """Log evidence -5.8945 by quadrature; a guide that masks its padding and one that does not."""
    evidence = evidence_of_three_rows()
    assert evidence == pytest.approx(-5.8945, abs=5e-5)
    entry = zoo.from_program(padded, {"mask": REAL, "y": UNITS}, guide=guide)
    for family in ("mean_field", "own") if guide is own_units else ("own",):
        fit = guides.fit(entry, family, seed=0, steps=150, patience=30)
        assert fit.elbo.value_nats < evidence + 4 * fit.elbo.se
        assert fit.elbo.value_nats > evidence - 1.5
        if family == "own":
            assert -np.mean(fit.losses[-100:]) < evidence + 0.1


def test_a_masked_prior_that_the_data_hold_stays_a_flat_prior():
    def flat(y):
        m = pyro.sample("m", dist.Normal(3.0, 0.1).mask(False))
        with pyro.plate("d", 5):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    entry = zoo.from_program(flat, {"y": UNITS})
    assert not entry.notices
    density = density_of(entry)
    expected = dist.Normal(torch.tensor(0.4, dtype=F), 1.0).log_prob(UNITS).sum()
    assert float(density(torch.tensor([0.4], dtype=F))) == pytest.approx(
        float(expected), abs=1e-12
    )


def partly(y):
    with pyro.plate("d", 5):
        with poutine.mask(mask=False):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with poutine.mask(mask=REAL):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def unused(y):
    pyro.sample("z", dist.ImproperUniform(constraints.positive, (), ()))
    pyro.sample("y", dist.Normal(pyro.sample("m", dist.Normal(0.0, 1.0)), 1.0), obs=y[0])


@pytest.mark.parametrize(
    ("program", "match"),
    [
        (partly, r"Site 'z' is masked in 5 entries, of which 2 enter no other term"),
        (unused, r"Site 'z' has a flat prior and no likelihood term depends on it"),
    ],
)
def test_what_has_no_posterior_is_refused_by_name(program, match):
    with pytest.raises(ProgramError, match=match):
        zoo.from_program(program, {"y": UNITS})


def test_minibatches_of_a_mixture_have_the_density_of_all_rows_on_average():
    """Classes are summed out before units are scaled; each unit is in one minibatch of three."""
    y = torch.randn(12, dtype=F, generator=torch.Generator().manual_seed(4))

    def mixture(y, index=None):
        m = pyro.sample("m", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        with pyro.plate("rows", 12, subsample=index):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("y", dist.Normal(m[c], 1.0), obs=y)

    density = density_of(zoo.from_program(mixture, {"y": y}, batched=["y"], minibatch=4))
    u = torch.tensor([0.8, -1.3], dtype=F)
    parts = [density.evaluate(u, {"y": y[i], "index": i}) for i in torch.randperm(12).split(4)]
    assert float(torch.stack(parts).mean()) == pytest.approx(float(density(u)), abs=1e-10)
    terms = dist.Normal(u, 1.0).log_prob(y[:, None]) + torch.tensor([0.3, 0.7], dtype=F).log()
    prior = dist.Normal(torch.zeros(2, dtype=F), 2.0).log_prob(u).sum()
    assert float(density(u)) == pytest.approx(float(terms.logsumexp(-1).sum() + prior), abs=1e-6)
