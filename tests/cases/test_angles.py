"""Latent angles: a proper density on the circle, whose cut is opposite to the posterior.

The truth is in closed form: a von Mises prior with von Mises observations has a von Mises
posterior, with the evidence I0(r) / (I0(k0) prod_i 2 pi I0(k_i)).
"""

import functools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from scipy import special
from support.densities import points
from torch.distributions import constraints

import benchmarks
import guides
import zoo
from zoo.contract import checks, run
from zoo.contract.subject import Subject
from zoo.density.log_density import LogDensity
from zoo.errors import FitError, ProgramError, UsageError
from zoo.quantities import circular_mean, circular_sd, invariant, sin_site, site
from zoo.types import Data, Quantity

F = torch.float64
Y = torch.tensor([3.0, -2.8, 2.6, -3.1, 2.2, -2.5], dtype=F)  # around pi: the cut of [-pi, pi)
LOC, PRIOR, NOISE = 0.3, 0.7, 1.5
SHORT = {"chains": 2, "tune": 200, "draws": 400, "min_ess": 1.0, "in_process": True}  # of NUTS


def bearings(y=None):
    theta = pyro.sample("theta", dist.VonMises(torch.tensor(LOC, dtype=F), PRIOR))
    with pyro.plate("n", 6):
        pyro.sample("y", dist.VonMises(theta, NOISE), obs=y)


def log_i0(x):
    """Return log I0 as torch's von Mises has it (off by 2e-7), by which the program normalizes."""
    return float(torch.distributions.von_mises._log_modified_bessel_fn(torch.tensor(x, dtype=F)))


def truth(y=Y):
    """Return mean direction, concentration and log evidence of the posterior of `bearings`."""
    east = PRIOR * math.cos(LOC) + NOISE * float(y.cos().sum())
    north = PRIOR * math.sin(LOC) + NOISE * float(y.sin().sum())
    r = math.hypot(east, north)
    evidence = math.log(special.i0e(r)) + r - log_i0(PRIOR)
    return math.atan2(north, east), r, evidence - len(y) * (math.log(2 * math.pi) + log_i0(NOISE))


def exact_moments():
    """Return mean and sd of sine and cosine of the posterior."""
    mean, r, _ = truth()
    first, second = (special.ive(n, r) / special.ive(0, r) for n in (1, 2))
    found = {}
    for name, m, square in (
        ("sin theta", math.sin(mean), (1 - second * math.cos(2 * mean)) / 2),
        ("cos theta", math.cos(mean), (1 + second * math.cos(2 * mean)) / 2),
    ):
        found[name] = first * m, math.sqrt(square - (first * m) ** 2)
    return found


@functools.cache
def entry():
    return zoo.from_program(bearings, {"y": Y}, name="bearings")


def density_of(program, **data):
    return LogDensity(program, Data(train=data))


def integral(density, reach=9.0, points=20_001):
    u = torch.linspace(-reach, reach, points, dtype=F)
    line = u[:, None] if density.dim == 1 else torch.cartesian_prod(u, u)
    step = (2 * reach / (points - 1)) ** density.dim
    return float(density.batch(line).detach().logsumexp(0)) + math.log(step)


# -- the density -------------------------------------------------------------------------------


