import functools

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.distributions import constraints

import zoo
from zoo.density.log_density import LogDensity, default_dtype
from zoo.errors import DataError, ProgramError, UnknownNameError, UsageError

X = torch.linspace(-1, 1, 12, dtype=torch.float64)
Y = 0.5 * X + torch.sin(7 * X) / 5


def regression(x, y=None):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(w * x, sigma), obs=y)


def gradients(entry, guide=None):
    """Gradients of the ELBO for every parameter of program and guide, by name."""
    data = entry.load_data()
    program = entry.program(data)
    with default_dtype(entry.dtype), pyro.settings.context(module_local_params=True):
        guide = entry.own_guides["own"](program, data, entry) if guide is None else guide(program)
        elbo = (TraceEnum_ELBO if "enum" in entry.tags else Trace_ELBO)(num_particles=2)(
            program, guide
        )
        elbo(**data.train)
        elbo(**data.train).backward()
    return {name: p.grad for name, p in elbo.named_parameters()}


def test_a_plain_function_becomes_an_entry():
    entry = zoo.from_program(regression, {"x": X.numpy(), "y": list(Y.numpy())})
    data = entry.load_data()
    assert data.observed == ("y",)
    assert data.train["x"].dtype == torch.float64
    assert set(entry.quantities) == {"w", "log sigma"}
    assert not entry.learns
    assert not entry.notices
    draws = {"w": torch.ones(3, 2), "sigma": torch.full((3, 2), np.e)}
    assert torch.allclose(entry.quantities["log sigma"].fn(draws, data), torch.ones(3, 2))
    density = LogDensity(entry.program(data), data)
    w, log_sigma = 0.3, -0.7
    expected = dist.Normal(w * X, np.exp(log_sigma)).log_prob(Y).sum() + dist.Normal(
        0.0, 1.0
    ).log_prob(torch.tensor(w))
    expected = (
        expected + dist.HalfNormal(1.0).log_prob(torch.tensor(np.exp(log_sigma))) + log_sigma
    )
    assert torch.isclose(
        density(torch.tensor([w, log_sigma], dtype=torch.float64)), expected, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (np.arange(3, dtype=np.float32), torch.float64),
        (np.arange(3, dtype=np.int32), torch.int64),
        (pd.Series([1.0, 2.0, 3.0]), torch.float64),
        ([1, 2, 3], torch.int64),
        (np.array([True, False, True]), torch.bool),
        (torch.arange(3, dtype=torch.float32), torch.float64),
    ],
)
def test_data_of_every_kind_becomes_tensors(value, dtype):
    def model(a):
        with pyro.plate("rows", 3):
            pyro.sample("z", dist.Normal(torch.as_tensor(a).double(), 1.0))

    entry = zoo.from_program(model, (value,), observed=())
    assert entry.load_data().train["a"].dtype == dtype


def test_plain_values_pass_through():
    def model(scale, kind, y):
        assert isinstance(scale, float)
        assert kind == "normal"
        pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, scale)), 1.0), obs=y)

    entry = zoo.from_program(model, {"scale": 2.0, "kind": "normal", "y": torch.tensor(1.0)})
    assert entry.load_data().observed == ("y",)


def test_data_frames_and_views_are_observed():
    def model(table):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", table.shape[0]):
            pyro.sample(
                "rows_seen",
                dist.Normal(mean, 1.0).to_event(1),
                obs=table[torch.arange(table.shape[0])],
            )

    entry = zoo.from_program(model, {"table": pd.DataFrame({"a": [1.0, 2.0], "b": [0.0, 1.0]})})
    assert entry.load_data().observed == ("table",)
    assert entry.quantities["mean"].dims == ("mean_dim_0",)


