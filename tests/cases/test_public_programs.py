"""Programs as they are published: right values, or a refusal in one sentence."""

import functools
import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger, init_to_median
from pyro.nn import PyroModule, PyroSample

import zoo
from zoo.density.log_density import LogDensity
from zoo.density.symmetries import BLOCK, symmetries
from zoo.errors import DataError, ProgramError

F = torch.float64
ONE = torch.tensor(1.0, dtype=F)
THREE = torch.tensor([1.0, 0.5, 2.0], dtype=F)
CHANCE = torch.tensor([0.3, 0.6], dtype=F)


def density_of(model, data):
    entry = zoo.from_program(model, data)
    loaded = entry.load_data()
    return LogDensity(entry.program(loaded), loaded)


# -- statements that take a plate for the only axis --------------------------------------------


def coins():
    with pyro.plate("coins", 2):
        return pyro.sample("a", dist.Bernoulli(CHANCE))


def whole_sum(y):
    """All values at once give log 0.5: the sum runs over values of one coin, not over coins."""
    pyro.sample("y", dist.Bernoulli((1.0 + coins().sum()) / 4.0), obs=y)


def whole_sum_and_a_mean(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(mean + coins().sum(), 1.0), obs=y)


def product_of_two(y):
    """One value at a time: (0, 0) and (1, 1), of which (0, 0) was taken for the rest."""
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    a = coins()
    with pyro.plate("rows", 3):
        pyro.sample("y", dist.Normal(mean + a[..., 0] * a[..., 1], 1.0), obs=y)


def sum_in_a_factor(y):
    """All values at once gave -1.919 for three fair coins at m = 0.3; the sum gives -1.497."""
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("coins", 3):
        a = pyro.sample("a", dist.Bernoulli(torch.full((3,), 0.5, dtype=F)))
    pyro.factor("count", mean - (a.sum() - 2.0 * y) ** 2)


@pytest.mark.parametrize(
    ("model", "y"),
    [
        (whole_sum, ONE),
        (whole_sum_and_a_mean, ONE),
        (product_of_two, THREE),
        (sum_in_a_factor, ONE),
    ],
)
def test_a_sum_over_a_plate_is_no_sum_over_values(model, y):
    with pytest.raises(ProgramError, match=r"discrete site 'a'.*outside their plates depends"):
        zoo.from_program(model, {"y": y})


def test_sums_by_rows_have_the_value_of_the_sum_over_all_states():
    """Chains of states: every state chooses the row of the next."""
    rows = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=F)
    x = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.1, -0.4]], dtype=F)

    def model(x):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("series", 2):
            state = torch.zeros(2, dtype=torch.long)
            for t in pyro.markov(range(3)):
                state = pyro.sample(f"state_{t}", dist.Categorical(rows[state]))
                mean = torch.where(state == 1, 1.0, -1.0) + shift
                pyro.sample(f"x_{t}", dist.Normal(mean, 1.0), obs=x[:, t])

    right = dist.Normal(0.0 * ONE, 1.0).log_prob(0.4 * ONE)
    for series in x:
        terms = []
        for path in itertools.product((0, 1), repeat=3):
            term, before = torch.zeros((), dtype=F), 0
            for state, value in zip(path, series, strict=True):
                term = term + rows[before, state].log()
                term = term + dist.Normal((2.0 * state - 0.6) * ONE, 1.0).log_prob(value)
                before = state
            terms.append(term)
        right = right + torch.stack(terms).logsumexp(0)
    got = density_of(model, {"x": x})(torch.tensor([0.4], dtype=F))
    assert float(got) == pytest.approx(float(right), rel=1e-12)


# -- exact draws of sites whose values are events ----------------------------------------------


