"""A site whose log probability broadcasts beyond its plates is refused in every entry path.

A column `[n, 1]` against a plate of n rows gives a likelihood of n x n terms, on whose posterior
all methods agree.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import benchmarks
import guides
import zoo
from zoo.density.log_density import LogDensity
from zoo.errors import ProgramError
from zoo.quantities import site
from zoo.types import Data, ModelEntry, Quantity

N = 30
X = np.linspace(-1.0, 1.0, N)
Y = 2.0 * X + 0.1 + 0.5 * np.sin(7.0 * np.arange(N))


def line(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("n", N):
        pyro.sample("y", dist.Normal(a + b * x, 0.5), obs=y)


def closed_form():
    """Mean and sd of (a, b): a conjugate regression with known noise."""
    design = np.c_[np.ones(N), X]
    covariance = np.linalg.inv(design.T @ design / 0.25 + np.eye(2) / 25)
    return covariance @ (design.T @ Y / 0.25), np.sqrt(np.diag(covariance))


def test_rows_give_the_closed_form():
    entry = zoo.from_program(line, {"x": X, "y": Y})
    draws = guides.draw(guides.fit(entry, "laplace", seed=0), 4000).draws
    mean, sd = closed_form()
    for i, name in enumerate(("a", "b")):
        x = draws[name].reshape(-1)
        assert abs(float(x.mean()) - mean[i]) < 5 * sd[i] / 4000**0.5
        assert abs(float(x.std()) / sd[i] - 1) < 5 / 8000**0.5
    assert mean[1] == pytest.approx(1.986, abs=5e-4)
    assert sd[1] == pytest.approx(0.153, abs=5e-4)


REFUSAL = (
    r"Site 'y' broadcasts: .* shape \[30, 1\] .* batch shape \[30\] .* 900 .* \(plates: 'n' of"
    r" 30\); .*squeeze\(-1\)"
)


def test_a_column_of_targets_is_refused_by_every_entrance():
    data = {"x": X, "y": Y[:, None]}
    with pytest.raises(ProgramError, match=REFUSAL):
        zoo.from_program(line, data)
    with pytest.raises(ProgramError, match=REFUSAL):
        benchmarks.compare_program(line, data, ["laplace"], quick=True)
    tensors = {k: torch.as_tensor(v) for k, v in data.items()}
    entry = ModelEntry(
        name="column",
        title="t",
        make_data=lambda seed: Data(train=tensors, observed=("y",), source="s", licence="l"),
        build=lambda data: line,
        quantities={"b": Quantity(fn=site("b"))},
        reference="nuts",
    )
    for enter in (lambda: guides.fit(entry, "mean_field"), lambda: benchmarks.run_nuts(entry)):
        with pytest.raises(ProgramError, match=REFUSAL):
            enter()
    failed = [
        r for c in zoo.contract.checks(entry) if (r := zoo.contract.run(c)).status == "failed"
    ]
    assert any("broadcasts" in r.sentence for r in failed)


def rows(value, *, covariate=None, plate_dim=-1, event=0, shape=(N,), mask=None):
    """Return a program that observes `value` at a plate of 30 rows, and its data."""

    def program(y, x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        fn = dist.Normal(m + x, 1.0)
        with pyro.plate("n", N, dim=plate_dim):
            fn = fn.to_event(event) if event else fn
            pyro.sample("y", fn if mask is None else fn.mask(mask), obs=y)

    return program, {
        "y": value,
        "x": torch.zeros(shape, dtype=torch.float64) if covariate is None else covariate,
    }


ones = torch.ones(N, 3, dtype=torch.float64)
BROADCASTS = {
    "covariates of one column": rows(ones[:, 0], covariate=ones[:, :1]),
    "a plate at another axis": rows(ones[:, 0], plate_dim=-2),
    "a mask of one column": rows(ones[:, 0], mask=ones[:, :1] > 0),
    "one value for three of an event": rows(ones[:, :1], event=1, shape=(N, 3)),
}


@pytest.mark.parametrize("name", BROADCASTS)
def test_the_whole_kind_is_refused(name):
    program, data = BROADCASTS[name]
    with pytest.raises(ProgramError, match="Site 'y' broadcasts"):
        zoo.from_program(program, data)


def test_one_value_for_three_of_a_multivariate_event_is_refused():
    """A joint distribution refuses it without our check."""

    def program(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("n", N):
            pyro.sample(
                "y", dist.MultivariateNormal(m.expand(3), torch.eye(3, dtype=torch.float64)), obs=y
            )

    with pytest.raises(
        ProgramError, match=r"site 'y': The right-most size of value must match event_shape"
    ):
        zoo.from_program(program, {"y": ones[:, :1]})
    assert zoo.from_program(program, {"y": ones}).quantities


def factors(m):
    with pyro.plate("n", N):
        pyro.factor("f", -m * torch.ones(N, 1, dtype=torch.float64))


def test_a_factor_of_one_column_is_refused():
    def program():
        factors(pyro.sample("m", dist.Normal(0.0, 1.0)))

    with pytest.raises(ProgramError, match="Site 'f' broadcasts"):
        zoo.from_program(program, {})


def no_plate(y, x):
    m = pyro.sample("m", dist.Normal(torch.zeros(3), 1.0))
    pyro.sample("y", dist.Normal((x * m).sum(-1), 1.0), obs=y)


def constant(y, x):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("n", N):
        pyro.sample("y", dist.Normal(m + x, 1.0), obs=torch.tensor(0.0))


EVENT = rows(ones, event=1, shape=(N, 3))
REPEATED = rows(ones, event=1, shape=(N, 1))  # one argument for the three values of an event


@pytest.mark.parametrize(
    ("program", "data", "terms"),
    [
        (no_plate, (ones[:, 0], ones), N),
        (constant, (ones[:, 0], ones[:, 0]), N),
        (*EVENT, 3 * N),
        (*REPEATED, 3 * N),
    ],
    ids=["no plate, no broadcast", "one constant for all rows", "an event of three", "repeated"],
)
def test_what_does_not_broadcast_is_taken_and_has_its_density(program, data, terms):
    """At m = 0, with x = 0 or 1 and y as given, the log density is a sum of normal terms."""
    entry = zoo.from_program(program, data)
    made = entry.load_data()
    density = LogDensity(entry.program(made), made)
    u = torch.zeros(density.dim, dtype=torch.float64)
    value = made.train["y"] if program is not constant else torch.zeros(N)
    center = made.train["x"] if program is not no_plate else torch.zeros(N)
    residual = (torch.as_tensor(value, dtype=torch.float64) - center).square().sum()
    expected = -0.5 * residual - 0.5 * (terms + density.dim) * torch.log(
        torch.tensor(2 * torch.pi, dtype=torch.float64)
    )
    assert float(density(u)) == pytest.approx(float(expected), abs=1e-10)


def test_a_series_of_any_length_is_taken():
    eye = torch.eye(1, dtype=torch.float64)

    def program(y):
        s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
        normal = dist.MultivariateNormal(torch.zeros(1, dtype=torch.float64), eye)
        pyro.sample(
            "y",
            dist.GaussianHMM(
                normal, eye, normal, eye, dist.MultivariateNormal(torch.zeros(1), s * eye)
            ),
            obs=y,
        )

    assert zoo.from_program(program, {"y": torch.randn(12, 1)}).quantities
