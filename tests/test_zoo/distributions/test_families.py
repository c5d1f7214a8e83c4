"""Univariate and multivariate distributions beside scipy, sums over all values and dense forms."""

import itertools

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from zoo.distributions.circular import WrappedNormal
from zoo.distributions.multivariate import (
    LevelShift,
    MarginalRegression,
    RootNormal,
    SequentialBernoulli,
    WordCounts,
)
from zoo.distributions.univariate import CensoredWeibull, HalfStudentT, PositiveNormal

N = 20_000


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


X = torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2).cos()
ROOT = torch.tensor([[1.5, 0.0, 0.0], [0.4, 0.8, 0.0], [-0.3, 0.2, 2.0]], dtype=torch.float64)
WEIGHT = torch.tensor([[9.0, 9.0, 9.0], [1.2, 9.0, 9.0], [-0.7, 0.5, 9.0]], dtype=torch.float64)


def every():
    """One of each, with a batch of two."""
    two = t(0.5, 1.5)
    return {
        "positive normal": PositiveNormal(t(-0.5, 1.0), two),
        "half Student t": HalfStudentT(t(3.0, 8.0), two),
        "censored Weibull": CensoredWeibull(t(0.3, -0.2), t(1.7, 0.8), t(1.5, 1.0)),
        "wrapped normal": WrappedNormal(t(0.2, -1.0), two),
        "marginal regression": MarginalRegression(X, X.T @ X, t(1.0, 2.0).expand(2, 2), two),
        "sequential Bernoulli": SequentialBernoulli(t(0.3, -0.2, 0.1).expand(2, 3), WEIGHT),
        "word counts": WordCounts(t(0.2, 0.3, 0.5).expand(2, 3), t(4.0, 7.0)),
        "root normal": RootNormal(torch.zeros(2, 3).double(), ROOT, ROOT.logdet().expand(2)),
        "level shift": LevelShift(t(0.0, 2.0).expand(2, 2), two, 4),
    }


@pytest.mark.parametrize("name", every())
def test_shapes_supports_and_batches(name):
    d = every()[name]
    assert d.batch_shape == (2,)
    assert d.support.event_dim == len(d.event_shape)
    torch.manual_seed(0)
    for shape in ((), (3,), (3, 4)):
        x = d.sample(shape)
        assert x.shape == (*shape, 2, *d.event_shape)
        assert x.dtype == torch.float64
        assert d.log_prob(x).shape == (*shape, 2)
        assert d.support.check(x).all()
    if name == "marginal regression":
        return
    wide = d.expand((3, 2))
    assert wide.batch_shape == (3, 2)
    assert wide.event_shape == d.event_shape
    y = wide.sample()
    torch.testing.assert_close(wide.log_prob(y), torch.stack([d.log_prob(row) for row in y]))


class Half:
    """The absolute value of scipy's Student t."""

    def __init__(self, df, scale):
        self.whole = stats.t(df, 0, scale)

    def logpdf(self, x):
        return np.log(2) + self.whole.logpdf(x)

    def cdf(self, x):
        return 2 * self.whole.cdf(x) - 1


@pytest.mark.parametrize(
    ("made", "known"),
    [
        (PositiveNormal(t(-0.5), t(1.3)), stats.truncnorm(0.5 / 1.3, np.inf, -0.5, 1.3)),
        (PositiveNormal(t(2.0), t(0.7)), stats.truncnorm(-2 / 0.7, np.inf, 2.0, 0.7)),
        (HalfStudentT(t(3.0), t(1.5)), Half(3.0, 1.5)),
    ],
)
def test_priors_on_the_half_line(made, known):
    grid = np.linspace(0.01, 6, 50)
    found = made.log_prob(torch.tensor(grid)[:, None])[:, 0]
    np.testing.assert_allclose(found, known.logpdf(grid))
    torch.manual_seed(1)
    draws = made.sample((N,))[:, 0].numpy()
    assert stats.kstest(draws, known.cdf).pvalue > 1e-3


def test_a_censored_time_has_a_density_below_the_limit_and_a_mass_at_it():
    d = CensoredWeibull(t(0.3), t(1.7), t(1.5))
    known = stats.weibull_min(1.7, scale=np.exp(0.3))
    grid = torch.linspace(0.05, 1.45, 20, dtype=torch.float64)
    np.testing.assert_allclose(d.log_prob(grid[:, None])[:, 0], known.logpdf(grid))
    assert float(d.log_prob(t(1.5))) == pytest.approx(known.logsf(1.5))
    assert d.atoms.tolist() == [[1.5]]
    assert not d.support.is_discrete
    below = integrate.quad(lambda x: float(d.log_prob(t(x)).exp()), 0, 1.5)[0]
    assert below + known.sf(1.5) == pytest.approx(1.0, abs=1e-8)
    torch.manual_seed(2)
    draws = d.sample((N,))[:, 0].numpy()
    assert (draws == 1.5).mean() == pytest.approx(known.sf(1.5), abs=4 * 0.5 / N**0.5)
    seen = draws[draws < 1.5]
    assert stats.kstest(seen, lambda x: known.cdf(x) / known.cdf(1.5)).pvalue > 1e-3