def test_exact_draws_of_one_hot_states_in_a_plate():
    y = torch.tensor([-1.0, 1.0], dtype=F)

    def model(y):
        kind = pyro.sample("kind", dist.Bernoulli(0.5))
        weights = torch.stack([0.3 + 0.4 * kind, 0.7 - 0.4 * kind], -1)
        with pyro.plate("rows", 2):
            z = pyro.sample("z", dist.OneHotCategorical(weights))
            pyro.sample("y", dist.Normal(z[..., 1] - z[..., 0], 1.0), obs=y)

    joint = torch.zeros(2, 2, 2, dtype=F)  # kind, z of both rows
    for kind, *states in itertools.product((0, 1), repeat=3):
        p = 0.5
        for state, value in zip(states, y, strict=True):
            p *= (0.3 + 0.4 * kind, 0.7 - 0.4 * kind)[state]
            p *= float(dist.Normal((2.0 * state - 1.0) * ONE, 1.0).log_prob(value).exp())
        joint[kind, states[0], states[1]] = p
    entry = zoo.from_program(model, {"y": y})
    exact = entry.exact(entry.load_data())
    assert exact.log_evidence == pytest.approx(float(joint.sum().log()), rel=1e-10)
    n = 200
    draws = exact.sample(n, 3)
    assert draws["z"].shape == (n, 2, 2)
    assert bool((draws["z"].sum(-1) == 1).all())
    index = 4 * draws["kind"] + 2 * draws["z"][:, 0, 1] + draws["z"][:, 1, 1]
    found = torch.bincount(index.long(), minlength=8) / n
    right = (joint / joint.sum()).reshape(-1)
    assert bool(((found - right).abs() < 5 * (right * (1 - right) / n).sqrt()).all())


# -- programs that write where they should read ------------------------------------------------


def writes_a_latent(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with torch.no_grad():
        a[0] = y.sum()
    pyro.sample("y", dist.Normal(a.sum(), 1.0).expand([3]).to_event(1), obs=y)


def writes_a_view(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    a[1:].mul_(2.0)
    pyro.sample("y", dist.Normal(a.sum(), 1.0).expand([3]).to_event(1), obs=y)


def writes_its_data(y):
    y -= 1.0
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(a, 1.0).expand([3]).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (writes_a_latent, "latent site 'a' in place"),
        (writes_a_view, "latent site 'a' in place"),
        (writes_its_data, "data 'y' in place"),
    ],
)
def test_writing_into_a_latent_value_or_data_is_refused(model, what):
    """The vector of the sampler, or the reader's own data, would change under it."""
    with pytest.raises(ProgramError, match=rf"{what}.*clone"):
        zoo.from_program(model, {"y": THREE.clone()})


def test_data_that_are_written_with_the_numbers_they_have_are_accepted():
    def model(y):
        y[y > 1.5] = 1.5
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a, 1.0).expand([3]).to_event(1), obs=y)

    got = density_of(model, {"y": THREE.clone()})(torch.tensor([0.4], dtype=F))
    y = torch.tensor([1.0, 0.5, 1.5], dtype=F)
    right = dist.Normal(0.4 * ONE, 1.0).log_prob(y).sum() - 0.5 * 0.4**2 - 0.9189385332046727
    assert float(got) == pytest.approx(float(right), rel=1e-12)


# -- refusals with their own reason ------------------------------------------------------------


def test_a_part_of_a_plate_is_named():
    def latent(y, rows):
        with pyro.plate("all", 9, subsample=rows):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(a, 1.0), obs=y)

    def likelihood(y, rows):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("all", 9, subsample=rows):
            pyro.sample("y", dist.Normal(a, 1.0), obs=y)

    for model in (latent, likelihood):
        with pytest.raises(ProgramError, match=r"'all' is given 3 of its 9 rows.*3 times"):
            zoo.from_program(model, {"y": THREE, "rows": torch.arange(3)})


def test_one_number_for_an_event_is_refused_by_its_shapes():
    def model(y):
        x = pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("y", dist.Normal(x, 0.1).to_event(1), obs=y)

    with pytest.raises(ProgramError, match=r"'y' broadcasts: values of shape \[\].*\[2\]"):
        zoo.from_program(model, {"y": torch.tensor(4.0)})


def test_values_outside_an_event_are_still_refused():
    def model(y):
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        pyro.sample("y", dist.Bernoulli(p).expand([2]).to_event(1), obs=y)

    with pytest.raises(DataError, match="'y'"):
        zoo.from_program(model, {"y": torch.tensor([0.0, 4.0])})