def test_dims_come_from_plates_or_the_caller():
    def model(y):
        with pyro.plate("school", 3):
            pyro.sample("y", dist.Normal(pyro.sample("theta", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    y = torch.zeros(3)
    assert zoo.from_program(model, {"y": y}).quantities["theta"].dims == ("school",)
    assert zoo.from_program(model, {"y": y}, dims={"theta": ("place",)}).quantities[
        "theta"
    ].dims == ("place",)


def test_correlation_factors_keep_only_their_free_entries():
    def model():
        pyro.sample("chol", dist.LKJCholesky(3, 1.0))

    entry = zoo.from_program(model, {})
    density = LogDensity(entry.program(entry.load_data()), entry.load_data())
    value = entry.quantities["chol"].fn(
        density.constrain(torch.randn(50, 3, dtype=torch.float64)), entry.load_data()
    )
    assert value.shape == (50, 3)
    assert (value.std(0) > 0.01).all()


# -- parameters --------------------------------------------------------------------------------


def learned(x, y=None):
    slope = pyro.param("slope", torch.tensor(0.1))
    sigma = pyro.param("sigma", lambda: torch.tensor(0.5), constraint=constraints.positive)
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(slope * x + shift, sigma), obs=y)


def test_every_lifted_param_gets_the_right_gradient():
    entry = zoo.from_program(learned, {"x": X, "y": Y})
    assert entry.learns
    assert "sigma" not in entry.quantities
    data = entry.load_data()
    program = entry.program(data)
    assert len(list(program.parameters())) == 2
    values = program.parameter_values()
    assert values["sigma"].item() == pytest.approx(0.5)
    density = LogDensity(program, data)
    u = torch.tensor([0.2], dtype=torch.float64)
    grads = torch.autograd.grad(density(u), list(program.parameters()))
    slope, log_sigma = (
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.1, np.log(0.5))
    )
    expected = torch.autograd.grad(
        dist.Normal(slope * X + 0.2, log_sigma.exp()).log_prob(Y).sum(), [slope, log_sigma]
    )
    assert torch.allclose(torch.stack(grads), torch.stack(expected), rtol=1e-6)
    assert all(g is not None and g.abs() > 0 for g in gradients(entry, AutoNormal).values())
    assert not pyro.get_param_store().keys()


def test_functional_parameters_reach_the_program():
    entry = zoo.from_program(learned, {"x": X, "y": Y})
    data = entry.load_data()
    program = entry.program(data)

    def joint(parameters):
        def call(**tensors):
            return torch.func.functional_call(program, parameters, kwargs=tensors)

        return (
            poutine.trace(poutine.condition(call, {"shift": torch.tensor(0.2)}))
            .get_trace(**data.train)
            .log_prob_sum()
        )

    parameters = {k: v.detach().clone() for k, v in program.named_parameters()}
    grads = torch.func.grad(joint)(parameters)
    assert all(g.abs() > 1e-3 for g in grads.values())


def networks():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)), nn.Linear(12, 2)


def test_pyro_module_is_lifted_in_model_and_guide():
    decoder, encoder = networks()
    before = {k: v.clone() for k, v in decoder.state_dict().items()}

    def model(y):
        pyro.module("decoder", decoder)
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        with pyro.plate("rows", 12):
            pyro.sample("y", dist.Normal(decoder(z).expand(12), 1.0), obs=y)

    def guide(y):
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(y).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    entry = zoo.from_program(model, {"y": Y}, guide=guide)
    assert entry.learns
    grads = gradients(entry)
    assert len(grads) == 6
    assert all(g is not None and g.abs().sum() > 0 for g in grads.values()), grads
    assert all(torch.equal(before[k], v) for k, v in decoder.state_dict().items())
    assert all(p.dtype == torch.float32 for p in decoder.parameters())
    assert not pyro.get_param_store().keys()


def test_each_build_starts_from_the_same_weights():
    entry = zoo.from_program(learned, {"x": X, "y": Y})
    one, two = entry.program(entry.load_data()), entry.program(entry.load_data())
    with torch.no_grad():
        next(one.parameters()).add_(5.0)
    assert next(two.parameters()).item() == pytest.approx(0.1)


def test_a_network_built_in_every_run_is_refused():
    def model(y):
        net = pyro.module("net", nn.Linear(1, 1))
        pyro.sample(
            "y",
            dist.Normal(
                net(pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))), 1.0
            ).to_event(1),
            obs=y,
        )

    with pytest.raises(ProgramError, match="once outside the function"):
        zoo.from_program(model, {"y": torch.zeros(1)})


