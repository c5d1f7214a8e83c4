"""Objectives over units against closed forms, minibatches, schedules and heads."""

import math
import re
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from support import tiny
from support.installed import Installed

import guides
import zoo
from guides.base import initialize
from guides.base.heads import make_head
from guides.base.initialize import unit_points
from guides.base.local import LocalGuide
from guides.families.block_full_rank import TableGuide
from guides.objectives import per_unit
from guides.objectives.bounds import beta_elbo_nats, elbo_nats, iwae_bound_nats
from guides.objectives.flat import FlatObjective
from guides.objectives.objective import DEFINED
from guides.objectives.per_unit import LocalObjective, unit_log_weights
from guides.objectives.records import (
    OBJECTIVES,
    Beta,
    CyclicalELBO,
    FreeBitsELBO,
    LinearELBO,
    Scheduled,
    objective_of,
)
from guides.optimize.settings import training_of
from guides.session import session
from guides.types import FitConfig
from zoo.density.log_density import LogDensity
from zoo.density.unit_terms import many_unit_terms, unit_terms
from zoo.errors import FitError, UsageError
from zoo.types import Data, ModelEntry, Quantity

LOADINGS = torch.tensor([[1.0, 0.8], [0.9, 1.1], [-0.3, 0.4]], dtype=torch.float64)
NOISE, UNITS = 0.7, 12
Y = (
    torch.randn(UNITS, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    + torch.randn(UNITS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    @ LOADINGS.T
)
COVARIANCE = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + LOADINGS.T @ LOADINGS / NOISE**2)
MEAN = Y @ LOADINGS @ COVARIANCE / NOISE**2
EVIDENCE = torch.distributions.MultivariateNormal(
    torch.zeros(3, dtype=torch.float64),
    LOADINGS @ LOADINGS.T + NOISE**2 * torch.eye(3, dtype=torch.float64),
).log_prob(Y)


def program(y=None, index=None):
    with pyro.plate("unit", UNITS, subsample=index):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z @ LOADINGS.T, NOISE).to_event(1), obs=y)


ENTRY = ModelEntry(
    name="ppca",
    title="ppca",
    make_data=lambda seed: Data(train={"y": Y}, observed=("y",), batched=("y",), size=UNITS),
    build=lambda data: program,
    quantities={"z": Quantity(fn=lambda d, data: d["z"])},
    reference="none",
    amortize=lambda t: t["y"],
)
FAST = {"steps": 600, "patience": 60, "anneal": 300, "compile": "off"}


@pytest.fixture
def density():
    with session(ENTRY.dtype):
        yield LogDensity(program, ENTRY.load_data())


def exact_guide(density):
    guide = TableGuide(density, head="full")
    factor = torch.linalg.cholesky(COVARIANCE)
    with torch.no_grad():
        guide.base[:, :2] = MEAN
        guide.base[:, 2:4] = factor.diagonal().log()
        guide.base[:, 4] = factor[1, 0]
    return guide


def objective(density, guide, **settings):
    return LocalObjective(density, guide, {}, FitConfig(**{"num_particles": 4, **settings}))


