"""Natural-gradient steps, on log densities whose best normals are known in closed form."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import guides
import zoo
from guides.base.flat import Start
from guides.families.full_rank import WhitenedFullRank
from guides.families.low_rank import WhitenedLowRank
from guides.families.mean_field import WhitenedMeanField
from guides.optimize import natural as module
from guides.optimize.natural import natural
from guides.types import FitConfig
from zoo.errors import UsageError

F = torch.float64
CONFIG = FitConfig(optimizer="natural")


class Density:
    """A log density of the vector, as far as the optimizer asks for it."""

    dtype = F

    def __init__(self, function):
        self.function, self.calls, self.gradients = function, [], 0

    def batch_gradient(self, u):
        self.calls.append(u.detach().clone())
        self.gradients += len(u)
        x = u.detach().requires_grad_(True)
        value = self.function(x)
        return value.detach(), torch.autograd.grad(value.sum(), x)[0]

    def nonfinite_sites(self, u):
        return f"site 'x' ({float(u[0]):.2f})"


def start(dim, loc=0.0, scale=1.0):
    tril = scale * torch.eye(dim, dtype=F)
    return Start(loc=torch.full((dim,), loc, dtype=F), scale=tril.diagonal().clone(), factor=tril)


def skewed_start(dim):
    generator = torch.Generator().manual_seed(1)
    tril = torch.randn(dim, dim, dtype=F, generator=generator).tril()
    tril.diagonal().abs_().add_(0.5)
    covariance = tril @ tril.T
    loc = torch.randn(dim, dtype=F, generator=generator)
    return Start(loc=loc, scale=covariance.diagonal().sqrt(), factor=tril)


def low_rank(begin, rank):
    class Guide(torch.nn.Module):
        pass

    guide = Guide()
    guide.rank = rank
    return WhitenedLowRank(guide, begin)


def moments(guide):
    """Mean and covariance of a guide over u, from its own draws' formulas."""
    with torch.no_grad():
        if isinstance(guide, WhitenedMeanField):
            loc, scale = guide._moments()
            return loc, torch.diag(scale.square())
        if isinstance(guide, WhitenedLowRank):
            loc, factor, scale = guide._pieces()
            return loc, factor @ factor.T + torch.diag(scale.square())
        factor = torch.diag(guide.log_scale.exp()) + guide.lower.tril(-1)
        factor = guide.tril @ factor
        return guide.origin + guide.tril @ guide.shift, factor @ factor.T


def run(function, guide, seed=0, config=CONFIG, progress=None):
    density = Density(function)
    found = natural(density, guide, config, torch.Generator().manual_seed(seed), progress)
    assert found.gradients == density.gradients
    return found.outcome, density


# -- normal posteriors ---------------------------------------------------------------------------

MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=F)
SPREAD = torch.tensor([[2.0, 0.0, 0.0], [1.5, 0.7, 0.0], [-0.3, 0.4, 0.1]], dtype=F)
COVARIANCE = SPREAD @ SPREAD.T


def normal_density(u):
    return torch.distributions.MultivariateNormal(MEAN, scale_tril=SPREAD).log_prob(u)


def test_a_full_covariance_is_exact_on_a_normal():
    guide = WhitenedFullRank(None, skewed_start(3))
    outcome, _ = run(normal_density, guide)
    loc, covariance = moments(guide)
    sds = COVARIANCE.diagonal().sqrt()
    assert float(((loc - MEAN) / sds).abs().max()) < 0.02
    apart = (covariance - COVARIANCE) / (sds[:, None] * sds)
    assert float(apart.abs().max()) < 0.02
    assert outcome.stop.status == "ok"
    assert outcome.stop.sentence.startswith("Settled: the average of the last ")
    assert len(outcome.losses) == outcome.stop.step < 100
    np.testing.assert_allclose(outcome.losses[-1], 0.0, atol=1e-3)  # log p - log q


def test_independent_normals_have_the_roots_of_the_inverse_precision():
    guide = WhitenedMeanField(None, skewed_start(3))
    outcome, _ = run(normal_density, guide)
    loc, covariance = moments(guide)
    precision = COVARIANCE.inverse()
    scale = precision.diagonal().rsqrt()
    torch.testing.assert_close(covariance.diagonal().sqrt(), scale, rtol=0.03, atol=0)
    assert float(((loc - MEAN) / scale).abs().max()) < 0.05
    lost = 0.5 * float(precision.diagonal().log().sum() - precision.logdet())
    assert outcome.losses[-10:].mean() == pytest.approx(lost, abs=0.6)


