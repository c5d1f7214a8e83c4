"""Programs that stock Pyro runs are loaded, and have the posterior they have there."""

import dataclasses
from typing import ClassVar

import numpy as np
import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDiagonalNormal, AutoGuideList, AutoNormal
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample, pyro_method
from torch import nn

import benchmarks
import guides
import zoo
from zoo.density.log_density import LogDensity
from zoo.errors import DataError, ProgramError, UsageError
from zoo.quantities import site
from zoo.types import Data, ModelEntry, Quantity

F = torch.float64


def density_of(entry):
    data = entry.load_data()
    return LogDensity(entry.program(data), data, dtype=entry.dtype)


def at(entry, *values):
    return float(density_of(entry)(torch.tensor(values, dtype=F)))


def moments_of(entry, name, n=4000, family="laplace"):
    """Mean and sd of a site under a guide that is exact for Gaussian posteriors."""
    draws = guides.draw(guides.fit(entry, family, seed=0), n).draws[name].reshape(n, -1)
    return draws.mean(0), draws.std(0)


def assert_gaussian(entry, name, mean, sd, n=4000):
    got, spread = moments_of(entry, name, n)
    assert torch.all((got - torch.as_tensor(mean)).abs() < 5 * torch.as_tensor(sd) / n**0.5)
    assert torch.all((spread / torch.as_tensor(sd) - 1).abs() < 5 / (2 * n) ** 0.5)


# -- modules inside a function -----------------------------------------------------------------

X = torch.linspace(-1.0, 1.0, 20, dtype=F)
LINE = {"x": X, "y": 2.0 * X}


TRAINED = {"steps": 250, "patience": 50, "anneal": 50, "lr": 0.1, "weight_lr": 0.1}


class Slope(PyroModule):
    def __init__(self, bias=False):
        super().__init__()
        self.weight = PyroSample(dist.Normal(0.0, 1.0))
        self.bias = nn.Parameter(torch.tensor(0.3)) if bias else 0.0

    def forward(self, x):
        return self.weight * x + self.bias

    @pyro_method
    def model(self, x, y=None):
        mean = self.weight * x  # outside the plate: Pyro draws one per row inside it
        with pyro.plate("n", 20):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def function_of(net):
    def model(x, y=None):
        mean = net(x)
        with pyro.plate("n", 20):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    return model


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("form", ["function", "method"])
def test_a_module_inside_a_function_is_loaded(form, local):
    with pyro.settings.context(module_local_params=local):
        net = Slope()
        entry = zoo.from_program(function_of(net) if form == "function" else net.model, LINE)
    assert list(entry.quantities) == ["weight"]
    assert not entry.learns
    mean, sd = float(2 * (X @ X) / (0.25 + X @ X)), float((1 + (X @ X) / 0.25) ** -0.5)
    assert (mean, sd) == pytest.approx((1.9344, 0.1811), abs=5e-5)
    assert_gaussian(entry, "weight", mean, sd)


@pytest.mark.parametrize("local", [False, True])
def test_a_plain_weight_of_a_module_inside_is_trained(local):
    with pyro.settings.context(module_local_params=local):
        net = Slope(bias=True)
        entry = zoo.from_program(function_of(net), {"x": X, "y": 2.0 * X + 1.5})
    assert entry.learns
    data = entry.load_data()
    program = entry.program(data)
    density = LogDensity(program, data)
    u = torch.tensor([0.7], dtype=F)
    (slope,) = torch.autograd.grad(density.evaluate(u), list(program.parameters()))
    residual = data.train["y"] - 0.7 * X - 0.3
    assert float(slope) == pytest.approx(float(residual.sum() / 0.25), rel=1e-6)
    fit = guides.fit(entry, "mean_field", seed=0, **TRAINED)
    (trained,) = fit.program.parameters()
    assert float(trained.detach()) == pytest.approx(1.5, abs=0.05)  # the evidence is highest there
    assert net.bias.item() == pytest.approx(0.3)
    assert not pyro.get_param_store().keys()


