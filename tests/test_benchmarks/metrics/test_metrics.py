"""Every metric against independently known numbers; planted faults are caught."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from support import planting

from benchmarks import arviz_bridge
from benchmarks.metrics import components, distances, moments, predictive, weights
from benchmarks.metrics.components import Component, component_names, side
from benchmarks.metrics.joint.c2st import c2st_accuracy
from benchmarks.metrics.joint.sliced_wasserstein import sliced_wasserstein
from benchmarks.metrics.metric import METRICS
from benchmarks.metrics.numbers import rounded, value_with_error
from benchmarks.thresholds import multiplier, pareto_threshold, rhat_limit
from benchmarks.types import ParetoK
from zoo.errors import UsageError
from zoo.types import Data, Moments, Quantity


def independent(draws):
    return side({"x": draws[None]}, True)


def chained(draws):
    return side({"x": draws}, False)


def autoregressive(rng, n, d, rho, chains=4):
    """Stationary unit-variance chains, `[chain, draw, dim]`.

    The ESS of their mean is n (1 - rho) / (1 + rho).
    """
    x = np.empty((chains, n, d))
    x[:, 0] = rng.standard_normal((chains, d))
    noise = rng.standard_normal((chains, n, d)) * np.sqrt(1 - rho**2)
    for t in range(1, n):
        x[:, t] = rho * x[:, t - 1] + noise[:, t]
    return x


# -- labels ------------------------------------------------------------------------------------


def test_labels_come_from_coordinates_and_fall_back_to_positions():
    data = Data(train={"y": torch.zeros(1)}, coords={"school": ["A", "B"]})
    two = Quantity(fn=lambda draws, data: draws["x"], dims=("school", "other"))
    assert [c.label for c in component_names("theta", two, (2, 2), data)] == [
        "theta[A, 0]",
        "theta[A, 1]",
        "theta[B, 0]",
        "theta[B, 1]",
    ]
    assert [c.label for c in component_names("mu", Quantity(fn=two.fn), (), data)] == ["mu"]
    wrong_length = component_names("theta", Quantity(fn=two.fn, dims=("school",)), (3,), data)
    assert [c.label for c in wrong_length] == ["theta[0]", "theta[1]", "theta[2]"]


def test_labels_agree_with_those_of_the_gates():
    from benchmarks.mcmc import diagnostics

    posterior = planting.chains(np.zeros((4, 10, 3)))
    ours = [
        c.label
        for c in component_names("x", posterior.entry.quantities["x"], (3,), posterior.data)
    ]
    assert ours == diagnostics.components(posterior, lp=False)[1]


def test_a_quantity_that_drops_the_draws_is_refused():
    broken = planting.entry(2)
    object.__setattr__(
        broken, "quantities", {"x": Quantity(fn=lambda draws, data: draws["x"].mean(0))}
    )
    with pytest.raises(UsageError, match="keep the sample dimensions first"):
        components.evaluate(planting.guide(np.zeros((10, 2)), model=broken))


# -- moments and their errors ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["normal", "student"])
def test_standard_errors_of_independent_draws_match_arviz_and_the_spread_over_repetitions(kind):
    rng = np.random.default_rng(1)
    draw = (
        (lambda size: rng.standard_normal(size))
        if kind == "normal"
        else (lambda size: rng.standard_t(8, size))
    )
    one = independent(draw((4000, 6)))
    own = np.stack([one.mean_se, one.sd_se])
    theirs = np.stack([arviz_bridge.mcse_mean(one.draws), arviz_bridge.mcse_sd(one.draws)])
    assert np.allclose(own, theirs, rtol=0.2)  # ArviZ estimates the ESS that is known here
    repeats = draw((400, 500, 1))
    spread = repeats.std(1, ddof=1).std()
    claimed = np.mean([independent(x).sd_se for x in repeats])
    assert claimed == pytest.approx(
        spread, rel=5 / math.sqrt(2 * 400) + (0.1 if kind == "student" else 0.0)
    )


def test_standard_errors_of_chains_grow_with_their_autocorrelation():
    rho = 0.8
    one = chained(autoregressive(np.random.default_rng(2), 4000, 3, rho))
    expected = np.sqrt((1 + rho) / (1 - rho) / 16000)
    assert np.allclose(one.mean_se, expected, rtol=0.2)
    assert np.all(one.ess < 16000 * (1 - rho) / (1 + rho) * 1.3)
    # The fault this guards against: taking the draws for independent.
    assert independent(one.flat).mean_se.max() < 0.5 * one.mean_se.min()


def test_errors_are_in_reference_sds_and_a_variance_in_place_of_an_sd_is_caught():
    rng = np.random.default_rng(3)
    method, truth = (
        independent(2.0 + 3.0 * rng.standard_normal((20000, 1))),
        independent(1.0 + 2.0 * rng.standard_normal((20000, 1))),
    )
    right = moments.moment_errors(method, truth)

    def passes(errors):
        e = abs(errors.mean_error[0] - 0.5) < 5 * errors.mean_error_se[0]
        return e and abs(errors.log_sd_ratio[0] - math.log(1.5)) < 5 * errors.log_sd_ratio_se[0]

    assert passes(right)
    swapped = components.Side(
        **{**truth.__dict__, "sd": truth.sd**2, "sd_se": 2 * truth.sd * truth.sd_se}
    )
    assert not passes(moments.moment_errors(method, swapped))


def test_stored_moments_replace_those_of_the_kept_draws_and_exact_ones_have_no_error():
    draws = np.random.default_rng(4).standard_normal((4, 100, 2))
    zero = torch.zeros(2)
    exact = side({"x": draws}, False, {"x": Moments(zero, zero, torch.ones(2), zero)})
    assert np.all(exact.mean == 0)
    assert np.all(exact.sd == 1)
    assert np.all(exact.sd_se == 0)
    assert np.all(exact.mean_se == 0)
    with pytest.raises(UsageError, match="have 3 components, its draws 2"):
        side({"x": draws}, False, {"x": Moments(torch.zeros(3), zero, torch.ones(2), zero)})


def test_a_handful_of_draws_is_refused():
    with pytest.raises(UsageError, match="3 draws"):
        independent(np.zeros((3, 1)))


def test_a_constant_component_gives_no_nan():
    draws = np.random.default_rng(5).standard_normal((4, 200, 2))
    draws[..., 1] = 1.0
    errors = moments.moment_errors(chained(draws), chained(draws[:, ::-1]))
    assert all(np.isfinite(part).all() for part in errors)
    assert errors.log_sd_ratio[0] == pytest.approx(0.0)
    collapsed = moments.moment_errors(independent(np.zeros((100, 2))), chained(draws))
    assert collapsed.log_sd_ratio[0] < -20


def test_the_correlation_error_is_calibrated_for_normals_and_for_heavy_tails():
    rng = np.random.default_rng(6)
    names = [Component(quantity="x", index=(i,), label=f"x{i}") for i in range(2)]
    for tails in (None, 6.0):
        differences, claimed = [], []
        for _ in range(200):
            a, b = (planting.normals(rng, 500, 2, 0.6) for _ in range(2))
            if tails is not None:
                a, b = (x / np.sqrt(rng.chisquare(tails, (500, 1)) / tails) for x in (a, b))
            found = moments.compare_correlations(independent(a), independent(b), names)
            differences.append(found.difference)
            claimed.append(found.se)
        assert np.mean(claimed) == pytest.approx(np.std(differences), rel=5 / math.sqrt(2 * 200))


def test_the_worst_pair_is_found_and_its_line_grows_with_the_number_of_pairs():
    rng = np.random.default_rng(7)
    a, b = planting.normals(rng, 300, 6, 0.0), planting.normals(rng, 300, 6, 0.0)
    a[:, 4] = 0.8 * a[:, 1] + 0.6 * a[:, 4]
    names = [Component(quantity="x", index=(i,), label=f"x{i}") for i in range(6)]
    found = moments.compare_correlations(independent(a), independent(b), names)
    assert found.labels == ("x1", "x4")
    assert found.difference == pytest.approx(0.8, abs=5 * found.se)
    assert found.line == pytest.approx(multiplier(15) * found.se, rel=1e-9)
    unjudged = [
        Component(quantity="x", index=(i,), label=f"x{i}", judged=i != 4) for i in range(6)
    ]
    assert (
        abs(moments.compare_correlations(independent(a), independent(b), unjudged).difference)
        < found.line
    )


def test_draws_needed_are_those_at_which_three_errors_reach_the_line():
    draws = np.random.default_rng(8).standard_normal((400, 1))
    one = independent(draws)
    needed = moments.draws_needed(one, one.sd)[0]
    # each side may use half of 0.05^2; the mean asks for most
    assert needed == pytest.approx(2 / 0.05**2, rel=0.05)
    assert (
        moments.draws_needed(
            independent(np.random.default_rng(9).standard_normal((2000, 1))), one.sd
        )[0]
        == 0
    )


# -- margins -----------------------------------------------------------------------------------


def margins(method, truth):
    """Return the metrics of the margins by column."""
    found = {}
    for name in ("wasserstein", "quantiles", "coverage50", "coverage90"):
        found.update(METRICS[name].compute(method, truth))
    return SimpleNamespace(**found)


def test_quantiles_coverage_and_wasserstein_of_known_normals():
    rng = np.random.default_rng(10)
    method, truth = (
        independent(0.3 + 0.8 * rng.standard_normal((40000, 1))),
        independent(2.0 * rng.standard_normal((40000, 1)) / 2.0),
    )
    m = margins(method, truth)
    for got, level in ((m.q05_error, 0.05), (m.q50_error, 0.5), (m.q95_error, 0.95)):
        expected = 0.3 + (0.8 - 1.0) * norm.ppf(level)
        density = norm.pdf(norm.ppf(level))
        assert got[0] == pytest.approx(
            expected, abs=5 * math.sqrt(2 * level * (1 - level) / 40000) / density
        )
    for got, se, level in (
        (m.coverage50[0], m.coverage50_se[0], 0.5),
        (m.coverage90[0], m.coverage90_se[0], 0.9),
    ):
        half = 0.8 * norm.ppf(0.5 + level / 2)
        assert got == pytest.approx(norm.cdf(0.3 + half) - norm.cdf(0.3 - half), abs=5 * se)
    assert m.aligned50[0] == pytest.approx(0.5, abs=5 * m.coverage50_se[0])  # shape alone is right
    assert m.aligned90[0] == pytest.approx(0.9, abs=5 * m.coverage90_se[0])
    grid = (np.arange(20000) + 0.5) / 20000
    exact = np.abs(0.3 - 0.2 * norm.ppf(grid)).mean()
    assert m.wasserstein[0] == pytest.approx(exact, abs=5 * math.sqrt(2 / 40000))


def test_aligned_coverage_sees_heavy_tails_that_mean_and_sd_hide():
    rng = np.random.default_rng(11)
    method, truth = (
        independent(rng.standard_normal((20000, 1))),
        independent(rng.standard_t(3, (20000, 1)) / math.sqrt(3)),
    )
    m = margins(method, truth)
    assert m.aligned50[0] > 0.6


# -- joint distances ---------------------------------------------------------------------------


def test_the_classifier_is_blind_to_location_and_scale_and_sees_dependence():
    rng = np.random.default_rng(12)
    a = planting.normals(rng, 1500, 3, 0.5)
    moved, se = c2st_accuracy(a, 5.0 + 0.1 * planting.normals(rng, 1500, 3, 0.5))
    assert abs(moved - 0.5) < 5 * se
    apart, se = c2st_accuracy(a, planting.normals(rng, 1500, 3, -0.3))
    assert apart > 0.5 + 5 * se
    assert sliced_wasserstein(a, planting.normals(rng, 1500, 3, -0.3)) > 3 * sliced_wasserstein(
        a, planting.normals(rng, 1500, 3, 0.5)
    )


def test_the_noise_floor_comes_from_different_chains():
    """Chains 1-2 and 3-4 found different posteriors: only a floor between chains shows it."""
    rng = np.random.default_rng(13)
    draws = np.stack([planting.normals(rng, 500, 2, rho) for rho in (0.9, 0.9, -0.9, -0.9)])
    reference = chained(draws)
    halves = distances.floor_halves(reference)
    assert np.array_equal(halves.first, draws[:2].reshape(-1, 2))
    assert np.array_equal(halves.second, draws[2:].reshape(-1, 2))
    between, se = c2st_accuracy(*halves)
    same_chains = c2st_accuracy(reference.flat[::2], reference.flat[1::2])[0]  # the planted fault
    assert between > 0.5 + 5 * se
    assert abs(same_chains - 0.5) < 5 * se
    with pytest.raises(UsageError, match="at least two reference chains"):
        distances.floor_halves(chained(draws[:1]))
    assert distances.joint_distances(independent(draws[0]), chained(draws[:1])) == ()


def test_value_and_floor_use_one_size_and_an_autocorrelated_reference_is_thinned(monkeypatch):
    sizes = []

    def spy(first, second, seed):
        sizes.append((len(first), len(second)))
        return c2st_accuracy(first, second, seed)

    monkeypatch.setitem(METRICS._loaded, "c2st", replace(METRICS["c2st"], measure=spy))
    rng = np.random.default_rng(14)
    truth = chained(autoregressive(rng, 1000, 2, 0.7))
    found = distances.joint_distances(independent(rng.standard_normal((2000, 2))), truth)
    expected = int(truth.ess.min() / 2)
    assert sizes == [(expected, expected)] * 2
    c2st = found[0]
    assert c2st.value < c2st.line
    assert c2st.line >= 0.55
    assert distances.joint_distances(independent(rng.standard_normal((60, 2))), truth) == ()


# -- weights -----------------------------------------------------------------------------------


def narrow_guide(n=40000, s=0.8, sign=1.0, seed=15):
    """Draws of N(0, s^2) with log weights against 3 N(0, 1).

    The evidence is log 3, k-hat 1 - s^2, and the ELBO has a closed form.
    """
    u = s * np.random.default_rng(seed).standard_normal((n, 1))
    log_weights = math.log(3.0) + norm.logpdf(u[:, 0]) - norm.logpdf(u[:, 0], scale=s)
    return independent(u), sign * log_weights


NAMES = [Component(quantity="x", index=(0,), label="x")]


def weights_are_right(method, log_weights, truth, s=0.8):
    """Whether ELBO, evidence, k-hat and reweighted sd match the closed form.

    Also used on planted faults.
    """
    elbo = weights.elbo(log_weights)
    evidence = weights.log_evidence(log_weights, math.log(3.0))
    pareto = weights.pareto(log_weights, method, NAMES, truth)
    exact = math.log(3.0) + math.log(s) + 0.5 - s**2 / 2
    raw, reweighted = pareto.reweighted_sd["x"]
    return [
        abs(elbo["value_nats"] - exact) < 5 * elbo["se"],
        abs(evidence["error"]) < 5 * evidence["bound_se"],
        abs(pareto.value - (1 - s**2)) < 0.15,
        abs(raw - s) < 0.03 and abs(reweighted - 1.0) < 0.05,
    ]


def test_elbo_evidence_khat_and_reweighting_match_the_closed_form_and_a_sign_slip_is_caught():
    zero = torch.zeros(1)
    truth = side({"x": np.zeros((1, 4, 1))}, True, {"x": Moments(zero, zero, torch.ones(1), zero)})
    method, log_weights = narrow_guide()
    assert weights_are_right(method, log_weights, truth) == [True] * 4
    assert weights_are_right(*narrow_guide(sign=-1.0), truth) == [False] * 4


def test_importance_ess_and_the_threshold_of_khat():
    assert weights.importance_ess(np.zeros(500)) == pytest.approx(500.0)
    one_heavy = np.array([0.0, -50.0, -50.0])
    assert weights.importance_ess(one_heavy) == pytest.approx(1.0)
    # shifts must not underflow
    assert weights.importance_ess(one_heavy - 2000.0) == pytest.approx(1.0)
    assert [round(pareto_threshold(n), 2) for n in (100, 320, 1000, 4000)] == [0.5, 0.6, 0.67, 0.7]


# -- held-out rows -----------------------------------------------------------------------------


def test_heldout_density_matches_the_closed_form_of_a_conjugate_normal():
    import pyro
    import pyro.distributions as dist

    from zoo.density.log_density import LogDensity

    def program(y):
        mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 10.0))
        with pyro.plate("row", y.shape[0]):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    train, test = (
        torch.zeros(3, dtype=torch.float64),
        torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64),
    )
    data = Data(train={"y": train}, test={"y": test}, observed=("y",))
    entry = planting.entry(1)
    draws = 0.5 * np.random.default_rng(16).standard_normal(2000)
    from zoo.types import Posterior

    posterior = Posterior(
        entry=entry,
        data=data,
        method="m",
        draws={"mu": torch.as_tensor(draws)},
        sample_dims=("sample",),
    )
    found = predictive.heldout_lpd(posterior, LogDensity(program, data), most_draws=1000)
    exact = norm.logpdf(test.numpy(), scale=math.sqrt(1.25))
    # Spread of one draw's density over its mean is below 1 here, so 5 / sqrt(1000) bounds five
    # standard errors.
    assert found["nats_per_row"] == pytest.approx(exact.mean(), abs=5 / math.sqrt(1000))
    assert found["se"] == pytest.approx(exact.std(ddof=1) / 2, rel=0.1)


# -- numbers and lines -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "se", "text"),
    [
        (0.2512, 0.031, "0.25 +- 0.03"),
        (0.21, 0.0, "0.210"),
        (123.4, 12.0, "123 +- 12"),
        (-0.001, 0.04, "0.00 +- 0.04"),
        (0.5, float("nan"), "0.500"),
        (0.2512, 0.027, "0.25 +- 0.03"),  # one digit of an error that begins with 2
        (0.2512, 0.0131, "0.251 +- 0.013"),  # two digits of an error that begins with 1
    ],
)
def test_numbers_carry_no_more_digits_than_their_error_earns(value, se, text):
    assert value_with_error(value, se) == text


def test_numbers_that_are_not_finite_are_said_in_words():
    assert rounded(float("nan"), 0.1) == "not finite"
    assert rounded(0.4, 0.1, sign=True) == "+0.40"


def test_lines_that_depend_on_sizes():
    assert multiplier(1) == pytest.approx(3.0)
    assert multiplier(10) == pytest.approx(norm.isf(norm.sf(3.0) / 10))
    assert rhat_limit(4, 1000) == 1.01
    assert 1.03 < rhat_limit(4, 50) < 1.1


@pytest.mark.parametrize("draws", [1000, 4000])
def test_the_error_of_k_hat_is_its_spread_over_draws(draws):
    """Weights of a normal guide that is too narrow by 0.7: k-hat is 0.5 in the mean."""
    g = np.random.default_rng(7)
    x = 0.7 * g.standard_normal((80, draws))
    found = [arviz_bridge.pareto_k(row)[0] for row in 0.5 * x**2 * (1 / 0.49 - 1)]
    one = ParetoK(value=float(np.mean(found)), threshold=0.7, draws=draws, importance_ess=100.0)
    assert one.se == pytest.approx(np.std(found), rel=0.25)  # of 80 spreads: 8 % by chance
    flat = replace(one, value=0.0)
    assert (flat.se, flat.near) == (0.0, False)
    unknown = replace(one, value=math.nan)
    assert math.isnan(unknown.se)
    assert not unknown.near
    close = replace(one, value=0.65)
    assert close.near
    assert not replace(one, value=1.2).near