def test_a_tensor_for_a_name_is_named():
    def model(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample(y, dist.Normal(a, 1.0), obs=y)

    with pytest.raises(ProgramError, match=r"a Tensor for its name.*pyro\.sample\(y, "):
        zoo.from_program(model, {"y": ONE})


def test_a_name_used_twice_is_refused_with_its_cure():
    def model(y):
        for value in y:
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(a, 1.0), obs=value)

    with pytest.raises(ProgramError, match=r"site 'a'.*a name of its own"):
        zoo.from_program(model, {"y": THREE})


# -- programs inside handlers ------------------------------------------------------------------


class Line(PyroModule):
    def __init__(self):
        super().__init__()
        self.slope = PyroSample(dist.Normal(0.0, 1.0))

    def forward(self, x, y=None):
        mean = self.slope * x
        with pyro.plate("rows", 3):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pytest.mark.parametrize(
    "wrap",
    [
        functools.partial,
        InitMessenger(init_to_median),
        lambda line: poutine.condition(line, data={}),
    ],
)
def test_a_program_inside_a_handler_keeps_the_names_of_its_arguments(wrap):
    x = torch.tensor([1.0, 2.0, -1.0], dtype=F)
    entry = zoo.from_program(wrap(Line()), (x, THREE))
    data = entry.load_data()
    assert list(data.train) == ["x", "y"]
    assert data.observed == ("y",)
    got = LogDensity(entry.program(data), data)(torch.tensor([0.4], dtype=F))
    right = dist.Normal(0.4 * x, 1.0).log_prob(THREE).sum()
    right = right + dist.Normal(0.0 * ONE, 1.0).log_prob(0.4 * ONE)
    assert float(got) == pytest.approx(float(right), rel=1e-12)


def test_a_parameter_made_before_the_program_keeps_its_value_and_constraint():
    """Scripts make their parameters once and read them by name alone."""

    def model(y):
        scale = pyro.param("scale")
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a, scale).expand([3]).to_event(1), obs=y)

    pyro.clear_param_store()
    pyro.param("scale", torch.tensor(2.5), constraint=dist.constraints.positive)
    try:
        entry = zoo.from_program(model, {"y": THREE})
        assert float(pyro.param("scale").detach()) == 2.5
    finally:
        pyro.clear_param_store()
    data = entry.load_data()
    program = entry.program(data)
    assert entry.learns
    assert [float(v.detach().exp()) for v in program.parameters()] == pytest.approx([2.5])
    got = LogDensity(program, data)(torch.tensor([0.4], dtype=F))
    right = dist.Normal(0.4 * ONE, 2.5).log_prob(THREE).sum()
    right = right + dist.Normal(0.0 * ONE, 1.0).log_prob(0.4 * ONE)
    assert float(got.detach()) == pytest.approx(float(right), rel=1e-12)


# -- many latent values ------------------------------------------------------------------------


def test_rotations_of_a_long_axis_need_no_square_matrix():
    """A matrix of 60,000 by 60,000 numbers would take 29 GB and hours."""
    n = 60_000
    x = torch.zeros(n, dtype=F)

    def model(x):
        with pyro.plate("rows", n):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    data = zoo.types.Data(train={"x": x}, source="s", licence="l")
    assert symmetries(LogDensity(model, data)) == ()


def test_a_rotation_of_a_long_axis_is_found():
    """Only the products of the rows are seen, so their axis turns freely."""
    n, k = 3, BLOCK + 40

    def model(y):
        left = pyro.sample("left", dist.Normal(0.0, 1.0).expand([n, k]).to_event(2))
        pyro.sample("y", dist.Normal(left @ left.mT, 1.0).to_event(2), obs=y)

    y = torch.diag(torch.tensor([20.0, 5.0, 10.0], dtype=F))
    data = zoo.types.Data(train={"y": y}, source="s", licence="l")
    found = symmetries(LogDensity(model, data))
    assert [(s.kind, s.axes) for s in found] == [("rotation", (("left", 1),))]