def test_a_param_without_value_or_only_sometimes_is_refused():
    with pytest.raises(ProgramError, match="no initial value"):
        zoo.from_program(lambda: pyro.sample("z", dist.Normal(pyro.param("a"), 1.0)), {})

    def sometimes():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if abs(z) > 0.5:
            pyro.param("a", torch.tensor(1.0))

    def build_and_run():
        entry = zoo.from_program(sometimes, {})
        density = LogDensity(entry.program(entry.load_data()), entry.load_data())
        for u in torch.linspace(-1, 1, 5, dtype=torch.float64):
            density.evaluate(u.reshape(1))

    with pytest.raises(ProgramError, match=r"'a'.*(some runs|from run to run)"):
        build_and_run()


def test_a_used_parameter_store_is_left_alone():
    pyro.param("slope", torch.tensor(9.0))
    entry = zoo.from_program(learned, {"x": X, "y": Y})
    assert entry.program(entry.load_data()).parameter_values()["slope"].item() == pytest.approx(
        0.1
    )
    assert list(pyro.get_param_store().keys()) == ["slope"]
    pyro.clear_param_store()


class Bayesian(PyroModule):
    def __init__(self, trained):
        super().__init__()
        self.linear = PyroModule[nn.Linear](1, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 1]).to_event(2))
        if not trained:
            self.linear.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, x, y=None):
        mean = self.linear(x[:, None]).squeeze(-1)
        sigma = (
            pyro.param("sigma", torch.tensor(0.5), constraint=constraints.positive)
            if self.linear.bias.requires_grad
            else 1.0
        )
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(mean, sigma), obs=y)


@pytest.mark.parametrize("local", [False, True])
def test_pyro_modules_keep_their_site_names_and_parameters(local):
    with pyro.settings.context(module_local_params=local):
        plain, trained = Bayesian(False), Bayesian(True)
    entry = zoo.from_program(plain, {"x": X, "y": Y})
    assert list(entry.quantities) == ["linear.weight", "linear.bias"]
    entry = zoo.from_program(trained, {"x": X, "y": Y})
    assert entry.learns
    grads = gradients(entry, AutoNormal)
    assert len(grads) == 4
    assert all(g is not None and g.abs().sum() > 0 for g in grads.values()), grads
    assert not pyro.get_param_store().keys()


def test_distributions_made_outside_get_the_type_of_the_entry():
    prior = dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def model(y):
        pyro.sample("y", dist.Normal(pyro.sample("z", prior).sum(), 1.0), obs=y)

    entry = zoo.from_program(model, {"y": 1.0})
    program = entry.program(entry.load_data())
    with default_dtype(torch.float64):
        assert (
            poutine.trace(program).get_trace(y=torch.tensor(1.0)).nodes["z"]["value"].dtype
            == torch.float64
        )
    assert prior.base_dist.loc.dtype == torch.float32


def test_own_guides_as_function_class_or_partial():
    def guide(x, y=None):
        loc = pyro.param("loc", torch.tensor(0.0))
        scale = pyro.param("scale", torch.tensor(0.1), constraint=constraints.positive)
        pyro.sample("w", dist.Normal(loc, scale))
        pyro.sample("sigma", dist.LogNormal(loc, scale))

    for own in (guide, AutoNormal, functools.partial(AutoNormal, init_scale=0.3)):
        entry = zoo.from_program(regression, {"x": X, "y": Y}, guide=own)
        grads = gradients(entry)
        assert grads
        assert all(
            g is not None and torch.isfinite(g).all() and g.abs().sum() > 0 for g in grads.values()
        )
    with pytest.raises(UsageError, match="pass the class"):
        zoo.from_program(regression, {"x": X, "y": Y}, guide=AutoNormal(regression))


# -- plates, enumeration, improper priors ------------------------------------------------------


def test_a_random_subsample_is_refused_with_the_cure():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y), subsample_size=4) as index:
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[index])

    with pytest.raises(ProgramError, match=r"subsample=index"):
        zoo.from_program(model, {"y": Y})


def indexed(y, index=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 12, subsample=index):
        pyro.sample("y", dist.Normal(pyro.sample("local", dist.Normal(z, 1.0)), 1.0), obs=y)


def test_an_explicit_index_is_passed_on():
    entry = zoo.from_program(indexed, {"y": Y}, batched=["y"], minibatch=4)
    data = entry.load_data()
    assert (data.size, data.batched) == (12, ("y",))
    density = LogDensity(entry.program(data), data)
    u = torch.randn(density.dim, dtype=torch.float64)
    parts = [density.evaluate(u, {"y": Y[i], "index": i}) for i in torch.randperm(12).split(4)]
    assert torch.isclose(torch.stack(parts).mean(), density.evaluate(u), rtol=1e-10)
    with pytest.raises(ProgramError, match=r"name every argument with one value per row by batch"):
        zoo.from_program(regression, {"x": X, "y": Y}, batched=["y"])


