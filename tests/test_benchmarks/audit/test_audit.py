"""The bound audit: each planted fault is caught by its check, sound entries raise no alarm."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta
from support import bound_faults
from support.bound_faults import FAULTS

import zoo
from benchmarks import audit as bounds
from benchmarks.audit import evidence_checks, guide_checks, program_checks
from benchmarks.audit.quadrature import QuadratureError, whitened_grid
from benchmarks.audit.subject import limit
from benchmarks.audit.targets import TARGETS
from zoo.contract.subject import Failed, Skipped

ALL_CHECKS = {**program_checks.CHECKS, **guide_checks.CHECKS, **evidence_checks.CHECKS}
PAGE = Path(__file__).parents[3] / "docs" / "bound_audit.md"
QUICK = ("normal_normal", "half_normal_scale")


def alarms(results):
    return [f"{r.name}: {r.sentence}" for r in results if r.status == "failed"]


def one_check(entry, families, name, **keywords):
    (check,) = [
        c for c in bounds.checks(entry, families, **keywords) if c.name.split(".")[-1] == name
    ]
    return check.run()


@pytest.mark.parametrize("name", FAULTS)
def test_every_planted_fault_is_caught(name):
    fault = FAULTS[name]
    entry, families, keywords = fault.subject()
    with fault.patch():
        result = one_check(entry, families, fault.check, **keywords)
    assert result.status == "failed", f"{fault.check}: {result.status}, {result.sentence}"
    # by a finding, not by a crash
    assert not re.match(r"[A-Z]\w+Error: ", result.sentence), result.sentence


def test_every_check_catches_a_fault():
    assert {f.check for f in FAULTS.values()} == set(ALL_CHECKS)
    assert len(FAULTS) >= 15
    assert len(TARGETS) >= 15


@pytest.mark.parametrize("name", QUICK)
def test_no_false_alarm(name):
    target = TARGETS[name]
    results = bounds.audit(
        target.entry, ["full_rank"], log_evidence=target.log_evidence(), route=target.route
    )
    assert not alarms(results)
    assert sum(r.status == "ok" for r in results) >= 15


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in TARGETS])
def test_no_false_alarm_on_any_target(name):
    target = TARGETS[name]
    results = bounds.audit(target.entry, log_evidence=target.log_evidence(), route=target.route)
    assert not alarms(results)
    status = {r.name: r.status for r in results}
    assert status["bounds.evidence"] == "ok"
    assert status["bounds.mean_field.elbo_below_evidence"] == "ok"


OWN = [n for n in zoo.names() if "/" not in n]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *OWN,
        "correlated_gaussian[d=10,rho=0.5]",
        "correlated_gaussian[d=3]",
        "gaussian_mixture[K=3]",
    ],
)
def test_no_false_alarm_on_any_entry(name):
    entry = zoo.load(name)
    results = bounds.audit(
        entry, [f for f in entry.families if f in ("mean_field", "full_rank", "amortized")]
    )
    assert not alarms(results)


def walk(y):
    """A random walk: each row's likelihood depends on the row before it."""
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    before = torch.cat([y.new_zeros(1), y[:-1]])
    with pyro.plate("time", len(y)):
        pyro.sample("y", dist.Normal(before, scale), obs=y)


def test_a_series_is_not_split():
    entry = zoo.from_program(
        walk, {"y": torch.tensor([0.3, 0.1, 0.8, 1.5, 1.1], dtype=torch.float64)}
    )
    result = one_check(entry, ["mean_field"], "heldout_splits")
    assert result.status == "skipped"
    assert "rows before" in result.sentence


def flow_entry():
    """A correct FlatGuide of a user."""
    target = TARGETS["normal_normal"]
    import dataclasses

    return (
        dataclasses.replace(target.entry, own_guides={"own": bound_faults.own("")}),
        target.log_evidence(),
    )


def test_it_runs_on_the_flow_of_an_outsider():
    entry, evidence = flow_entry()
    results = bounds.audit(entry, ["own"], log_evidence=evidence)
    assert not alarms(results)
    status = {r.name.split(".")[-1]: r.status for r in results}
    assert [
        status[n]
        for n in ("log_q_normalized", "gap_is_kl", "objective_is_minus_elbo", "sampled_bounds")
    ] == ["ok"] * 4