def test_few_factors_are_exact_where_they_suffice():
    weights = torch.tensor([[1.0], [-0.5], [2.0], [0.3]], dtype=F)
    covariance = weights @ weights.T + torch.diag(torch.tensor([0.5, 1.0, 0.2, 2.0], dtype=F))
    mean = torch.arange(4.0, dtype=F)

    def density(u):
        return torch.distributions.MultivariateNormal(mean, covariance).log_prob(u)

    guide = low_rank(skewed_start(4), 1)
    outcome, _ = run(density, guide)
    loc, found = moments(guide)
    assert outcome.stop.status == "ok"
    torch.testing.assert_close(found, covariance, atol=0.01, rtol=0)
    torch.testing.assert_close(loc, mean, atol=0.01, rtol=0)


# -- another posterior: u = log x with x ~ Gamma(a, b) -------------------------------------------
# E_q[a u - b exp u] = a m - b exp(m + s^2 / 2), so that s^2 = 1 / a, m = log(a / b) - 1 / (2 a)


def log_gamma(a, b):
    return lambda u: (a * u - b * u.exp()).sum(-1)


@pytest.mark.parametrize("kind", [WhitenedFullRank, WhitenedMeanField])
@pytest.mark.parametrize(("a", "b", "skewed"), [(4.0, 2.0, False), (1.0, 30.0, True)])
def test_the_best_normal_of_a_log_gamma(kind, a, b, skewed):
    guide = kind(None, start(2, loc=1.0, scale=0.5))
    outcome, _ = run(log_gamma(a, b), guide)
    loc, covariance = moments(guide)
    sd = a**-0.5
    assert outcome.stop.status == ("not_converged" if skewed else "ok")
    assert ("far from quadratic under this guide (" in outcome.stop.sentence) is skewed
    assert float((loc - math.log(a / b) + 0.5 / a).abs().max()) < 4 * module.ERROR * sd
    assert float((covariance.diagonal().sqrt() / sd).log().abs().max()) < 4 * module.ERROR
    assert abs(float(covariance[0, 1])) < 0.1 * sd**2


def test_the_error_that_is_stated_is_that_of_the_answer():
    """The means of twenty fits scatter as the standard error says, within a factor of two."""
    a, b = 4.0, 3.0
    errors, stated = [], []
    for seed in range(20):
        guide = WhitenedFullRank(None, start(1))
        outcome, _ = run(log_gamma(a, b), guide, seed=seed)
        errors.append(float(moments(guide)[0][0]) - math.log(a / b) + 0.5 / a)
        stated.append(float(outcome.stop.sentence.split("within ")[1].split(" sd")[0]))
    assert np.sqrt(np.mean(np.square(errors))) < 2 * np.mean(stated)
    assert max(stated) <= module.ERROR


# -- the estimates of one step -------------------------------------------------------------------


def state_of(guide, precision):
    zero = torch.zeros(guide.dim, dtype=F)
    state = module._State(guide, zero, precision, precision)
    state.set(zero, precision, precision)
    return state


def test_estimates_have_no_noise_where_the_precision_is_right():
    guide = WhitenedFullRank(None, skewed_start(3))
    tril, origin = guide.tril, guide.origin
    right = tril.T @ COVARIANCE.inverse() @ tril
    state = state_of(guide, right)
    half = torch.randn(4, 3, dtype=F, generator=torch.Generator().manual_seed(0))
    found = module._estimate(Density(normal_density), state, half)
    slope = (tril @ state.factor).T @ COVARIANCE.inverse() @ (MEAN - origin)
    torch.testing.assert_close(found.slope, slope)
    torch.testing.assert_close(found.base, torch.eye(3, dtype=F))
    assert float(found.change.abs().max()) < 1e-10
    assert found.noise < 1e-6
    assert found.slope_noise < 1e-6