def test_unit_terms_sum_to_the_density_and_split_it(density):
    u = torch.randn(density.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    terms = unit_terms(density, u)
    z = u.reshape(UNITS, 2)
    prior = -0.5 * z.square().sum(-1) - math.log(2 * math.pi)
    assert torch.allclose(terms.prior, prior)
    assert float((terms.prior + terms.likelihood).sum()) == pytest.approx(
        float(density(u)), rel=1e-12
    )
    index = torch.tensor([7, 2, 5])
    part = unit_terms(density, u, {"y": Y[index], "index": index})
    assert torch.allclose(part.prior, terms.prior[index])
    assert torch.allclose(part.likelihood, terms.likelihood[index])


@pytest.mark.parametrize("k", [1, 5])
def test_every_bound_is_the_evidence_at_the_exact_posterior(density, k):
    weights = unit_log_weights(density, exact_guide(density), 10, torch.Generator().manual_seed(1))
    assert torch.allclose(elbo_nats(weights), EVIDENCE, atol=1e-10)
    assert torch.allclose(iwae_bound_nats(weights[:k]), EVIDENCE, atol=1e-10)


def test_bounds_rise_towards_the_evidence(density):
    guide = exact_guide(density)
    with torch.no_grad():
        guide.base[:, 2:4] += 0.3
        guide.base[:, :2] += 0.2
    weights = unit_log_weights(density, guide, 6000, torch.Generator().manual_seed(1)).reshape(
        -1, 20, UNITS
    )
    one, five, twenty = (
        iwae_bound_nats(weights[:, :k].transpose(0, 1)).mean(0).sum() for k in (1, 5, 20)
    )
    assert float(one) < float(five) < float(twenty) < float(EVIDENCE.sum()) + 0.1
    assert float(EVIDENCE.sum() - twenty) < 0.15 * float(EVIDENCE.sum() - one)


SPECS = [
    "elbo",
    "elbo_plain",
    "iwae",
    "iwae_dreg",
    "beta[beta=3.0]",
    "elbo_linear[warmup=10]",
    "elbo_cyclical[warmup=10]",
    "elbo_free_bits[warmup=10]",
]


def test_every_objective_is_under_test():
    assert {spec.partition("[")[0] for spec in SPECS} == set(OBJECTIVES)


# iwae_dreg has another gradient and the same value
@pytest.mark.parametrize("name", [s for s in SPECS if s != "iwae_dreg"])
def test_minibatches_average_to_the_full_objective(density, name):
    """A partition into three minibatches with the same noise: equal, not only in expectation."""
    guide = exact_guide(density)
    with torch.no_grad():
        guide.base[:, :2] += 0.3
    full = objective(density, guide, objective=name)
    full.step = 4
    noise = full.peek_noise(torch.Generator().manual_seed(5))
    whole = full.loss(noise)
    parts = [
        full.loss((*noise, index))
        for index in torch.randperm(UNITS, generator=torch.Generator().manual_seed(0)).split(4)
    ]
    # the maximum of a batch mean is not a sum over units
    tolerance = 0.5 if name.startswith("elbo_free_bits") else 1e-9
    assert float(sum(parts).detach() / 3) == pytest.approx(float(whole.detach()), abs=tolerance)


def test_the_elbo_of_units_is_the_flat_elbo(density):
    guide = exact_guide(density)
    with torch.no_grad():
        guide.base[:, 2:4] -= 0.2
    flat = FlatObjective(density, guide, {}, num_particles=4, batch_size=None, stl=False)
    noise = flat.noise(torch.Generator().manual_seed(0))
    own = objective(density, guide, objective="elbo_plain")
    value = own.loss((*noise, torch.tensor([1.0, 0.0])))
    assert float(value.detach()) == pytest.approx(float(flat.loss(noise).detach()), rel=1e-12)


def test_beta_weighs_only_the_kl():
    likelihood, kl = torch.tensor([[-3.0], [-5.0]]), torch.tensor([[1.0], [2.0]])
    assert beta_elbo_nats(likelihood, kl, 4.0).tolist() == [-10.0]
    assert beta_elbo_nats(likelihood, kl, 1.0).tolist() == [-5.5]


def test_the_doubly_reparameterized_gradient_is_unbiased_and_less_noisy(density):
    guide = exact_guide(density)
    with torch.no_grad():
        guide.base[:, 2:4] += 0.2
    found = {}
    for name in ("iwae", "iwae_dreg"):
        one = objective(density, guide, objective=name, num_particles=8)
        generator = torch.Generator().manual_seed(0)
        rows = [
            torch.autograd.grad(one.loss(one.noise(generator)), guide.table)[0] for _ in range(150)
        ]
        found[name] = torch.stack(rows)
    difference = found["iwae"].mean(0) - found["iwae_dreg"].mean(0)
    error = (found["iwae"].var(0) / 150 + found["iwae_dreg"].var(0) / 150).sqrt()
    assert (difference.abs() < 5 * error + 1e-9).all()
    assert float(found["iwae_dreg"].var(0).mean()) < 0.5 * float(found["iwae"].var(0).mean())


def test_schedules_rise_to_exactly_one_and_free_nats_fall_to_zero():
    linear = [LinearELBO(warmup=100).kl_weight(s) for s in range(1, 103)]
    assert linear[0] == 0.01
    assert linear == sorted(linear)
    assert linear[99:] == [1.0, 1.0, 1.0]
    cycles = [CyclicalELBO(warmup=100).kl_weight(s) for s in range(1, 103)]
    assert [s for s in range(1, 101) if cycles[s - 1] == 0] == [25, 50, 75]
    assert cycles[11] == pytest.approx(0.96)  # 12 of the 12.5 steps of the first rise
    assert cycles[99:] == [1.0, 1.0, 1.0]
    assert [FreeBitsELBO(warmup=100, free_bits=0.5).free_nats(s) for s in (50, 100, 101)] == [
        0.25,
        0.0,
        0.0,
    ]
    assert {Beta(beta=4.0).kl_weight(s) for s in (1, 1000)} == {4.0}
    assert {
        goal.kl_weight(1) for goal in OBJECTIVES.values() if not isinstance(goal, Scheduled)
    } == {1.0}


def test_a_schedule_longer_than_the_search_is_refused():
    with pytest.raises(UsageError, match="1 to 600 of the 1000 steps"):
        LinearELBO(warmup=601).check(1000, 400)
    with pytest.raises(UsageError, match="warmup=0"):
        guides.fit(ENTRY, "amortized", objective="elbo_linear", **FAST)


@pytest.mark.parametrize("kind", ["diagonal", "full", "flow"])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_log_q_of_a_head_belongs_to_its_draws(kind, width):
    """log q(f(e)) = log N(e) - log |det df/de|, the Jacobian by automatic differentiation."""
    torch.manual_seed(1)
    head = make_head(kind, width, torch.float64)
    out = 0.5 * torch.randn(1, head.numbers, dtype=torch.float64)
    with torch.no_grad():
        for p in head.parameters():
            p.add_(0.3 * torch.randn_like(p))
    noise = torch.randn(width, dtype=torch.float64)

    def push(e):
        return head.draw(out, e[None, None])[0, 0]

    jacobian = torch.autograd.functional.jacobian(push, noise)
    expected = (
        torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum() - jacobian.det().abs().log()
    )
    assert float(head.log_prob(out, push(noise)[None, None]).detach()) == pytest.approx(
        float(expected), abs=1e-9
    )
    stuck = head.log_prob_stl(out.requires_grad_(True), push(noise)[None, None].detach())
    assert not stuck.requires_grad


def test_block_full_rank_finds_every_units_posterior():
    fit = guides.fit(ENTRY, "block_full_rank", num_particles=8, **FAST)
    assert fit.elbo.value_nats == pytest.approx(float(EVIDENCE.sum()), abs=0.02)
    guide = fit.guide
    assert isinstance(guide, LocalGuide)
    assert torch.allclose(
        guide.numbers(None)[:, :2] * guide.spread + guide.center, MEAN, atol=0.02
    )


@pytest.mark.parametrize(
    ("family", "best"),
    [
        ("amortized_full", True),
        pytest.param("amortized_flow", True, marks=pytest.mark.slow),
        ("amortized", False),
    ],
)
def test_amortized_families_reach_what_they_can(family, best):
    fit = guides.fit(ENTRY, family, num_particles=8, **FAST)
    gap = float(EVIDENCE.sum()) - fit.elbo.value_nats
    diagonal = (
        0.5
        * float(
            COVARIANCE.logdet() - torch.linalg.inv(COVARIANCE).diagonal().reciprocal().log().sum()
        )
        * -UNITS
    )
    assert (gap < 0.3) if best else (gap > -0.95 * diagonal > 0.3)


def test_a_transferred_encoder_gives_other_units_the_same_q():
    fit = guides.fit(
        ENTRY,
        "amortized_full",
        num_particles=4,
        **{**FAST, "steps": 200, "patience": 40, "anneal": 80},
    )
    few = Data(train={"y": Y[[3, 8]]}, observed=("y",), batched=("y",), size=2)
    with session(ENTRY.dtype):
        small = LogDensity(lambda y=None, index=None: _two(y, index), few)
        moved = fit.guide.transferred(small, few.train["y"])
    assert torch.allclose(moved.numbers(None), fit.guide.numbers(None)[[3, 8]], atol=1e-12)


def _two(y=None, index=None):
    with pyro.plate("unit", 2, subsample=index):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z @ LOADINGS.T, NOISE).to_event(1), obs=y)