@pytest.mark.parametrize("learns", [False, True])
def test_parameters_of_a_function_are_trained_or_refused(learns):
    """An entry made by hand: a parameter that stays at its start would be a silent answer."""
    with pyro.settings.context(module_local_params=True):
        net = Slope(bias=True)
    data = Data(train={"x": X, "y": 2.0 * X + 1.5}, observed=("y",), source="s", licence="l")
    entry = ModelEntry(
        name="by_hand",
        title="t",
        make_data=lambda seed: data,
        build=lambda data: function_of(net),
        quantities={"weight": Quantity(fn=site("weight"))},
        reference="nuts",
        learns=learns,
    )
    if not learns:
        with pytest.raises(ProgramError, match=r"'bias'.*learns=True"):
            guides.fit(entry, "mean_field")
        return
    fit = guides.fit(entry, "mean_field", seed=0, **TRAINED)
    (trained,) = fit.program.parameters()
    assert float(trained.detach()) == pytest.approx(1.5, abs=0.05)


def test_a_plain_network_inside_a_function_is_used_and_not_trained():
    """Stock Pyro does not train it either: it is not registered."""
    torch.manual_seed(1)
    net = nn.Linear(1, 1)

    def model(x, y=None):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 20):
            pyro.sample("y", dist.Normal(net(x[:, None])[:, 0] + shift, 0.5), obs=y)

    entry = zoo.from_program(model, LINE)
    assert not entry.learns
    residual = LINE["y"] - (net.weight.double() * X + net.bias.double()).reshape(-1).detach()
    precision = 1 + 20 / 0.25
    assert_gaussian(entry, "shift", float(residual.sum() / 0.25 / precision), precision**-0.5)


def test_a_gaussian_process_of_pyro_contrib():
    """Its log density is a normal one with the kernel matrix written out."""
    x, y = torch.linspace(0.0, 1.0, 6), torch.sin(torch.linspace(0.0, 3.0, 6))
    kernel = gp.kernels.RBF(input_dim=1)
    kernel.lengthscale = PyroSample(dist.LogNormal(0.0, 1.0))
    kernel.variance = PyroSample(dist.LogNormal(0.0, 1.0))
    process = gp.models.GPRegression(x, y, kernel, noise=torch.tensor(0.1), jitter=1e-6)
    entry = zoo.from_program(process.model, {})
    assert {"log kernel.lengthscale", "log kernel.variance"} <= set(entry.quantities)
    density = density_of(entry)
    u = torch.tensor([0.2, -0.3], dtype=F)
    values = density.constrain(u)
    length, variance = values["kernel.lengthscale"], values["kernel.variance"]
    gaps = (x.double()[:, None] - x.double()) / length
    noise = float(torch.tensor(0.1))
    matrix = variance * torch.exp(-0.5 * gaps.square())
    matrix = matrix + (noise + 1e-6) * torch.eye(6, dtype=F)
    expected = dist.MultivariateNormal(torch.zeros(6, dtype=F), matrix).log_prob(y.double())
    normal = dist.Normal(torch.tensor(0.0, dtype=F), 1.0)
    expected = expected + sum(normal.log_prob(v.log()) for v in (length, variance))
    assert density(u).item() == pytest.approx(float(expected.detach()), abs=1e-5)


# -- data inside containers --------------------------------------------------------------------


def columns():
    generator = torch.Generator().manual_seed(0)
    x = 100 + 15 * torch.randn(400, generator=generator)
    return x, 25 + 0.6 * x + 18 * torch.randn(400, generator=generator)


def weights(data):
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    s = pyro.sample("s", dist.HalfCauchy(2.5))
    with pyro.plate("d", 400):
        pyro.sample("y", dist.Normal(a + b * data["x"], s), obs=data["y"])


class Table:
    def __init__(self, x, y):
        self.x, self.y, self.rows, self.label = x, y, [x, y], "a table"

    def __getitem__(self, key):
        return getattr(self, key)