@pytest.mark.parametrize("hint", [None, "parallel", "sequential"])
def test_enumeration_hints_give_the_same_sum(hint):
    def model(y):
        locs = pyro.sample("locs", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        with pyro.plate("rows", len(y)):
            c = pyro.sample(
                "c",
                dist.Categorical(torch.tensor([0.3, 0.7])),
                infer={} if hint is None else {"enumerate": hint},
            )
            pyro.sample("y", dist.Normal(locs[c], 1.0), obs=y)

    entry = zoo.from_program(model, {"y": Y})
    assert entry.notices == ()  # weights of 0.3 and 0.7 tell the labels apart
    assert list(entry.quantities) == ["locs"]
    data = entry.load_data()
    u = torch.tensor([0.3, -0.4], dtype=torch.float64)
    terms = dist.Normal(u, 1.0).log_prob(Y[:, None]) + torch.tensor([0.3, 0.7]).log()
    expected = terms.logsumexp(-1).sum() + dist.Normal(0.0, 2.0).log_prob(u).sum()
    assert torch.isclose(LogDensity(entry.program(data), data)(u), expected, rtol=1e-6)


def test_factors_of_a_product_are_noticed():
    def model(y):
        a = pyro.sample("a", dist.Normal(torch.zeros(5, 2), 1.0).to_event(2))
        b = pyro.sample("b", dist.Normal(torch.zeros(2, 4), 1.0).to_event(2))
        pyro.sample("y", dist.Normal(a @ b, 1.0).to_event(2), obs=y)

    y = 3 * torch.cos(torch.arange(20.0)).reshape(5, 4)
    (notice,) = zoo.from_program(model, {"y": y}).notices
    assert notice.startswith("The rotation of a and b is free")


def test_improper_flat_priors_work():
    def model(y):
        mean = pyro.sample("mean", dist.ImproperUniform(constraints.real, (), ()))
        sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean, sigma), obs=y)

    entry = zoo.from_program(model, {"y": Y})
    assert set(entry.quantities) == {"mean", "log sigma"}
    data = entry.load_data()
    u = torch.tensor([0.1, -0.5], dtype=torch.float64)
    expected = dist.Normal(u[0], u[1].exp()).log_prob(Y).sum() + u[1]
    assert torch.isclose(LogDensity(entry.program(data), data)(u), expected, rtol=1e-9)


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        ({"x": X, "yy": Y}, UnknownNameError, "did you mean"),
        ({"y": Y}, UsageError, r"needs 'x'"),
        ({"x": X, "y": Y * float("nan")}, DataError, "NaN"),
        ({"x": X, "y": Y[:5]}, ProgramError, "cannot be run|shape"),
        ({"x": X[:0], "y": Y[:0]}, DataError, "empty"),
        ({"x": [[1.0], [1.0, 2.0]], "y": Y}, DataError, "ragged"),
        ({"x": ["a", "b"], "y": Y}, DataError, "dtype"),
        ((X, Y, Y), UsageError, "3 values"),
        (3.0, UsageError, "dict"),
    ],
)
def test_bad_data_is_one_sentence(data, kind, text):
    with pytest.raises(kind, match=text) as caught:
        zoo.from_program(regression, data)
    assert "\n" not in str(caught.value)


def test_values_outside_the_support_and_failing_models():
    def counts(y):
        pyro.sample("y", dist.Poisson(pyro.sample("rate", dist.Gamma(2.0, 1.0))), obs=y)

    with pytest.raises(DataError, match="support"):
        zoo.from_program(counts, {"y": torch.tensor(-1.0)})
    with pytest.raises(ProgramError, match="ZeroDivisionError"):
        zoo.from_program(lambda: 1 / 0, {})
    with pytest.raises(ProgramError, match="no continuous latent"):
        zoo.from_program(
            lambda y: pyro.sample("y", dist.Normal(0.0, 1.0), obs=y), {"y": torch.tensor(0.0)}
        )
    with pytest.raises(UsageError, match="function of the data"):
        zoo.from_program(3, {})