def test_objectives_over_units_refuse_what_has_no_units(tiny):
    entry, _ = tiny.gaussian()
    with pytest.raises(FitError, match="every latent site in the minibatch plate"):
        guides.fit(entry, "full_rank", objective="iwae", **FAST)
    with pytest.raises(FitError, match="guide with units"):
        guides.fit(ENTRY, "full_rank", objective="iwae", **FAST)


def test_settings_of_training_keep_to_the_fit_they_are_meant_for():
    from dataclasses import replace

    entry = replace(ENTRY, training={"objective": "iwae", "num_particles": 5, "lr": 0.004})
    assert training_of(entry, "amortized", given=False)["objective"] == "iwae"
    assert training_of(entry, "amortized_flow", given=True) == {"num_particles": 5, "lr": 0.004}
    assert training_of(entry, "mean_field", given=True) == {}


# -- where units begin -------------------------------------------------------------------------


def two_bumps(y):
    """The first coordinate of each code has a low mode at 0 and a high one at +-1.5.

    Optimization starts at 0; the sign of the high mode is that of y.
    """
    with pyro.plate("unit", len(y), dim=-1):
        z = pyro.sample(
            "z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0).expand([2]).to_event(1)
        )
        high = (-(z[..., 0] - 1.5 * y).square() / 0.02).exp() + 0.6 * (
            -z[..., 0].square() / 0.02
        ).exp()
        pyro.sample("y", dist.Normal(high * y, 0.1), obs=y)