def wages(y, x):
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    noise = pyro.sample("noise", dist.HalfNormal(2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(slope * x, noise), obs=y)


def wages_guide(y, x):
    loc = pyro.param("loc", torch.tensor(0.8, dtype=torch.float64))
    width = pyro.param(
        "width", torch.tensor(0.3, dtype=torch.float64), constraint=dist.constraints.positive
    )
    level = pyro.param("level", torch.tensor(-0.5, dtype=torch.float64))
    pyro.sample("slope", dist.Normal(loc, width))
    pyro.sample("noise", dist.LogNormal(level, 0.3))


def test_it_runs_on_the_model_and_guide_of_an_outsider():
    x = torch.linspace(-1, 1, 8, dtype=torch.float64)
    data = {
        "y": (
            0.9 * x
            + torch.tensor([0.3, -0.5, 0.2, 0.4, -0.1, -0.6, 0.5, 0.1], dtype=torch.float64)
        ),
        "x": x,
    }
    entry = zoo.from_program(wages, data, guide=wages_guide)
    results = bounds.audit(entry, ["own"])
    assert not alarms(results)
    status = {r.name.split(".")[-1]: r.status for r in results}
    checked = (
        "log_q_normalized",
        "elbo_reported",
        "objective_is_minus_elbo",
        "elbo_below_evidence",
        "sampled_bounds",
    )
    assert [status[n] for n in checked] == ["ok"] * len(checked)


def test_a_guide_that_is_a_point_has_no_bound_to_audit():
    def program(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    entry = zoo.from_program(
        program, {"y": torch.tensor(1.0, dtype=torch.float64)}, guide=AutoDelta, name="point"
    )
    results = [r for r in bounds.audit(entry, ["own"]) if r.name.startswith("bounds.own.")]
    assert len(results) == len({**guide_checks.CHECKS, **evidence_checks.CHECKS})
    assert {r.status for r in results} == {"skipped"}
    assert (
        sum(
            r.sentence.startswith("There is no bound to audit. A point, no spread, in m")
            for r in results
        )
        >= 6
    )


@pytest.mark.parametrize(("dim", "shift"), [(1, 3.0), (2, 1.0), (3, -1.0)])
def test_the_quadrature_is_exact_on_shifted_skewed_integrands(dim, shift):
    """Of exp(a u - e^u) per coordinate the integral is Gamma(a)."""

    def function(u):
        return (2.5 * (u - shift) - (u - shift).exp()).sum(-1)

    grid = whitened_grid(
        function, torch.zeros(dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64)
    )
    assert abs(grid.log_integral - dim * math.lgamma(2.5)) < 1e-5
    mean = float(torch.special.digamma(torch.tensor(2.5, dtype=torch.float64))) + shift
    assert abs(float(grid.mean(grid.points[:, 0])) - mean) < 1e-4


def test_the_quadrature_refuses_what_has_no_integral():
    with pytest.raises(QuadratureError):
        whitened_grid(
            lambda u: -0.5 * (1 + u.square()).log().sum(-1),
            torch.zeros(1).double(),
            torch.eye(1).double(),
        )


def test_limits_hold_the_promised_rate():
    """A true equality is refused with probability 1e-5 over all comparisons of a check.

    Nor is it much smaller.
    """
    from scipy.stats import norm, t

    for degrees, comparisons in ((9, 1), (200, 4)):
        assert abs(2 * comparisons * t.sf(limit(degrees, comparisons), degrees) - 1e-5) < 1e-8
    assert limit(10_000) > norm.isf(5e-6)


def test_the_page_lists_every_check_and_every_fault():
    text = PAGE.read_text(encoding="utf-8")
    for name in ALL_CHECKS:
        assert f"`{name}`" in text
    for name, fault in FAULTS.items():
        assert f"| {name} | `{fault.check}` | {fault.like} |" in text


def test_the_page_lists_every_program_of_known_evidence():
    rows = re.findall(
        r"^\| (\w+) \| (-?\d+\.\d{5}) \| ([^|]+) \|$",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert {name: route for name, _, route in rows} == {n: t.route for n, t in TARGETS.items()}
    for name, value, _ in rows:
        assert abs(float(value) - TARGETS[name].log_evidence()) < 6e-6, name


MODEL_FILE = """
'''Coin with a constant too many.'''
import pyro, pyro.distributions as dist, torch
from zoo.types import Analytic, Data, ModelEntry, Quantity

def make_data(seed):
    y = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    return Data(train={"y": y}, observed=("y",), source="made up", licence="CC0-1.0")

def build(data):
    def program(y):
        share = pyro.sample("share", dist.Beta(1.0, 1.0))
        pyro.factor("constant", CONSTANT + 0 * share)
        with pyro.plate("row", 3):
            pyro.sample("y", dist.Bernoulli(share), obs=y)
    return program

def analytic(data):
    sample = lambda n, seed: {"share": torch.distributions.Beta(3.0, 2.0).sample((n,)).double()}
    twelfth = torch.tensor(1 / 12, dtype=torch.float64)
    return Analytic(sample=sample, log_evidence=float(twelfth.log()))

ENTRY = ModelEntry(
    name="pennies", title="Three pennies", make_data=make_data, build=build,
    analytic=analytic, reference="analytic",
    quantities={"share": Quantity(fn=lambda draws, data: draws["share"])}, families=("full_rank",),
)
"""


@pytest.mark.parametrize(("constant", "code"), [(0.0, 0), (0.05, 1)])
def test_the_command_audits_a_file_and_fails_when_a_check_fails(tmp_path, capsys, constant, code):
    from benchmarks.cli.author import check

    path = tmp_path / "pennies.py"
    path.write_text(MODEL_FILE.replace("CONSTANT", str(constant)), encoding="utf-8")
    assert check(str(path), bounds=True) == code
    out = capsys.readouterr().out
    assert ("failed  bounds.evidence" in out) == bool(code)
    assert "bounds.full_rank.gap_is_kl" in out


@pytest.mark.parametrize("objective", ["iwae", "iwae_dreg", "beta"])
def test_losses_of_another_objective_are_not_held_to_the_elbo(objective):
    fit = SimpleNamespace(
        losses=np.ones(30), config=SimpleNamespace(objective=objective, num_particles=5)
    )
    own = SimpleNamespace(sd=0.1, se=0.01, elbo=5.0, u=torch.zeros(100, 2))
    guide = SimpleNamespace(
        fit=fit, draws_classes=False, own=own, inflation=1.0, density=SimpleNamespace(dim=2)
    )
    with pytest.raises(Skipped, match=f"is {objective}, whose losses"):
        guide_checks.losses_end_at_minus_elbo(guide)
    fit.config.objective = "elbo_linear"  # a schedule that ends at the ELBO must do so
    with pytest.raises(Failed, match="last 15 losses is 1"):
        guide_checks.losses_end_at_minus_elbo(guide)
