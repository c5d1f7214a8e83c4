"""Assessments row by row, on rows whose posteriors and evidences are known in closed form."""

import functools
import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import multivariate_normal, norm

import benchmarks
import guides
import zoo
from benchmarks.comparison.assess import assess
from benchmarks.comparison.assess_rows import RowNats, compared_rows, row_posterior
from zoo.density.row_terms import ProgramTerms, row_numbers
from zoo.errors import UsageError

pytestmark = pytest.mark.usefixtures("eager", "few_rows")
ROWS, PIXELS, CODES, SIGMA = 80, 5, 3, 0.7
MIX = torch.as_tensor(np.random.default_rng(1).normal(size=(CODES, PIXELS)))
X = torch.as_tensor(
    np.random.default_rng(0).normal(size=(ROWS, CODES)) @ MIX.numpy()
    + SIGMA * np.random.default_rng(2).normal(size=(ROWS, PIXELS))
)
FEW = 12  # rows that are assessed
STEPS = {"steps": 400, "patience": 50}


def codes(x):
    """Three codes of every row: z ~ N(0, I), x ~ N(z A, 0.7^2 I); the posterior is a normal."""
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(CODES, dtype=x.dtype), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ MIX, SIGMA).to_event(1), obs=x)


def two_sided(x):
    """One code of every row, z ~ N(0, 1), x ~ N((z + 0.2)^2, 0.5): modes near -0.2 +- sqrt(x)."""
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        pyro.sample("x", dist.Normal((z + 0.2) ** 2, 0.5), obs=x)


def by_quadrature(x):
    """Log p(x), and the mean of the code of a row of `two_sided`."""
    z = np.linspace(-8.0, 8.0, 40_001)
    log_p = norm.logpdf(z) + norm.logpdf(x, (z + 0.2) ** 2, 0.5)
    mass = np.exp(log_p - log_p.max())
    return log_p.max() + np.log(np.trapezoid(mass, z)), np.trapezoid(z * mass, z) / mass.sum() / (
        z[1] - z[0]
    )


def exact(x):
    """Mean `[row, code]` and covariance of the codes, and log p(x_i) `[row]`."""
    a = MIX.numpy()
    covariance = np.linalg.inv(np.eye(CODES) + a @ a.T / SIGMA**2)
    mean = x.numpy() @ a.T @ covariance / SIGMA**2
    marginal = multivariate_normal(cov=a.T @ a + SIGMA**2 * np.eye(PIXELS))
    return mean, covariance, marginal.logpdf(x.numpy())


def fitted(program, data, family="block_full_rank", **options):
    entry = zoo.from_program(program, data, batched=["x"], minibatch=40, judged="all")
    return guides.fit(entry, family, seed=0, compile="off", **{**STEPS, **options})


@pytest.fixture(scope="module")
def few_rows():
    """Assess twelve rows of eighty: each has a posterior of its own, and costs its own time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.comparison.assess.compared_rows", fewer)
        yield


def fewer(fit, seed, rows=FEW):
    return compared_rows(fit, seed, rows)


@pytest.fixture(scope="module")
def linear(eager, few_rows):
    fit = fitted(codes, {"x": X})
    return fit, assess(fit, progress=False)


def test_rows_have_their_own_posterior_and_evidence(linear):
    _, found = linear
    truth = found.reference.posterior
    rows = [int(n) for n in truth.data.coords["image"]]
    mean, covariance, evidence = exact(X[rows])
    assert len(rows) >= FEW - 2
    at = found.reference.moments["z"]
    z = (at.mean.numpy() - mean) / at.mean_se.numpy()
    assert np.sqrt((z**2).mean()) < 1.6  # errors are widened for three degrees of freedom
    sds = np.sqrt(np.diag(covariance))
    assert np.abs(at.mean.numpy() - mean).max() < 0.25 * sds.min()
    assert np.log(at.sd.numpy() / sds).std() < 0.1
    said = next(c.sentence for c in found.checks if c.name == "smc")
    value = float(said.split("Log evidence ")[1].split(" ")[0])
    assert value == pytest.approx(evidence.mean(), abs=0.1)


def test_the_nats_of_a_row_are_those_of_the_closed_form(linear):
    """KL of two normals, from the guide's own mean and covariance of each row."""
    fit, found = linear
    rows = compared_rows(fit, 0, FEW)
    mean, covariance, _ = exact(X[rows.chosen])
    q = rows.values.numpy()
    lost = []
    for i in range(len(mean)):
        own = np.cov(q[:, i].T)
        gap = q[:, i].mean(0) - mean[i]
        precision = np.linalg.inv(covariance)
        lost.append(
            0.5
            * (
                np.trace(precision @ own)
                + gap @ precision @ gap
                - CODES
                + np.linalg.slogdet(covariance)[1]
                - np.linalg.slogdet(own)[1]
            )
        )
    assert isinstance(found.kl, RowNats)
    assert found.kl.value == pytest.approx(np.mean(lost), abs=0.03)
    assert found.kl.worst == pytest.approx(np.max(lost), abs=0.15)
    assert found.kl.rows == len(found.reference.posterior.data.train["x"])
    assert not found.kl.bound
    assert "nats per row below the log evidence of" in found.sentence