def test_the_density_integrates_to_the_evidence():
    data = entry().load_data()
    density = LogDensity(entry().program(data), data)
    assert integral(density) == pytest.approx(truth()[2], abs=1e-8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: dist.VonMises(torch.tensor(0.5, dtype=F), 2.0),
        lambda: dist.VonMises(torch.tensor([0.5], dtype=F), 2.0).to_event(1),
        lambda: dist.VonMises(torch.tensor(0.5, dtype=F), 2.0).mask(True),
        lambda: dist.MixtureSameFamily(
            dist.Categorical(torch.ones(2, dtype=F)),
            dist.VonMises(torch.tensor([0.0, 2.5], dtype=F), torch.tensor([1.0, 4.0], dtype=F)),
        ),
        lambda: dist.SineSkewed(
            dist.VonMises(torch.tensor([2.0], dtype=F), 2.0).to_event(1),
            torch.tensor([0.6], dtype=F),
        ),
        lambda: dist.SineSkewed(
            dist.Uniform(-math.pi * torch.ones(1, dtype=F), math.pi).to_event(1),
            torch.tensor([0.6], dtype=F),
        ),
        lambda: dist.SineBivariateVonMises(*torch.tensor([0.2, 3.0, 2.0, 3.0, 0.5], dtype=F)),
    ],
    ids=["plain", "event", "masked", "mixture", "skewed", "skewed uniform", "bivariate"],
)
def test_every_distribution_of_angles_is_a_density(make):
    density = density_of(lambda: pyro.sample("x", make()))
    reach, points = (9.0, 2001) if density.dim == 1 else (6.0, 241)
    assert integral(density, reach, points) == pytest.approx(0.0, abs=3e-7)
    draws = density.constrain(torch.linspace(-5, 5, 7 * density.dim, dtype=F).reshape(7, -1))["x"]
    assert bool((draws.abs() <= math.pi).all())


def test_transformed_angles_are_refused_by_name():
    def program():
        base = dist.VonMises(torch.tensor(0.5, dtype=F), 2.0)
        pyro.sample(
            "x", dist.TransformedDistribution(base, [dist.transforms.AffineTransform(1, 2)])
        )

    with pytest.raises(ProgramError, match=r"site 'x' is a transformed angle.*sample the angle"):
        density_of(program)


@pytest.mark.parametrize("fn", ["VonMises3D", "ProjectedNormal"])
def test_directions_on_a_sphere_are_refused_with_the_cure(fn):
    with pytest.raises(ProgramError, match=r"site 'x' is a direction.*poutine\.reparam"):
        density_of(lambda: pyro.sample("x", getattr(dist, fn)(torch.tensor([0.0, 1.0, 0.0]))))


def test_a_support_that_torch_states_with_an_infinite_bound_is_refused():
    def program():
        numbers = torch.tensor([0.0, 1.0, 0.2], dtype=F)
        pyro.sample("x", dist.GeneralizedPareto(*numbers))

    with pytest.raises(ProgramError, match=r"latent site 'x' .*infinite bound"):
        density_of(program)


def test_a_reparameterized_direction_is_judged_by_its_coordinates():
    from pyro import poutine
    from pyro.infer.reparam import ProjectedNormalReparam

    @poutine.reparam(config={"way": ProjectedNormalReparam()})
    def program(y):
        way = pyro.sample("way", dist.ProjectedNormal(torch.tensor([0.3, 1.0], dtype=F)))
        pyro.sample("y", dist.Normal(2 * way, 0.5).to_event(1), obs=y)

    made = zoo.from_program(program, {"y": torch.tensor([0.1, 1.8], dtype=F)})
    noise = points(7, 2, scale=1.0)
    draws = made.quantities["way"].fn({"way_normal": noise}, made.load_data())
    way = torch.nn.functional.normalize(noise + torch.tensor([0.3, 1.0], dtype=F), dim=-1)
    assert torch.allclose(draws, way, atol=1e-12)


# -- the cut -----------------------------------------------------------------------------------


def test_the_circle_is_cut_opposite_to_the_posterior():
    data = entry().load_data()
    density = LogDensity(entry().program(data), data)
    center = density.completion.centers["theta"]
    assert abs(float(center) - truth()[0]) <= math.pi / 64 + 1e-9
    again = LogDensity(entry().program(data), data)
    assert torch.equal(center, again.completion.centers["theta"])


def test_the_circle_is_cut_well_where_the_center_is_a_latent_itself():
    """Prior and start say 0; each of three groups is elsewhere, one across the cut."""
    ways = torch.tensor([3.1, -1.2, 0.4], dtype=F)
    noise = torch.tensor([-0.2, 0.0, 0.3, 0.1], dtype=F)

    def program(y):
        loc = pyro.sample("loc", dist.VonMises(torch.zeros((), dtype=F), 0.1))
        tau = pyro.sample("tau", dist.LogNormal(0.0, 0.5))
        with pyro.plate("group", 3, dim=-2):
            theta = pyro.sample("theta", dist.VonMises(loc.expand(3, 1), tau))
            with pyro.plate("n", 4, dim=-1):
                pyro.sample("y", dist.VonMises(theta, 6.0), obs=y)

    density = density_of(program, y=ways[:, None] + noise)
    found = density.completion.centers["theta"][:, 0]
    assert bool((torch.cos(found - ways - 0.05) > math.cos(0.15)).all())
    assert density.jumps == ()