class Pair(dict):
    pass


@dataclasses.dataclass
class Record:
    x: torch.Tensor
    y: torch.Tensor

    def __getitem__(self, key):
        return getattr(self, key)


@pytest.mark.parametrize("form", ["dict", "nested", "object", "dataclass", "arrays"])
def test_tensors_inside_an_argument_are_data_of_their_own(form):
    x, y = columns()
    flat = zoo.from_program(lambda x, y: weights({"x": x, "y": y}), {"x": x, "y": y})
    program, given, target = weights, {"x": x, "y": y}, "data.y"
    if form == "nested":
        program, given = (lambda data: weights(data["in"][0])), {"in": [{"x": x, "y": y}, 3]}
        target = "data.in.0.y"
    elif form == "object":
        given = Table(x, y)
    elif form == "dataclass":
        given = Record(x, y)
    elif form == "arrays":
        given = {"x": x.numpy(), "y": y.numpy()}
    entry = zoo.from_program(program, {"data": given})
    card = entry.load_data()
    assert target in card.observed
    assert all(v.dtype == F for v in card.train.values() if isinstance(v, torch.Tensor))
    point = torch.tensor([0.6, 25.0, 3.0], dtype=F)
    expected = dist.Normal(25 + 0.6 * x.double(), point[2].exp()).log_prob(y.double()).sum()
    normal = dist.Normal(torch.tensor(0.0, dtype=F), 10.0)
    expected = expected + normal.log_prob(point[:2]).sum() + point[2]
    expected = expected + dist.HalfCauchy(torch.tensor(2.5, dtype=F)).log_prob(point[2].exp())
    assert float(density_of(entry)(point)) == pytest.approx(float(expected), abs=1e-9)
    assert float(density_of(flat)(point)) == float(density_of(entry)(point))
    assert x.dtype == torch.float32  # the caller's own tensors stay as they are


def test_what_is_wrong_inside_an_argument_is_named():
    x, y = columns()
    y[3] = float("nan")
    with pytest.raises(DataError, match=r"data\.y.* has 1 NaN"):
        zoo.from_program(weights, {"data": {"x": x, "y": y}})