def test_estimates_are_those_of_bonnet_and_price():
    """f = -u^4 / 4: E f' = -(m^3 + 3 m s^2), E f'' = -3 (m^2 + s^2)."""
    loc, sd, precision = 0.7, 0.5, 2.5
    guide = WhitenedFullRank(None, start(1, loc=loc, scale=sd))
    state = state_of(guide, torch.full((1, 1), precision, dtype=F))
    half = torch.randn(400_000, 1, dtype=F, generator=torch.Generator().manual_seed(0))
    found = module._estimate(Density(lambda u: -(u**4).sum(-1) / 4), state, half)
    variance = sd**2 / precision
    slope = -(loc**3 + 3 * loc * variance) * math.sqrt(variance)
    bend = 3 * (loc**2 + variance) * variance  # of -f, in units of q
    assert float(found.slope[0]) == pytest.approx(slope, abs=5 * found.slope_noise)
    assert float(found.change[0, 0]) == pytest.approx(bend - 1.0, abs=0.01)
    assert found.noise == pytest.approx(0.5**0.5 * _spread(half, loc, variance), rel=0.02)
    fourth = loc**4 + 6 * loc**2 * variance + 3 * variance**2
    entropy = 0.5 * math.log(2 * math.pi * math.e * variance)
    assert found.loss == pytest.approx(fourth / 4 - entropy, abs=0.01)


def _spread(half, loc, variance):
    s = math.sqrt(variance)
    x = half[:, 0]
    odd = 0.5 * (-((loc + s * x) ** 3) + (loc - s * x) ** 3) * s
    return float(((odd + x) * x).std()) / math.sqrt(len(x))


def test_a_step_moves_by_its_rates_and_says_what_is_left():
    """One dimension, P = 1, -E f'' = 1.5, E f' = 0.3, half of the way: P = 1.25, m = 0.5 0.24."""
    guide = WhitenedFullRank(None, start(1))
    state = state_of(guide, torch.eye(1, dtype=F))
    state.draws.append(16)
    one = torch.eye(1, dtype=F)
    found = module._Estimate(
        loss=7.0,
        slope=torch.tensor([0.3], dtype=F),
        base=one,
        change=0.5 * one,
        slope_noise=0.1,
        noise=0.2,
        relative_noise=0.4,
    )
    module._step(state, found, module._Rates(mean=0.5, curvature=0.5, precision=0.5))
    assert float(state.precision) == pytest.approx(1.25)
    assert float(state.mean) == pytest.approx(0.5 * 0.3 / 1.25)
    assert float(state.factor) == pytest.approx(1.25**-0.5)
    left = [0.3 / 1.25, math.log(1.25**-0.5) / 0.5]  # sds, log sds
    assert state.left[0].tolist() == pytest.approx(left)
    apart = (1 / 1.25 - 1) / 0.5
    assert state.nats == pytest.approx([0.5 * 0.3 * 0.3 / 1.25 + 0.25 * apart**2])
    assert state.curved[0] == pytest.approx((0.1 * 8**0.5, 0.2 * 16**0.5, 8))
    assert (state.losses, state.clipped) == ([7.0], [False])


def test_noise_is_mirrored_and_in_the_coordinates_of_the_start():
    guide = WhitenedFullRank(None, start(2, loc=3.0, scale=2.0))
    density = Density(lambda u: -0.5 * u.square().sum(-1))
    half = torch.tensor([[1.0, -0.5], [0.0, 2.0]], dtype=F)
    module._estimate(density, state_of(guide, torch.eye(2, dtype=F)), half)
    assert density.calls[0].tolist() == [[5.0, 2.0], [3.0, 7.0], [1.0, 4.0], [3.0, -1.0]]


# -- ends ----------------------------------------------------------------------------------------


def test_a_density_that_is_not_finite_ends_the_fit_with_its_site():
    def density(u):
        return torch.where(u[:, 0] > 1.5, torch.nan, -0.5 * (u - 1.0).square().sum(-1))

    guide = WhitenedFullRank(None, start(1, loc=-2.0, scale=0.1))
    outcome, _ = run(density, guide)
    assert outcome.stop.status == "nan"
    assert outcome.stop.step == len(outcome.losses) + 1
    assert "is not finite, at site 'x' (" in outcome.stop.sentence
    assert outcome.stop.sentence.endswith("; the last finite parameters are kept.")
    loc, covariance = moments(guide)
    assert bool(torch.isfinite(loc).all())
    assert bool(torch.isfinite(covariance).all())


def normal_like(u):
    return -0.5 * u.square().sum(-1)