def test_an_assessment_by_rows_has_a_document_and_no_evidence_of_the_whole(linear):
    """The evidence of rows is per row, and a check says it: rows of known evidence."""
    fit, found = linear
    assert found.reference.posterior.method == "smc"
    assert found.evidence is None
    written = json.loads(json.dumps(found.to_json()))
    assert written["log_evidence"] is None
    said = next(c["sentence"] for c in written["checks"] if c["name"] == "smc")
    value = float(said.split("Log evidence ")[1].split(" ")[0])
    assert value == pytest.approx(
        exact(found.reference.posterior.data.train["x"])[2].mean(), abs=0.1
    )
    assert written["kl_nats"]["rows"] >= FEW - 2
    with pytest.raises(UsageError, match="short chains, of all rows at once"):
        assess(fit, smc=found.reference, progress=False)


def test_what_is_compared_are_64_rows_that_the_seed_draws(linear):
    fit, found = linear
    rows = compared_rows(fit, 0)
    assert len(rows.chosen) == 64
    assert rows.words == "64 of 80 rows"
    assert set(compared_rows(fit, 0, FEW).chosen.tolist()) < set(rows.chosen.tolist())
    assert rows.chosen.tolist() == compared_rows(fit, 0).chosen.tolist()
    assert rows.chosen.tolist() != compared_rows(fit, 1).chosen.tolist()
    torch.testing.assert_close(rows.data.train["x"], X[rows.chosen])
    assert f"on {len(found.reference.posterior.data.train['x'])} of 80 rows" in found.sentence
    drawn = row_posterior(fit, rows)
    assert drawn.draws["z"].shape == (2048, 64, CODES)
    torch.testing.assert_close(drawn.draws["z"], rows.values)


def test_rows_that_are_asked_for_are_the_ones_that_are_repaired(linear):
    """Few coordinates or many: each of them is a posterior of its own."""
    fit, _ = linear
    repaired = benchmarks.repair(fit, rows=[41, 3, 70], progress=False)
    assert repaired.data.coords["row"] == ["41", "3", "70"]
    mean, covariance, _ = exact(X[[41, 3, 70]])
    gap = (repaired.draws["z"].mean(0).numpy() - mean) / np.sqrt(np.diag(covariance))
    assert np.abs(gap).max() < 0.25
    assert "Of 3 of 80 rows, each by itself: 41, 3, 70." in repaired.notes
    alone = assess(fit, rows=np.array([70]), progress=False)
    assert alone.repaired.data.coords["row"] == ["70"]
    assert alone.kl.rows == 1
    assert 0 < alone.kl.se < 0.1


def test_a_number_of_rows_is_drawn_by_the_seed(linear):
    fit, _ = linear
    five = compared_rows(fit, 0, 5).chosen.tolist()
    assert len(set(five)) == 5
    assert five == sorted(five)
    assert five != list(torch.linspace(0, 79, 5).long())
    assert set(five) <= set(compared_rows(fit, 0).chosen.tolist())
    assert compared_rows(fit, 0, 999).chosen.tolist() == list(range(80))