def test_angles_of_units_share_one_chart():
    """Other data and an encoder read the same coordinate."""

    def program(y, index=None):
        with pyro.plate("n", 6, subsample=index):
            theta = pyro.sample("theta", dist.VonMises(torch.zeros((), dtype=F), 0.5))
            pyro.sample("y", dist.VonMises(theta, 3.0), obs=y)

    density = LogDensity(program, Data(train={"y": Y}, observed=("y",), batched=("y",), size=6))
    assert torch.equal(density.completion.centers["theta"], torch.zeros(6, dtype=F))


def test_an_angle_used_as_a_number_keeps_its_range_and_is_named():
    y = torch.tensor(3.0, dtype=F)

    def program(y):
        theta = pyro.sample("theta", dist.VonMises(torch.zeros((), dtype=F), 0.5))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y)

    made = zoo.from_program(program, {"y": y})
    assert [n for n in made.notices if "angle 'theta'" in n and "as a number" in n]
    density = LogDensity(made.program(made.load_data()), made.load_data())
    assert float(density.completion.centers["theta"]) == 0.0
    grid = torch.linspace(-math.pi, math.pi, 40_001, dtype=F)
    prior = 0.5 * grid.cos() - math.log(2 * math.pi) - log_i0(0.5)
    terms = prior - 0.5 * (grid - y).square() - 0.5 * math.log(2 * math.pi)
    assert integral(density) == pytest.approx(
        math.log(torch.trapezoid(terms.exp(), grid)), abs=1e-6
    )


# -- what is judged ----------------------------------------------------------------------------


def test_angles_are_judged_by_sine_and_cosine():
    assert list(entry().quantities) == ["sin theta", "cos theta"]


def test_check_refuses_a_card_that_judges_the_angle_itself():
    def outcome(fn):
        made = zoo.from_program(
            bearings, {"y": Y}, quantities={"theta": Quantity(fn=fn, description="angle")}
        )
        (check,) = [c for c in checks(made) if c.name == "turn_safe"]
        return run(check)

    assert outcome(sin_site("theta")).status == "ok"
    failed = outcome(site("theta"))
    assert failed.status == "failed"
    assert "'theta' jumps where angle 'theta' passes pi" in failed.sentence


def test_the_sign_of_an_angle_may_be_free():
    def program(y):
        theta = pyro.sample("theta", dist.VonMises(torch.zeros((), dtype=F), 0.5))
        pyro.sample("y", dist.Normal(theta.cos(), 0.2), obs=y)

    made = zoo.from_program(program, {"y": torch.tensor(-0.3, dtype=F)})
    assert [n for n in made.notices if "sign of theta is free" in n]
    assert list(made.quantities) == ["abs sin theta", "cos theta"]


def test_what_is_even_is_no_matter_of_its_name():
    """A site may be called like the cosine of an angle; its absolute value is judged."""
    name = "cos theta"

    def program(y):
        z = pyro.sample(name, dist.Normal(torch.zeros((), dtype=F), 1.0))
        pyro.sample("y", dist.Normal(z.square(), 0.2), obs=y)

    made = zoo.from_program(program, {"y": torch.tensor(1.3, dtype=F)})
    ((label, quantity),) = made.quantities.items()
    assert label == "abs cos theta"
    assert invariant(label, quantity, "sign", None) == (label, quantity)