def test_a_matrix_inside_an_argument_meets_weights_of_the_same_type():
    x, y = columns()

    def product(data):
        w = pyro.sample("w", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        with pyro.plate("d", 400):
            pyro.sample("y", dist.Normal(data["x"][:, None] @ w, 10.0), obs=data["y"])

    entry = zoo.from_program(product, {"data": {"x": x, "y": y}})
    precision = float(1 + x.double() @ x.double() / 100)
    mean = float(x.double() @ y.double() / 100) / precision
    assert_gaussian(entry, "w", mean, precision**-0.5)


# -- one type of numbers -----------------------------------------------------------------------

COLUMN = torch.linspace(-1, 1, 30)[:, None] * 3**0.5  # single precision
TARGET = COLUMN[:, 0].double()


class Holder:
    def __init__(self):
        self.X = COLUMN

    def __call__(self, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        with pyro.plate("n", 30):
            pyro.sample("y", dist.Normal(self.X @ w, 1.0), obs=y)


class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("X", COLUMN)

    def forward(self, y=None):
        return Holder.__call__(self, y)


def closure(y=None):
    return Holder()(y)


def written(y=None):
    """A buffer of single precision that latent values are written into keeps them."""
    w = pyro.sample("w", dist.Normal(torch.zeros(1), 1.0).to_event(1))
    with pyro.plate("n", 30):
        pyro.sample("y", dist.Normal(torch.mv(COLUMN, w), 1.0), obs=y)


@pytest.mark.parametrize("program", [Holder(), closure, Buffered(), written])
def test_single_precision_constants_are_promoted(program):
    entry = zoo.from_program(program, {"y": TARGET})
    precision = float(1 + TARGET @ TARGET)
    mean, sd = float(TARGET @ TARGET) / precision, precision**-0.5
    assert (mean, sd) == pytest.approx((0.96976, 0.17390), abs=5e-6)
    assert_gaussian(entry, "w", mean, sd)
    assert density_of(entry).compile("on")["used"]


def coin(y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("n", 10):
        pyro.sample("y", dist.Bernoulli(logits=a), obs=y)


TOSSES = np.array([0, 1, 0, 0, 1, 0, 1, 0, 0, 1])


@pytest.mark.parametrize("kind", [int, bool, float])
def test_zeros_and_ones_of_any_type_are_observed(kind):
    """Mean -0.3016 and sd 0.5519 by quadrature of the density itself."""
    entry = zoo.from_program(coin, {"y": TOSSES.astype(kind)})
    assert entry.load_data().observed == ("y",)
    density = density_of(entry)
    grid = torch.linspace(-8, 8, 4001, dtype=F)
    p = torch.softmax(density.batch(grid[:, None]), 0)
    mean = float((p * grid).sum())
    sd = float(((p * grid**2).sum() - mean**2) ** 0.5)
    assert (mean, sd) == pytest.approx((-0.3016, 0.5519), abs=5e-5)
    expected = -0.5 * 0.4**2 - 0.5 * np.log(2 * np.pi) + 4 * 0.4 - 10 * np.logaddexp(0, 0.4)
    assert float(density(torch.tensor([0.4], dtype=F))) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["integer matrix", "codes as floats", "flags"])
def test_types_that_meet_in_an_operation_are_brought_to_one(kind):
    codes = torch.tensor([0, 1, 1, 0])

    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        if kind == "integer matrix":
            mean = x @ w
        elif kind == "codes as floats":
            mean = w[x]
        else:
            mean = w[0] * (1 - x) + w[1] * x
        with pyro.plate("n", 4):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    x = {
        "integer matrix": torch.stack([1 - codes, codes], -1),
        "codes as floats": codes.double(),
        "flags": codes.bool(),
    }[kind]
    y = torch.tensor([1.0, 2.0, 4.0, 0.0], dtype=F)
    entry = zoo.from_program(model, {"x": x, "y": y})
    assert any("several types" in n for n in entry.notices)
    assert_gaussian(entry, "w", [1 / 3, 2.0], [3**-0.5] * 2)


class Filtered(dist.TorchDistribution):
    """A likelihood like those of pyro.contrib.tracking: a module inside, and no support."""

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, center, gain):
        self.center, self.gain = center, gain
        super().__init__(event_shape=(2,), validate_args=False)

    def log_prob(self, value):
        mean = self.gain(self.center.unsqueeze(0)).squeeze(0)
        return dist.Normal(mean, 1.0).log_prob(value).sum(-1)

    def rsample(self, sample_shape=()):
        mean = self.gain(self.center.unsqueeze(0)).squeeze(0)
        return dist.Normal(mean, 1.0).rsample(sample_shape)


def gain():
    layer = nn.Linear(2, 2, bias=False).to(torch.float32)
    layer.requires_grad_(False)
    layer.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    return layer


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_density_that_mixes_types_and_has_no_support_is_run(dtype, masked):
    """Weights of single precision meet the point inside log_prob, where no statement sees them."""
    layer = gain()

    def model(y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        fn = Filtered(w, layer)
        pyro.sample("y", fn.mask(True) if masked else fn, obs=y)

    entry = zoo.from_program(model, {"y": torch.tensor([2.0, 1.0], dtype=dtype)}, dtype=dtype)
    assert_gaussian(entry, "w", [0.8, 0.5], [5**-0.5, 2**-0.5])


def test_a_latent_site_without_a_support_is_refused_by_what_is_missing():
    layer = gain()

    def model(y=None):
        w = pyro.sample("w", Filtered(torch.zeros(2), layer))
        pyro.sample("y", dist.Normal(w, 1.0).to_event(1), obs=y)

    with pytest.raises(ProgramError, match="does not define 'support'; define it in"):
        zoo.from_program(model, {"y": torch.zeros(2, dtype=F)})


# -- sites -------------------------------------------------------------------------------------


def test_a_check_the_author_switched_off_stays_off():
    counts = torch.tensor([[2.0, 1, 0], [0, 2, 0], [3, 0, 1], [5, 2, 3], [4, 1, 2], [1, 0, 0]])

    def model(counts=None, checked=False):
        p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
        off = None if checked else False
        with pyro.plate("n", 6):
            pyro.sample("y", dist.Multinomial(probs=p, validate_args=off), obs=counts)

    entry = zoo.from_program(model, {"counts": counts})
    assert any("validate_args=False" in n and "'y'" in n for n in entry.notices)
    density = density_of(entry)
    a = 1 + counts.sum(0).double()
    exact = dist.Dirichlet(a)
    u = torch.tensor([[0.1, -0.4], [1.0, 0.3], [-0.5, 0.2]], dtype=F)
    transform = density.sites[0].transform
    p = transform(u)
    gap = density.batch(u) - exact.log_prob(p) - transform.log_abs_det_jacobian(u, p)
    assert torch.allclose(gap, gap[:1].expand(3), atol=1e-9)  # equal up to the evidence
    assert a.div(a.sum()).tolist() == pytest.approx([0.5333, 0.2333, 0.2333], abs=5e-5)
    with pytest.raises(DataError, match="support"):
        zoo.from_program(model, {"counts": counts, "checked": True})


def test_a_matrix_without_columns_is_no_missing_data():
    def model(X, y=None):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("d", 20):
            pyro.sample("y", dist.Normal(a + X.sum(-1), 1.0), obs=y)

    entry = zoo.from_program(model, {"X": torch.zeros(20, 0), "y": torch.full((20,), 2.0)})
    assert_gaussian(entry, "a", 40 / 21, 21**-0.5)
    with pytest.raises(DataError, match="empty"):
        zoo.from_program(model, {"X": torch.zeros(0, 3), "y": torch.full((20,), 2.0)})


def test_a_plate_without_a_size_has_that_of_its_sites():
    y = torch.linspace(-1.0, 1.0, 10, dtype=F)

    def model(y=None):
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(torch.zeros(10), 2.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    entry = zoo.from_program(model, {"y": y})
    assert entry.quantities["z"].dims == ("data",)
    assert_gaussian(entry, "z", 0.8 * y, torch.full((10,), 0.8**0.5, dtype=F))
    assert guides.fit(entry, "mean_field", steps=20).stop.status in ("ok", "not_converged")


def test_a_latent_point_is_deterministic():
    """Mean 0.1053 and sd 0.5187 of a by quadrature; w = exp(a) has no density of its own."""
    y = torch.tensor([1.0, 2.0, 1.5], dtype=F)

    def model(y=None):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        w = pyro.sample("w", dist.Delta(a.exp()))
        with pyro.plate("d", 3):
            pyro.sample("y", dist.Normal(w, 1.0), obs=y)

    entry = zoo.from_program(model, {"y": y})
    assert list(entry.quantities) == ["a"]
    grid = torch.linspace(-8, 4, 6001, dtype=F)
    p = torch.softmax(density_of(entry).batch(grid[:, None]), 0)
    mean = float((p * grid).sum())
    assert mean == pytest.approx(0.1053, abs=5e-5)
    assert float((p * (grid - mean) ** 2).sum() ** 0.5) == pytest.approx(0.5187, abs=5e-5)
    assert guides.fit(entry, "mean_field", steps=20).stop.status in ("ok", "not_converged")


def test_not_a_number_away_from_the_start_is_density_zero():
    """Mean 0.0940 and sd 0.3411 by quadrature over (-1, 1); beyond, log1p(-x^2) is no number."""
    y = torch.tensor([0.3, -0.1, 0.4, 0.2], dtype=F)

    def model(y=None):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("f", torch.log1p(-x * x))
        with pyro.plate("n", 4):
            pyro.sample("y", dist.Normal(x, 1.0), obs=y)

    entry = zoo.from_program(model, {"y": y})
    assert any("is not a number at" in n and "'f'" in n for n in entry.notices)
    posterior = benchmarks.run_nuts(entry, seed=0, tune=500, draws=1000)
    x = posterior.draws["x"]
    ess = 300  # far below what the chains report
    assert float(x.abs().max()) < 1
    assert abs(float(x.mean()) - 0.0940) < 4 * 0.3411 / ess**0.5
    assert abs(float(x.std()) / 0.3411 - 1) < 4 / (2 * ess) ** 0.5


SCHOOLS = {
    "s": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
    "y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]),
}


def schools(s, y=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("j", 8):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, s), obs=y)


@pytest.mark.parametrize("centered", [None, 0.0])
def test_reparameterized_sites_are_compared_as_the_author_named_them(centered):
    """theta = mu + tau^(1-c) (theta_decentered - c mu); the density is the plain program's."""
    model = poutine.reparam(schools, config={"theta": LocScaleReparam(centered)})
    entry = zoo.from_program(model, SCHOOLS)
    assert set(entry.quantities) == {"mu", "log tau", "theta"}
    assert entry.quantities["theta"].dims == ("j",)
    assert not entry.learns
    density, plain = density_of(entry), density_of(zoo.from_program(schools, SCHOOLS))
    u = torch.randn(3, density.dim, dtype=F, generator=torch.Generator().manual_seed(1))
    draws = density.constrain(u)
    c = 0.5 if centered is None else centered
    theta = entry.quantities["theta"].fn(draws, entry.load_data())
    mu, tau, inner = draws["mu"][:, None], draws["tau"][:, None], draws["theta_decentered"]
    assert torch.allclose(theta, mu + tau ** (1 - c) * (inner - c * mu), atol=1e-6)
    there = plain.unconstrain({"mu": draws["mu"], "tau": draws["tau"], "theta": theta})
    stretch = 8 * (1 - c) * draws["tau"].log()
    assert torch.allclose(density.batch(u), plain.batch(there) + stretch, atol=1e-6)


def test_the_first_school_has_its_posterior_mean_through_the_reparameterization():
    """E theta[0] = 6.2119 by quadrature over log tau."""
    model = poutine.reparam(schools, config={"theta": LocScaleReparam()})
    entry = zoo.from_program(model, SCHOOLS)
    posterior = benchmarks.run_nuts(entry, seed=0, tune=500, draws=1000)
    theta = posterior.quantities()["theta"][..., 0]
    assert theta.shape == posterior.draws["mu"].shape
    assert abs(float(theta.mean()) - 6.2119) < 4 * float(theta.std()) / 800**0.5


def test_a_reparameterization_beside_trained_weights_is_undone():
    def learned(s, y=None):
        mu = pyro.param("mu", torch.tensor(1.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("j", 8):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, s), obs=y)

    model = poutine.reparam(learned, config={"theta": LocScaleReparam()})
    entry = zoo.from_program(model, SCHOOLS)
    assert set(entry.quantities) == {"log tau", "theta"}
    assert entry.learns
    assert len(list(entry.program(entry.load_data()).parameters())) == 1


def test_a_sequential_plate_is_compiled_like_a_range():
    """-17.5868 at (0.3, -0.2) by hand."""
    y = torch.tensor([1.0, 2.0, 0.5, 1.5, 3.0, -0.5], dtype=F)

    def rows(counter, y):
        m = pyro.sample("m", dist.Normal(0.0, 5.0))
        s = pyro.sample("s", dist.HalfNormal(2.0))
        for i in counter:
            pyro.sample(f"y{i}", dist.Normal(m, s), obs=y[i])

    for counter in (lambda: pyro.plate("n", 6), lambda: range(6)):
        entry = zoo.from_program(lambda y, counter=counter: rows(counter(), y), (y,))
        density = density_of(entry)
        assert density.compile("on")["used"], density.compiled["reason"]
        value, _ = density.gradient(torch.tensor([0.3, -0.2], dtype=F))
        assert float(value) == pytest.approx(-17.5868, abs=5e-5)


def test_a_branch_on_a_latent_is_noticed_and_qualifies_every_agreement():
    """P(x > 0) is 0.9734 by two Gaussian halves; gradients see none of it."""

    def model(y=None):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Normal(3.0 if x > 0 else -3.0, 1.0))
        pyro.sample("y", dist.Normal(z, 2.0), obs=y)

    data = {"y": torch.tensor(3.0, dtype=F)}
    entry = zoo.from_program(model, data)
    assert any("latent site 'x'" in n and "3.0 if x > 0" in n for n in entry.notices)

    def no_branch(y=None):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        for _ in range(x.shape[0] if x.ndim else 1):
            z = pyro.sample("z", dist.Normal(torch.where(x > 0, 3.0, -3.0), 1.0))
        pyro.sample("y", dist.Normal(z, 2.0), obs=y)

    assert not zoo.from_program(no_branch, data).notices


# -- guides and arguments ----------------------------------------------------------------------

WAVE = 1 + torch.sin(torch.arange(30.0))


def normal(y=None):
    m = pyro.sample("m", dist.Normal(0.0, 5.0))
    s = pyro.sample("s", dist.HalfNormal(2.0))
    with pyro.plate("n", 30):
        pyro.sample("y", dist.Normal(m, s), obs=y)


def listed(program):
    guide = AutoGuideList(program)
    guide.append(AutoNormal(poutine.block(program, expose=["m"])))
    guide.append(AutoDiagonalNormal(poutine.block(program, expose=["s"])))
    return guide


def test_a_function_of_the_program_makes_the_guide():
    entry = zoo.from_program(normal, {"y": WAVE}, guide=listed)
    short = {"steps": 250, "patience": 50, "anneal": 100, "lr": 0.05}
    own, field = (guides.fit(entry, f, seed=0, **short) for f in ("own", "mean_field"))
    gap = own.elbo.value_nats - field.elbo.value_nats
    assert abs(gap) < 0.05 + 4 * (own.elbo.se + field.elbo.se)
    with pytest.raises(UsageError, match="guide=lambda program"):
        zoo.from_program(normal, {"y": WAVE}, guide=listed(normal))
    with pytest.raises(UsageError, match="guide=lambda program"):
        zoo.from_program(normal, {"y": WAVE}, guide=AutoGuideList)


@pytest.mark.parametrize("name", ["model", "guide", "self", "fn", "lifted", "elbo"])
def test_arguments_of_any_name(name):
    """N(2.9990, 0.1825^2): 30 targets of 3, prior N(0, 10^2)."""
    scope = {"pyro": pyro, "dist": dist, "torch": torch}
    text = (
        f"def program({name}, y=None):\n"
        f"    m = pyro.sample('m', dist.Normal(0.0, 10.0 * {name}))\n"
        "    with pyro.plate('d', 30):\n"
        "        pyro.sample('y', dist.Normal(m, 1.0), obs=y)\n"
        f"def q({name}, y=None):\n"
        "    at = pyro.param('at', torch.tensor(2.0))\n"
        "    wide = pyro.param('wide', torch.tensor(0.3))\n"
        "    pyro.sample('m', dist.Normal(at, wide.abs()))\n"
    )
    exec(text, scope)
    entry = zoo.from_program(
        scope["program"], {name: 1.0, "y": torch.full((30,), 3.0)}, guide=scope["q"]
    )
    precision = 30 + 0.01
    assert_gaussian(entry, "m", 90 / precision, precision**-0.5)
    fit = guides.fit(entry, "own", seed=0, steps=60, lr=0.1)
    evidence = guides.fit(entry, "laplace").elbo.value_nats
    assert evidence - 1 < fit.elbo.value_nats < evidence + 4 * fit.elbo.se