def test_a_search_that_is_cut_short_says_so():
    guide = WhitenedFullRank(None, start(1, loc=30.0))
    outcome, density = run(normal_like, guide, config=FitConfig(steps=3, optimizer="natural"))
    assert (len(outcome.losses), density.gradients) == (3, 3 * module.DRAWS)
    assert outcome.stop.status == "not_converged"
    said = "The budget of 3 natural-gradient steps ended during the search."
    assert outcome.stop.sentence == said


def test_no_more_draws_than_the_budget_are_taken(monkeypatch):
    monkeypatch.setattr(module, "BUDGET", 100)
    guide = WhitenedFullRank(None, start(1, loc=30.0))
    outcome, density = run(normal_like, guide)
    assert density.gradients == 96
    assert len(outcome.losses) == 6


def ended(left, number=20):
    """A state after steps that all say the same but for a little noise."""
    guide = WhitenedFullRank(None, start(1))
    state = state_of(guide, torch.eye(1, dtype=F))
    for i in range(number):
        state.left.append(torch.tensor([left + 0.01 * (-1) ** i, 0.0], dtype=F))
        state.nats.append(0.001)
        state.draws.append(16)
        state.losses.append(1.0)
        state.path.append((torch.tensor([float(i)], dtype=F), (1.0 + i) * torch.eye(1, dtype=F)))
    return state


def test_a_budget_that_ends_while_the_guide_moves_is_not_converged():
    stop = module._out_of_steps(ended(0.3))
    assert stop.status == "not_converged"
    assert stop.sentence == (
        "The budget of 20 natural-gradient steps ended while still moving: the last 12 steps say"
        " that 0.3 sd are left to go."
    )
    stop = module._out_of_steps(ended(0.01))
    assert stop.status == "ok"
    assert stop.sentence.startswith("The budget ended: the average of the last 12 of 20 ")


def test_what_moves_has_not_settled():
    assert module._done(ended(0.3)) is None
    assert module._done(ended(0.01)).status == "ok"
    assert module._done(ended(0.01, number=18)) is None, "eleven steps are averaged"


@pytest.mark.parametrize(
    ("field", "value"), [("nats", 0.5), ("left", 0.06)], ids=["cost", "standard error"]
)
def test_an_average_that_is_not_known_well_has_not_settled(field, value):
    state = ended(0.0)
    for i in range(20):
        if field == "nats":
            state.nats[i] = value
        else:
            state.left[i] = torch.tensor([value * (-1) ** i, 0.0], dtype=F)
    assert module._done(state) is None


def test_an_error_of_two_percent_suffices_after_two_thousand_draws():
    state = ended(0.0)
    for i in range(20):
        state.left[i] = torch.tensor([0.05 * (-1) ** i, 0.0], dtype=F)  # 0.015 for twelve steps
    assert module._done(state) is None
    state.draws = [100] * 20
    assert module._done(state).status == "ok"


def test_the_answer_is_the_average_by_draws():
    state = ended(0.0, number=5)
    state.draws = [1, 1, 2, 2, 4]  # six tenths of ten draws: the last two
    assert state.last == 2
    assert state.weights(2).tolist() == [1 / 3, 2 / 3]
    outcome = module._outcome(state, module._out_of_steps(state))
    assert float(state.guide.shift.detach()) == pytest.approx((3 + 2 * 4) / 3)
    assert float(state.guide.log_scale.detach().exp()) == pytest.approx(((4 + 2 * 5) / 3) ** -0.5)
    assert outcome.losses.tolist() == [1.0] * 5


def test_the_same_seed_gives_the_same_fit_and_another_another():
    first, second, other = (
        run(log_gamma(1.0, 3.0), WhitenedFullRank(None, start(2)), seed=seed)[0].losses
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first[:5], other[:5])