def test_circular_mean_and_sd():
    degrees = torch.tensor([179.0, -179.0], dtype=F)
    angles = degrees * math.pi / 180
    assert abs(float(circular_mean(angles))) == pytest.approx(math.pi)
    assert float(circular_sd(angles)) == pytest.approx(math.pi / 180, rel=1e-3)
    wide = zoo.distributions.circular.WrappedNormal(torch.tensor(1.0, dtype=F), 0.8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = wide.sample((40_000,))
    assert float(circular_mean(draws)) == pytest.approx(1.0, abs=5 * 0.8 / 200)
    assert float(circular_sd(draws)) == pytest.approx(0.8, abs=0.03)


# -- methods -----------------------------------------------------------------------------------


def errors_of(posterior, ess):
    """Return the deviations of means from the truth in Monte Carlo standard errors."""
    return {
        name: (float(value.mean()) - exact_moments()[name][0])
        / (exact_moments()[name][1] / math.sqrt(ess))
        for name, value in posterior.quantities().items()
    }


def test_nuts_has_the_exact_sine_and_cosine():
    posterior = benchmarks.run_nuts(entry(), seed=1, compile="on", **SHORT)
    values = {k: v.numpy() for k, v in posterior.quantities().items()}
    for name, value in values.items():
        assert float(benchmarks.arviz_bridge.rhat(value)) < 1.03, name
        mean, sd = exact_moments()[name]
        se = float(benchmarks.arviz_bridge.mcse_mean(value))
        assert abs(value.mean() - mean) < 5 * se, name
        assert abs(value.std() / sd - 1) < 0.25, name
    theta = posterior.draws["theta"]
    assert bool(((theta >= -math.pi) & (theta < math.pi)).all())
    assert 0.2 < float((theta < 0).double().mean()) < 0.5  # on both sides of pi: 36 %


def test_nuts_moves_freely_where_the_angle_is_uniform():
    """The worst case for a cut: mass everywhere, also at it. The coordinate is standard normal."""

    def program(y):
        theta = pyro.sample("theta", dist.VonMises(torch.zeros((), dtype=F), 1e-6))
        pyro.sample("y", dist.Normal(0.05 * theta.sin(), 1.0), obs=y)

    made = zoo.from_program(program, {"y": torch.tensor(0.1, dtype=F)}, name="uniform_angle")
    posterior = benchmarks.run_nuts(made, seed=0, compile="off", **SHORT)
    for name, value in posterior.quantities().items():
        assert float(benchmarks.arviz_bridge.rhat(value.numpy())) < 1.03, name
        assert float(benchmarks.arviz_bridge.ess_bulk(value.numpy())) > 200, name
        assert float(value.std()) == pytest.approx(math.sqrt(0.5), rel=0.12), name
    assert not bool(posterior.stats["diverging"].any())


@pytest.mark.parametrize("family", ["full_rank", "laplace"])
def test_a_normal_in_the_chart_nearly_reaches_the_evidence(family):
    """Of the best normal in this chart the KL is 0.0014 nats; a cut at pi loses a nat."""
    settled = {} if family == "laplace" else {"patience": 50, "anneal": 200}
    fit = guides.fit(entry(), family, seed=0, compile="off", **settled)
    gap = truth()[2] - fit.elbo.value_nats
    assert -4 * fit.elbo.se < gap < 0.02
    posterior = guides.draw(fit, 4000)
    assert max(abs(z) for z in errors_of(posterior, 4000).values()) < (
        5 if family != "laplace" else 8
    )
    weights = posterior.log_weights
    evidence = float(weights.logsumexp(0)) - math.log(4000)
    assert evidence == pytest.approx(
        truth()[2], abs=5 * float(weights.exp().std() / weights.exp().mean()) / 63
    )


def normal_guide(y=None):
    m = pyro.param("m", torch.tensor(2.5, dtype=F))
    s = pyro.param("s", torch.tensor(1.0, dtype=F), constraint=constraints.positive)
    pyro.sample("theta", dist.Normal(m, s))


def wide_guide(y=None):
    m = pyro.param("m", torch.tensor(2.5, dtype=F))
    s = pyro.param("s", torch.tensor(40.0, dtype=F), constraint=constraints.positive)
    pyro.sample("theta", dist.Normal(m, s))


def cauchy_guide(y=None):
    m = pyro.param("m", torch.tensor(2.5, dtype=F))
    pyro.sample("theta", dist.Cauchy(m, torch.ones((), dtype=F)))


@pytest.mark.parametrize("guide", [AutoNormal, normal_guide], ids=["AutoNormal", "Normal"])
def test_guides_that_are_programs_bound_the_evidence(guide):
    made = zoo.from_program(bearings, {"y": Y}, guide=guide)
    fit = guides.fit(made, "own", seed=0, steps=150, patience=30, lr=0.05, num_particles=2)
    gap = truth()[2] - fit.elbo.value_nats
    assert -4 * fit.elbo.se < gap < 0.05
    draws = guides.draw(fit, 1000).draws["theta"]
    assert bool(((draws >= -math.pi) & (draws < math.pi)).all())


def test_a_guide_cannot_gain_by_counting_turns(monkeypatch):
    """Over the real line a normal with sd 40 had an ELBO above the evidence, without bound."""
    monkeypatch.setattr("guides.fitting.ELBO_DRAWS", 800)
    made = zoo.from_program(bearings, {"y": Y}, guide=wide_guide)
    fit = guides.fit(made, "own", seed=0, steps=1)
    _, r, evidence = truth()
    uniform = evidence - math.log(2 * math.pi * special.i0e(r)) - r + math.log(2 * math.pi)
    assert abs(fit.elbo.value_nats - uniform) < 5 * fit.elbo.se
    assert fit.elbo.value_nats < evidence - 1


def test_a_guide_over_the_real_line_without_a_winding_is_refused():
    made = zoo.from_program(bearings, {"y": Y}, guide=cauchy_guide)
    with pytest.raises(FitError, match=r"draws the angle 'theta' from Cauchy.*WrappedNormal"):
        guides.fit(made, "own", seed=0, steps=5)


def test_compiled_is_eager():
    data = entry().load_data()
    density = LogDensity(entry().program(data), data)
    points = torch.linspace(-6, 6, 41, dtype=F)[:, None]
    eager = [density.eager_gradient(u) for u in points]
    record = density.compile("on")
    assert record["used"], record["reason"]
    for u, (value, slope) in zip(points, eager, strict=True):
        got, found = density.gradient(u)
        assert torch.allclose(got, value, rtol=1e-12, atol=1e-12)
        assert torch.allclose(found, slope, rtol=1e-10, atol=1e-10)


def test_a_saved_fit_knows_its_cut(tmp_path, monkeypatch):
    fit = guides.fit(entry(), "laplace", seed=0)
    guides.save(fit, tmp_path / "fit.pt")
    again = guides.load(tmp_path / "fit.pt", entry())
    assert torch.equal(guides.draw(again, 9).draws["theta"], guides.draw(fit, 9).draws["theta"])
    monkeypatch.setattr("zoo.density.centers.GRID", 1.0)
    with pytest.raises(UsageError, match=r"angles are cut elsewhere.*fit again"):
        guides.load(tmp_path / "fit.pt", entry())


# -- what is not touched -----------------------------------------------------------------------


def test_observed_angles_stay_as_they_are():
    turned = Y + 2 * math.pi * torch.arange(6, dtype=F)

    def program(y):
        loc = pyro.sample("loc", dist.Normal(torch.zeros((), dtype=F), 1.0))
        with pyro.plate("n", 6):
            pyro.sample("y", dist.VonMises(loc, 2.0), obs=y)

    one, other = density_of(program, y=Y), density_of(program, y=turned)
    u = torch.tensor([0.4], dtype=F)
    assert float(one(u)) == pytest.approx(float(other(u)), abs=1e-12)
    assert one.completion.centers == {}
    assert zoo.from_program(program, {"y": turned}).quantities.keys() == {"loc"}


def test_the_bound_audit_integrates_angles_once():
    from benchmarks.audit.sites import integral as of_site

    subject = Subject(entry())
    totals = {n["name"]: of_site(n) for n in subject.sites()}
    for total in totals.values():
        assert np.allclose(total, 1.0, atol=1e-6)