@pytest.mark.parametrize(("number", "evaluations"), [(256, 1_000_000), (10, 30)])
def test_every_unit_begins_at_its_own_highest_draw(monkeypatch, number, evaluations):
    monkeypatch.setattr(initialize, "EVALUATIONS", evaluations)
    monkeypatch.setattr(initialize, "AT_ONCE", 40)
    y = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    data = Data(train={"y": y}, observed=("y",), batched=("y",), size=3)
    density = LogDensity(two_bumps, data)
    zero = torch.zeros(6, dtype=torch.float64)
    point, spent = unit_points(density, zero, torch.Generator().manual_seed(0))
    assert spent == number + 1
    draws = torch.cat(
        [
            zero[None],
            torch.randn(
                number, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
            ),
        ]
    ).reshape(-1, 3, 2)
    high = (-(draws[..., 0] - 1.5 * y).square() / 0.02).exp() + 0.6 * (
        -draws[..., 0].square() / 0.02
    ).exp()
    height = -0.5 * ((y - high * y) / 0.1).square() - 0.5 * draws.square().sum(-1)
    # by hand, unit by unit
    assert torch.equal(point.reshape(3, 2), draws[height.argmax(0), torch.arange(3)])


def test_a_guide_of_units_finds_the_high_mode_of_each():
    y = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
    entry = zoo.from_program(two_bumps, {"y": y}, batched=("y",), observed=("y",))
    for family in ("mean_field", "block_full_rank"):
        fit = guides.fit(entry, family, steps=200, patience=50, anneal=100, compile="off")
        mean = guides.draw(fit, 500).draws["z"].mean(0)[:, 0]
        assert torch.allclose(mean, 1.5 * y, atol=0.1), family


