"""The Dirichlet guide: density, draws, their gradient, and bounds in the right order."""

import numpy as np
import pytest
import torch
from torch.distributions import Dirichlet, biject_to, constraints

import guides
import zoo
from guides.base.cavi_lda import _begin, _pass, ascend, bound, log_means
from guides.contract import checks
from guides.families.dirichlet import DirichletGuide, log_gamma
from zoo.density.log_density import LogDensity
from zoo.errors import FitError
from zoo.models.topics._topics import counts_of


@pytest.fixture(scope="module")
def exact():
    entry = zoo.load("lda_exact")
    data = entry.load_data()
    return entry, data, LogDensity(entry.program(data), data)


@pytest.fixture(scope="module")
def guide(exact):
    made = DirichletGuide(exact[2], starts=2, refine=False)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, dtype=p.dtype, generator=generator))
    return made


def test_log_q_is_the_dirichlet_density_times_the_jacobian(exact, guide):
    density = exact[2]
    u = torch.randn(
        6, density.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    simplex = biject_to(constraints.simplex)
    expected = torch.zeros(6, dtype=torch.float64)
    for s in density.sites:
        raw = s.part(u)
        value = simplex(raw)
        expected += Dirichlet(guide.concentration(s.name)).log_prob(value).sum(
            -1
        ) + simplex.log_abs_det_jacobian(raw, value).sum(-1)
    torch.testing.assert_close(guide.log_prob_flat(u), expected.detach(), rtol=1e-9, atol=1e-9)


def test_draws_have_the_moments_of_dirichlets(exact, guide):
    number = 20_000
    noise = torch.randn(number, guide.noise_dim, generator=torch.Generator().manual_seed(2))
    u = guide.sample(noise.to(torch.float64))[0].detach()
    for name, value in exact[2].constrain(u).items():
        q = Dirichlet(guide.concentration(name).detach())
        z = (value.mean(0) - q.mean) / (q.variance / number).sqrt()
        assert z.abs().max() < 5
        assert (value.var(0) / q.variance - 1).abs().max() < 0.1


def test_entropy_is_minus_the_mean_log_density(guide):
    with torch.no_grad():
        _, log_q = guide.sample(
            torch.randn(
                20_000,
                guide.noise_dim,
                dtype=torch.float64,
                generator=torch.Generator().manual_seed(3),
            )
        )
        assert abs(float(log_q.mean() + guide.entropy())) < 5 * float(log_q.std()) / 20_000**0.5


def test_gradient_of_the_draws_equals_differences():
    a = torch.tensor([0.3, 1.0, 4.0, 50.0], dtype=torch.float64, requires_grad=True)
    z1, z2 = (
        torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(s))
        for s in (1, 2)
    )
    (slope,) = torch.autograd.grad(log_gamma(a, z1, z2).sum(), a)
    step = 1e-5 * a.detach()
    with torch.no_grad():
        difference = (log_gamma(a + step, z1, z2) - log_gamma(a - step, z1, z2)) / (2 * step)
    # torch's series are accurate to 1e-4
    torch.testing.assert_close(slope, difference, rtol=1e-3, atol=1e-6)


def test_every_pass_raises_the_bound_and_the_bound_is_the_expectation_with_explicit_token_topics(
    exact,
):
    _, data, _ = exact
    counts = counts_of(data.train, 5)
    beta, alpha = (
        torch.full((2, 5), 0.5, dtype=torch.float64),
        torch.full((3, 2), 1.0, dtype=torch.float64),
    )
    state, values = _begin(counts, beta, alpha, torch.Generator().manual_seed(0)), []
    for _ in range(30):
        state = _pass(counts, state, beta, alpha)
        values.append(bound(counts, *state, beta, alpha))
    assert (np.diff(values) > -1e-9).all()
    # [document, topic, word]
    both = log_means(state.mixtures)[:, :, None] + log_means(state.topics)[None]
    r = both.softmax(1)
    fit = (counts[:, None] * r * (both - r.log())).sum()  # E log p(words, z | .) - E log q(z)
    kl = torch.distributions.kl_divergence
    apart = (
        kl(Dirichlet(state.topics), Dirichlet(beta)).sum()
        + kl(Dirichlet(state.mixtures), Dirichlet(alpha)).sum()
    )
    assert values[-1] == pytest.approx(float(fit - apart), abs=1e-9)


def test_bounds_are_in_order(exact):
    """Classical bound <= ELBO with tokens summed out <= refined ELBO <= log evidence."""
    entry, data, _ = exact
    truth = entry.exact(data).log_evidence
    beta, alpha = (
        torch.full((2, 5), 0.5, dtype=torch.float64),
        torch.full((3, 2), 1.0, dtype=torch.float64),
    )
    classical = ascend(
        counts_of(data.train, 5), beta, alpha, torch.Generator().manual_seed(0)
    ).bound
    plain = guides.fit(entry, "dirichlet", seed=0, refine=False).elbo
    refined = guides.fit(entry, "dirichlet", seed=0).elbo
    assert classical < plain.value_nats - 3 * plain.se
    assert plain.value_nats < refined.value_nats - 3 * (plain.se + refined.se)
    assert refined.value_nats < truth - 3 * refined.se


def test_another_program_is_refused():
    with pytest.raises(FitError, match="topic program"):
        guides.fit(zoo.load("coin"), "dirichlet")


def test_contract(exact):
    results = {c.name: c.run() for c in checks(exact[0], "dirichlet")}
    assert all(r.status != "failed" for r in results.values()), results


def test_the_ascent_ends_at_the_fixed_point_of_its_two_updates():
    """Two words, two topics: both equations by hand, and what the sums have to be."""
    counts = torch.tensor([[6.0, 1.0], [0.0, 5.0], [4.0, 4.0]], dtype=torch.float64)
    beta = torch.tensor([[0.5, 0.7], [0.9, 0.4]], dtype=torch.float64)
    alpha = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    found = ascend(counts, beta, alpha, torch.Generator().manual_seed(0), starts=4)
    assert found.converged
    # every token belongs to one topic, so that the sums are those of priors and tokens
    torch.testing.assert_close(found.mixtures.sum(1), alpha.sum() + counts.sum(1))
    torch.testing.assert_close(found.topics.sum(), beta.sum() + counts.sum())
    mixture, topic = (
        (c.digamma() - c.sum(1, keepdim=True).digamma()).exp()
        for c in (found.mixtures, found.topics)
    )
    share = mixture[:, :, None] * topic[None]  # [document, topic, word]
    tokens = counts[:, None, :] * share / share.sum(1, keepdim=True)
    torch.testing.assert_close(found.mixtures, alpha + tokens.sum(2), rtol=1e-3, atol=0)
    torch.testing.assert_close(found.topics, beta + tokens.sum(0), rtol=1e-3, atol=0)