def test_a_sequence_of_bits_sums_to_one_and_is_drawn_as_often():
    d = SequentialBernoulli(t(0.3, -0.2, 0.1), WEIGHT)
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    probability = d.log_prob(bits).exp()
    by_hand = []
    for a, b, c in bits.tolist():
        logits = (0.3, -0.2 + 1.2 * a, 0.1 - 0.7 * a + 0.5 * b)
        steps = (stats.bernoulli(1 / (1 + np.exp(-x))).pmf for x in logits)
        by_hand.append(np.prod([p(x) for p, x in zip(steps, (a, b, c), strict=True)]))
    np.testing.assert_allclose(probability, by_hand, rtol=1e-12)
    torch.manual_seed(3)
    codes = (d.sample((N,)) @ t(4.0, 2.0, 1.0)).long()
    share = torch.bincount(codes, minlength=8) / N
    np.testing.assert_allclose(share, probability, atol=4 * 0.5 / N**0.5)
    checked = SequentialBernoulli(t(0.3, -0.2, 0.1), WEIGHT, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        checked.log_prob(t(0.0, 0.5, 1.0))


def test_word_counts_are_multinomials():
    p = np.array([0.2, 0.3, 0.5])
    d = WordCounts(torch.tensor(p), t(5.0))
    counts = [c for c in itertools.product(range(6), repeat=3) if sum(c) == 5]
    found = d.log_prob(torch.tensor(counts, dtype=torch.float64))
    np.testing.assert_allclose(found, stats.multinomial(5, p).logpmf(counts), rtol=1e-10)
    assert float(found.exp().sum()) == pytest.approx(1.0)
    other = torch.tensor(
        [[1.0, 1.0, 0.0]], dtype=torch.float64
    )  # totals are needed for draws only
    assert float(d.log_prob(other)) == pytest.approx(stats.multinomial(2, p).logpmf([1, 1, 0]))
    torch.manual_seed(4)
    draws = d.sample((N,))[:, 0]
    assert (draws.sum(-1) == 5).all()
    np.testing.assert_allclose(draws.mean(0), 5 * p, atol=0.05)
    np.testing.assert_allclose(
        np.cov(draws.numpy().T), 5 * (np.diag(p) - np.outer(p, p)), atol=0.05
    )


def test_a_root_of_the_precision_is_the_dense_normal():
    mean = t(1.0, -2.0, 0.5)
    covariance = torch.linalg.inv(ROOT @ ROOT.T)
    dense = torch.distributions.MultivariateNormal(mean, covariance)
    x = torch.randn(6, 3, dtype=torch.float64)
    for root in (ROOT, ROOT[None]):  # one root for all rows has a form of its own
        d = RootNormal(mean, root, ROOT.logdet())
        torch.testing.assert_close(d.log_prob(x), dense.log_prob(x))
    torch.manual_seed(5)
    draws = RootNormal(mean, ROOT, ROOT.logdet()).rsample((N,))
    torch.testing.assert_close(draws.mean(0), mean, atol=0.05, rtol=0)
    np.testing.assert_allclose(np.cov(draws.numpy().T), covariance, atol=0.08)


def test_a_level_shift_is_the_mean_over_all_times():
    d = LevelShift(t(0.0, 2.0), t(0.7), 4)
    x = torch.randn(5, 4, dtype=torch.float64)
    terms = []
    for c in (1, 2, 3):
        mean = np.where(np.arange(4) < c, 0.0, 2.0)
        terms.append(stats.norm(mean, 0.7).logpdf(x).sum(-1) - np.log(3))
    np.testing.assert_allclose(d.joint(x), np.stack(terms, -1))
    np.testing.assert_allclose(d.log_prob(x), np.logaddexp.reduce(terms))
    torch.manual_seed(6)
    draws = d.sample((N,))[:, 0]
    np.testing.assert_allclose(draws.mean(0), [0.0, 2 / 3, 4 / 3, 2.0], atol=0.05)
    variance = 0.49 + 4 * np.array([0, 2 / 9, 2 / 9, 0])
    np.testing.assert_allclose(draws.var(0), variance, atol=0.06)


def test_weights_are_integrated_out_of_a_regression():
    sd, sigma = t(1.0, 2.0), t(0.6).squeeze()
    d = MarginalRegression(X, X.T @ X, sd, sigma)
    covariance = X @ torch.diag(sd**2) @ X.T + 0.36 * torch.eye(5, dtype=torch.float64)
    dense = torch.distributions.MultivariateNormal(torch.zeros(5).double(), covariance)
    y = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(torch.stack([d.log_prob(row) for row in y]), dense.log_prob(y))
    torch.manual_seed(7)
    np.testing.assert_allclose(np.cov(d.sample((N,)).numpy().T), covariance, atol=0.15)
    root, white = d.posterior(y[0])  # of weight / sd: precision root root', mean inv(root') white
    scaled = X * sd / sigma
    precision = scaled.T @ scaled + torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(root @ root.T, precision)
    mean = torch.linalg.solve(precision, scaled.T @ y[0] / sigma)
    torch.testing.assert_close(torch.linalg.solve(root.T, white) / sigma, mean)