def test_steps_of_the_average_are_short_where_there_is_noise(monkeypatch):
    seen, drawn, step = [], [], module._step

    def watched(state, found, rates):
        seen.append((bool(state.path), found.noise, rates))
        drawn.append((len(state.path), state.draws[-1]))
        step(state, found, rates)

    monkeypatch.setattr(module, "_step", watched)
    run(log_gamma(2.0, 3.0), WhitenedFullRank(None, start(2)))
    averaged = [(noise, rates) for begun, noise, rates in seen if begun]
    assert any(noise >= module.QUIET for noise, _ in averaged)
    for noise, rates in averaged:
        most = module.FASTEST if noise < module.QUIET else module.RATE
        assert max(rates.mean, rates.curvature, rates.precision) <= most
    assert max(number for number, _ in drawn) > 48
    assert all(size == 16 * 2 ** (number // 24) for number, size in drawn)
    searched = [(noise, rates.curvature) for begun, noise, rates in seen if not begun]
    assert max(rate for _, rate in searched) > module.RATE
    for noise, rate in searched[:-1]:  # steps of a third of what noise allows, at most 0.7
        assert rate == pytest.approx(min(0.7, 0.35 / noise))


def test_progress_is_told_every_step():
    told = []
    guide = WhitenedFullRank(None, start(1))
    outcome, _ = run(normal_like, guide, progress=lambda *seen: told.append(seen))
    assert [t[0] for t in told] == list(range(1, len(outcome.losses) + 1))
    assert {t[1] for t in told} == {CONFIG.steps}
    assert [t[2] for t in told] == outcome.losses.tolist()


def test_draws_double_where_noise_keeps_the_search_from_settling(monkeypatch):
    """A gradient with a noise of its own, which no precision explains."""
    stream = torch.Generator().manual_seed(0)

    class Noisy(Density):
        def batch_gradient(self, u):
            value, gradient = super().batch_gradient(u)
            return value, gradient + 3.0 * torch.randn(u.shape, dtype=F, generator=stream)

    density = Noisy(lambda u: -0.5 * u.square().sum(-1))
    guide = WhitenedFullRank(None, start(2))
    natural(
        density, guide, FitConfig(steps=300, optimizer="natural"), torch.Generator().manual_seed(0)
    )
    sizes = [len(u) for u in density.calls]
    assert sizes[0] == module.DRAWS
    assert sizes == sorted(sizes)
    assert sizes[-1] == module.MOST_DRAWS


# -- posteriors that are far from normal, and none ------------------------------------------------


def curved_valley():
    a = pyro.sample("a", dist.Normal(torch.ones((), dtype=F), 0.5**0.5))
    pyro.sample("b", dist.Normal(a**2, 0.1 * 0.5**0.5))


def funnel():
    v = pyro.sample("v", dist.Normal(torch.zeros((), dtype=F), 3.0))
    pyro.sample("x", dist.Normal(torch.zeros(3, dtype=F), (v / 2).exp()).to_event(1))


def tails():
    pyro.sample("x", dist.StudentT(torch.tensor(2.0, dtype=F), 0.0, 1.0))


@pytest.mark.parametrize("program", [curved_valley, funnel, tails])
@pytest.mark.parametrize("family", ["full_rank", "mean_field"])
def test_far_from_normal_natural_gradients_leave_the_fit_to_adam(program, family):
    entry = zoo.from_program(program, {}, name=program.__name__)
    short = {"steps": 60, "patience": 10, "compile": "off"}
    fit = guides.fit(entry, family, seed=1, **short)
    assert "natural-gradient" not in fit.stop.sentence
    assert 40 <= fit.cost.steps <= 60
    assert fit.cost.gradient_evaluations > 64 * fit.cost.steps + module.WINDOW * module.DRAWS
    adam = guides.fit(entry, family, seed=1, optimizer="adam", **short)
    np.testing.assert_array_equal(fit.losses, adam.losses)  # start and noise are the same
    asked = guides.fit(entry, family, seed=1, optimizer="natural", compile="off")
    assert asked.stop.status == "not_converged"
    assert "far from quadratic" in asked.stop.sentence


def test_the_best_normal_of_a_curved_valley_is_found():
    """a ~ N(1, 1/2), b ~ N(a^2, 1/200): quadrature of the ELBO gives E_q a = 1 and -1.109."""
    entry = zoo.from_program(curved_valley, {}, name="valley")
    fit = guides.fit(entry, "full_rank", seed=0, compile="off")
    assert float(fit.guide.loc[0]) == pytest.approx(1.0, abs=0.1)
    assert fit.elbo.value_nats == pytest.approx(-1.109, abs=0.03 + 3 * fit.elbo.se)


def test_a_step_that_cannot_be_computed_leaves_the_fit_to_adam(rows, monkeypatch):
    def fail(*given):
        raise torch.linalg.LinAlgError("linalg.cholesky: not positive-definite (order 2)")

    monkeypatch.setattr(module, "_step", fail)
    fit = guides.fit(rows, "full_rank", compile="off", steps=60, patience=10)
    assert fit.ok
    assert "natural" not in fit.stop.sentence
    asked = guides.fit(rows, "full_rank", compile="off", optimizer="natural")
    assert asked.stop.status == "nan"
    assert asked.stop.sentence == (
        "A step of natural gradients cannot be computed: linalg.cholesky: not positive-definite."
    )


def test_a_density_without_a_width_has_not_settled():
    """Flat along a + b = constant: the precision falls as fast as it may."""
    guide = WhitenedFullRank(None, start(2))
    outcome, _ = run(lambda u: -0.5 * u.sum(-1).square(), guide)
    assert outcome.stop.status in ("nan", "not_converged")


# -- which fits use it ---------------------------------------------------------------------------


def pair(y, index=None):
    m = pyro.sample("m", dist.Normal(torch.zeros(2, dtype=F), 1.0).to_event(1))
    with pyro.plate("row", 6, subsample=index):
        pyro.sample("y", dist.Normal(m.sum(), 1.0), obs=y)


@pytest.fixture(scope="module")
def rows():
    y = torch.linspace(-1.0, 2.0, 6, dtype=F)
    return zoo.from_program(pair, {"y": y}, name="pair", batched=["y"])


def is_natural(fit):
    return "natural-gradient" in fit.stop.sentence


@pytest.mark.parametrize("family", ["mean_field", "full_rank", "low_rank"])
def test_normals_are_fitted_by_natural_gradients(rows, family):
    fit = guides.fit(rows, family, compile="off")
    assert is_natural(fit)
    assert fit.stop.status == "ok"
    assert fit.config.optimizer == "auto"
    assert fit.cost.steps == len(fit.losses)
    mean = fit.guide.loc.detach()
    assert mean.tolist() == pytest.approx([3.0 / 13.0] * 2, abs=0.05)


def test_gradients_are_those_of_start_and_steps(rows):
    from guides.base.initialize import find_start
    from zoo.density.log_density import LogDensity
    from zoo.seeds import derive_seed

    fit = guides.fit(rows, "full_rank", compile="off", steps=4)
    data = rows.load_data()
    density = LogDensity(rows.program(data), data)
    seed = derive_seed(0, rows.key, "full_rank", "start", 0)
    begun = find_start(density, torch.Generator().manual_seed(seed))
    assert fit.cost.gradient_evaluations == begun.gradients + 4 * module.DRAWS


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam"},
        {"lr": 0.04},
        {"final_lr": 0.002},
        {"num_particles": 8},
        {"clip_norm": 10.0},
        {"tail": 0.5},
        {"anneal": 30},
        {"batch_size": 3},
        {"objective": "elbo_plain"},
    ],
    ids=str,
)
def test_adam_where_it_is_meant(rows, settings):
    fit = guides.fit(rows, "mean_field", compile="off", steps=50, patience=10, **settings)
    assert not is_natural(fit)