def test_rows_that_cannot_be_assessed_are_refused(linear):
    fit, _ = linear
    accepted = "accepted: a number of rows, or different row numbers from 0 to 79."
    for rows, words in [([80], "[80]"), ([2, 2], "[2, 2]"), ("3", "'3'")]:
        with pytest.raises(UsageError) as caught:
            benchmarks.repair(fit, rows=rows)
        assert str(caught.value) == f"rows has the rows {words}; {accepted}"
    with pytest.raises(UsageError) as caught:
        assess(fit, rows=0)
    assert str(caught.value) == "rows is 0; accepted: at least 1 row."
    with pytest.raises(UsageError) as caught:
        assess(fit, rows=3, draws=guides.draw(fit, 100))
    assert str(caught.value) == (
        "rows asks for some of the rows, but draws are those of all of them; give a number of"
        " draws, or leave rows out."
    )
    other = guides.fit(zoo.load("coin"), "mean_field", seed=0, compile="off", steps=5)
    with pytest.raises(UsageError) as caught:
        benchmarks.repair(other, rows=3)
    assert str(caught.value) == (
        "rows asks for some of the rows, but not every latent value of coin is a continuous value"
        " of one of several rows; leave rows out."
    )


def test_an_entry_that_knows_no_rows_is_told_how_to_name_them():
    def model(x):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    entry = zoo.from_program(model, {"x": torch.linspace(-1.0, 1.0, 5)})
    fit = guides.fit(entry, "mean_field", seed=0, compile="off", steps=5)
    for tool in (assess, benchmarks.repair):
        with pytest.raises(UsageError) as caught:
            tool(fit, rows=3)
        assert str(caught.value) == (
            "rows asks for some of the rows, but the entry my_model knows none; pass"
            " batched=['x'] to zoo.from_program, or leave rows out."
        )


def test_draws_of_another_type_are_described(linear):
    with pytest.raises(UsageError) as caught:
        assess(linear[0], draws=X)
    assert str(caught.value) == (
        "assess got draws=a Tensor of shape (80, 5); accepted: a number of draws, or a posterior"
        " from guides.draw."
    )


def test_rows_have_their_numbers_wherever_they_are_named(linear):
    """In scores, in sentences and as coordinates of the repaired draws."""
    _, found = linear
    numbers = [int(n) for n in found.reference.posterior.data.coords["row"]]
    assert numbers == sorted(set(numbers))
    assert max(numbers) > 64  # of eighty, not of those that were drawn
    assert {s.label for s in found.comparison.scores} == {
        f"z[{n}, {k}]" for n in numbers for k in range(CODES)
    }
    assert f"row {found.kl.where.removeprefix('row ')}" in found.sentence
    assert int(found.kl.where.removeprefix("row ")) in numbers
    assert found.repaired.data.coords["row"] == [str(n) for n in numbers]
    assert f"each by itself: {numbers[0]}, {numbers[1]}, " in found.repaired.notes[0]


@pytest.mark.parametrize("call", [benchmarks.assess, benchmarks.repair, benchmarks.gap_report])
def test_an_entry_is_no_fit(linear, call):
    with pytest.raises(UsageError, match=r"got fit=.*accepted: a fit, from guides.fit"):
        call(linear[0].entry)


def test_the_q_of_a_row_is_that_of_the_whole_guide(linear):
    fit, _ = linear
    rows = compared_rows(fit, 0)
    whole = guides.draw(fit, 4000, seed=5).draws["z"][:, rows.chosen]
    gap = (rows.values.mean(0) - whole.mean(0)) / whole.std(0)
    assert gap.abs().max() < 0.12
    assert (rows.values.std(0) / whole.std(0)).log().abs().max() < 0.1