def test_a_value_that_belongs_to_no_unit_leaves_the_start_as_it_was():
    def program(y, index=None):
        center = pyro.sample("center", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        with pyro.plate("unit", len(y), dim=-1):
            z = pyro.sample("z", dist.Normal(center, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    density = LogDensity(
        program, Data(train={"y": Y[:, 0]}, observed=("y",), batched=("y",), size=len(Y))
    )
    point = torch.full((density.dim,), 0.3, dtype=torch.float64)
    assert unit_points(density, point, torch.Generator().manual_seed(0)) == (point, 0)


def test_a_term_that_belongs_to_no_unit_leaves_the_start_as_it_was_and_the_fit_goes_on():
    def program(y, total, index=None):
        with pyro.plate("unit", UNITS, subsample=index):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        pyro.sample("total", dist.Normal(z.sum(), 0.5), obs=total)

    # a card of one's own: zoo.from_program refuses rows that depend on each other
    data = Data(
        train={"y": Y[:, 0], "total": torch.tensor(3.0, dtype=torch.float64)},
        observed=("y", "total"),
        batched=("y",),
        size=UNITS,
    )
    entry = tiny.entry("tied", lambda: data, program)
    density = LogDensity(program, entry.load_data())
    point = torch.full((density.dim,), 0.3, dtype=torch.float64)
    assert unit_points(density, point, torch.Generator().manual_seed(0)) == (point, 0)
    fit = guides.fit(entry, "full_rank", steps=200, patience=50, anneal=100, compile="off")
    assert fit.ok
    precision = 2.0 * torch.eye(UNITS, dtype=torch.float64) + 4.0
    mean = torch.linalg.solve(precision, Y[:, 0] + 4.0 * 3.0)
    assert torch.allclose(guides.draw(fit, 4000).draws["z"].mean(0), mean, atol=0.1)


@pytest.fixture
def install(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    known = dict(DEFINED)
    made = Installed(tmp_path, OBJECTIVES)
    yield made
    made.close()
    DEFINED.clear()
    DEFINED.update(known)


def renyi_of_the_page():
    page = (Path(__file__).parents[3] / "docs" / "add_a_guide.md").read_text(encoding="utf-8")
    (code,) = [
        b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "OBJECTIVE = " in b
    ]
    return code


def test_one_file_adds_an_objective(density, install):
    """The file in docs/add_a_guide.md: IWAE at alpha = 0, the ELBO in the limit, and fitted."""
    install("renyi = renyi_objective:OBJECTIVE", renyi_objective=renyi_of_the_page())
    assert objective_of("renyi[alpha=0.25]") == type(OBJECTIVES["renyi"])(alpha=0.25)
    guide = exact_guide(density)
    with torch.no_grad():
        guide.base[:, 2:4] += 0.3
    noise = objective(density, guide, objective="iwae").noise(torch.Generator().manual_seed(4))

    def loss(spec):
        return float(objective(density, guide, objective=spec).loss(noise).detach())

    assert loss("renyi[alpha=0]") == pytest.approx(loss("iwae"), rel=1e-12)
    u, log_q = guide.sample_units(noise[0])
    terms = many_unit_terms(density, u)
    plain = -float((terms.likelihood + terms.prior - log_q).detach().mean(0).sum())
    assert loss("renyi[alpha=0.999999]") == pytest.approx(plain, rel=1e-5)
    assert loss("renyi[alpha=0]") < loss("renyi[alpha=0.5]") < plain
    fit = guides.fit(ENTRY, "block_full_rank", objective="renyi[alpha=0.2]", **FAST)
    assert fit.config.objective == "renyi[alpha=0.2]"
    # exact in its family, up to the noise of a gradient with the score term
    assert -5 * fit.elbo.se <= float(EVIDENCE.sum()) - fit.elbo.value_nats < 0.2


def test_an_objective_of_a_script_is_known_by_its_record_and_its_name(install):
    names: dict = {"__name__": "a_script"}
    exec(renyi_of_the_page(), names)
    record = names["Renyi"](alpha=0.75)
    assert objective_of(FitConfig(objective=record).objective) == record
    exec(renyi_of_the_page(), names)  # a notebook runs its cell again
    with pytest.raises(UsageError, match=r"'renyi' of another.Renyi is taken by a_script.Renyi"):
        exec(renyi_of_the_page(), {"__name__": "another"})
    with pytest.raises(UsageError, match=r"'iwae' of .* is taken by guides.objectives.kinds.iwae"):
        exec(renyi_of_the_page().replace('"renyi"', '"iwae"'), names)


def test_a_site_that_is_not_finite_is_found_in_the_step_that_failed(density):
    """The noise of a step per unit has the schedule of the KL between draws and rows."""
    guide = exact_guide(density)
    for batch in (None, 4):
        full = objective(density, guide, objective="elbo_linear[warmup=10]", batch_size=batch)
        noise = full.peek_noise(torch.Generator().manual_seed(5))
        assert len(noise) == 2 + (batch is not None)
        with torch.no_grad():
            before = guide.base.clone()
            guide.base[:, 0] = torch.nan
            assert full.locate_nonfinite(noise) == "the guide's own parameters"
            guide.base.copy_(before)
            guide.base[:, 0] = 1e200
            assert "'" in full.locate_nonfinite(noise)
            guide.base.copy_(before)


def test_before_the_first_step_the_weight_of_the_kl_is_that_of_the_first(density):
    """Looking at noise does not count as a step; `noise` does."""
    goal = LinearELBO(warmup=10)
    made = objective(density, exact_guide(density), objective=goal)
    stream = torch.Generator().manual_seed(0)
    first = [goal.kl_weight(1), goal.free_nats(1)]
    assert goal.kl_weight(2) > first[0] > 0
    assert made.peek_noise(stream)[1].tolist() == first
    assert made.noise(stream)[1].tolist() == first
    assert made.peek_noise(stream)[1].tolist() == first
    assert made.noise(stream)[1].tolist() == [goal.kl_weight(2), goal.free_nats(2)]


@pytest.mark.parametrize("batch_size", [None, 4])
def test_recorded_diagnostics_of_minibatches_are_of_the_first_units(
    density, batch_size, monkeypatch
):
    """At the exact posterior, KL per unit is known; the first five units stand for all."""
    monkeypatch.setattr(per_unit, "SNAPSHOT", 5)
    guide = exact_guide(density)
    made = objective(density, guide, batch_size=batch_size)
    units = UNITS if batch_size is None else 5
    found = made.snapshot()
    # log q - log p(z) = log p(y | z) - log p(y) at every z
    assert found["kl_nats"] == pytest.approx(
        -found["reconstruction_nats"] - float(EVIDENCE[:units].mean()), rel=1e-9
    )
    assert made.snapshot() == found


@pytest.mark.parametrize(
    ("name", "particles", "drawn"),
    [("elbo_linear", 4, 2), ("elbo_linear", 5, 5), ("iwae", 4, 4), ("iwae", 5, 5)],
)
def test_half_of_an_even_number_of_particles_is_drawn_and_mirrored(
    density, name, particles, drawn
):
    """A bound that weighs its draws takes all of them as independent."""
    made = objective(density, exact_guide(density), objective=name, num_particles=particles)
    half = made.noise(torch.Generator().manual_seed(0))[0]
    assert half.shape == (drawn, made.noise_width)
    whole = made.mirrored(half)
    assert len(whole) == particles
    if drawn < particles:
        assert torch.equal(whole, torch.cat([half, -half]))