def test_adam_above_the_largest_dimension(rows, monkeypatch):
    monkeypatch.setattr("guides.fitting.LARGEST", 1)
    assert not is_natural(guides.fit(rows, "mean_field", compile="off", steps=50, patience=10))


@pytest.mark.parametrize(
    ("family", "settings", "why"),
    [
        ("flow", {}, "flow is no normal"),
        ("mean_field", {"batch_size": 3}, "its steps take minibatches of 3"),
        ("mean_field", {"objective": "elbo_plain"}, "the objective is elbo_plain"),
    ],
)
def test_where_natural_gradients_do_not_apply_the_reason_is_said(rows, family, settings, why):
    with pytest.raises(UsageError) as error:
        guides.fit(rows, family, optimizer="natural", compile="off", **settings)
    assert str(error.value) == (
        f"optimizer='natural' does not apply to this fit: {why}; accepted: adam, auto."
    )


def test_they_are_taken_with_a_setting_of_adam_if_asked_for(rows):
    fit = guides.fit(rows, "mean_field", optimizer="natural", lr=0.3, compile="off")
    assert is_natural(fit)


def test_calls_for_the_decision_to_compile_count_the_draws_of_a_step_together(rows):
    from zoo.compiler.policy import Work

    class Sized:
        def __init__(self, operations, numbers):
            self.operations, self.numbers = operations, numbers

        def work(self):
            return Work(self.operations, self.numbers)

    assert module.expected_calls(Sized(100, 0)) == module.STEPS
    assert module.expected_calls(Sized(0, 1000)) == module.STEPS * module.DRAWS