def test_a_good_guide_is_not_flagged_and_a_halved_one_is(linear):
    fit, found = linear
    assert found.verdict == "agrees"
    assert found.gate == 0
    assert found.kl.value < 0.05
    with torch.no_grad():
        before = fit.guide.spread.clone()
        fit.guide.spread.mul_(0.5)
    try:
        narrow = assess(fit, rows=8, progress=False)
    finally:
        with torch.no_grad():
            fit.guide.spread.copy_(before)
    assert narrow.gate == 1
    assert narrow.kl.value > CODES * (math.log(2.0) - 0.375)  # of halved sds alone


def test_a_mode_of_a_row_that_the_guide_misses_is_found(monkeypatch):
    """A normal guide sits on one of two modes; its KL is the log evidence minus its ELBO.

    Of 32 rows SMC holds on nine tenths, of any twelve it may not.
    """
    many = functools.partial(fewer, rows=32)
    monkeypatch.setattr("benchmarks.comparison.assess.compared_rows", many)
    x = torch.linspace(4.0, 9.0, 160, dtype=torch.float64)
    fit = fitted(two_sided, {"x": x}, steps=300)
    found = assess(fit, progress=False)
    assert found.gate == 1
    assert found.verdict in ("wrong_shape", "shifted", "too_narrow")
    kept = found.reference.posterior.data.train["x"].tolist()
    evidence, mean = (np.array(v) for v in zip(*map(by_quadrature, kept), strict=True))
    moments = found.reference.moments["z"]
    z = (moments.mean.numpy() - mean) / moments.mean_se.numpy()
    assert np.sqrt((z**2).mean()) < 1.8
    assert abs((moments.mean.numpy() - mean).mean()) < 0.15
    said = next(c.sentence for c in found.checks if c.name == "smc")
    value = float(said.split("Log evidence ")[1].split(" ")[0])
    assert value == pytest.approx(evidence.mean(), abs=0.06)
    assert 0.2 < found.kl.value < 1.5  # -log of the mass of the mode that is seen
    assert found.kl.worst > found.kl.value + 0.05


def learned(x):
    """The codes with a matrix that is learned."""
    mix = pyro.param("mix", MIX[:, :PIXELS].clone())
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(CODES, dtype=x.dtype), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ mix, SIGMA).to_event(1), obs=x)


def test_rows_are_assessed_one_by_one_where_weights_are_learned():
    """Six rows have 18 coordinates, few enough for all at once; their codes never interact."""
    fit = fitted(learned, {"x": X[:6]}, steps=60)
    assert fit.entry.learns
    found = assess(fit, progress=False)
    assert "of 6 rows" in found.sentence
    assert found.kl.rows >= 5


def two_kinds(x):
    """A kind and a code per row."""
    with pyro.plate("row", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.ones(2, dtype=x.dtype)))
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        pyro.sample("x", dist.Normal(z + 4.0 * y, 1.0), obs=x)


def test_rows_with_a_discrete_value_are_refused_for_their_reason():
    data = {"x": torch.arange(8.0, dtype=torch.float64)}
    with pytest.raises(UsageError, match="'y' is summed out of all rows at once"):
        zoo.from_program(two_kinds, data, minibatch=4, judged=3)
    entry = zoo.from_program(two_kinds, data, minibatch=4)
    fit = guides.fit(entry, "mean_field", seed=0, compile="off", steps=20)
    with pytest.raises(UsageError, match="my_model: 'y' is summed out of all rows at once"):
        benchmarks.gap_report(fit)


def test_a_budget_that_does_not_suffice_is_said(linear):
    found = assess(linear[0], budget=0.0, progress=False)
    said = {c.name: c for c in found.checks}
    assert said["drift"].passed is None
    assert "not run" in said["smc"].sentence
    assert found.verdict == "inconclusive"
    assert found.kl is None
    assert found.reference is None


def test_terms_of_rows_are_the_programs_density(linear):
    """Summed over rows they are the log density of the program, up to nothing."""
    rows = compared_rows(linear[0], 0)
    terms = ProgramTerms(rows.density).paired(row_numbers(rows.density), rows.values[:3])
    whole = torch.stack([rows.density(u) for u in rows.flat(rows.values[:3])])
    torch.testing.assert_close(terms.sum(1), whole)
