import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import constraints

import zoo
from zoo.density.log_density import LogDensity
from zoo.errors import DataError, ProgramError
from zoo.types import Data

Y = torch.tensor([0.5, -0.2, 1.1, 0.4], dtype=torch.float64)


def density_of(program, **tensors):
    return LogDensity(
        program,
        Data(train=tensors or {"y": Y}, observed=("y",) if "y" in (tensors or {"y": 0}) else ()),
    )


def every_support(none):
    pyro.sample("real", dist.StudentT(4.0, 0.3, 1.2))
    pyro.sample("positive", dist.Gamma(2.0, 3.0))
    pyro.sample("unit", dist.Beta(2.0, 3.0))
    pyro.sample("interval", dist.Uniform(-2.0, 3.0))
    pyro.sample("simplex", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    pyro.sample(
        "ordered",
        dist.TransformedDistribution(
            dist.Normal(torch.zeros(3), 1.0).to_event(1), dist.transforms.OrderedTransform()
        ),
    )
    pyro.sample("chol", dist.LKJCholesky(3, 2.0))


def test_every_support_keeps_its_normalization():
    """E_prior of exp(log q - log p) is 1 for any normalized q: the density integrates to 1.

    The density includes its Jacobian.
    """
    density = density_of(every_support, none=torch.zeros(1))
    assert density.dim == 1 + 1 + 1 + 1 + 2 + 3 + 3
    for site in density.sites:
        part = slice(site.start, site.stop)
        at = torch.zeros(density.dim, dtype=torch.float64)

        def marginal(x, part=part, at=at):
            u = at.expand(len(x), -1).clone()
            u[:, part] = x
            return density.batch(u).detach()

        size = site.stop - site.start
        constant = density(at).detach() - _own(density, site, at)
        grid = torch.linspace(-20, 20, 4001 if size == 1 else 1, dtype=torch.float64)
        if size == 1:
            step = grid[1] - grid[0]
            integral = (marginal(grid[:, None]) - constant).exp().sum() * step
            assert integral.item() == pytest.approx(1.0, abs=2e-3 if site.name == "real" else 1e-6)
        else:
            generator = torch.Generator().manual_seed(5)
            x = 2.0 * torch.randn(40000, size, dtype=torch.float64, generator=generator)
            weights = (marginal(x) - constant - dist.Normal(0.0, 2.0).log_prob(x).sum(-1)).exp()
            error = weights.std() / math.sqrt(len(weights))
            assert (weights.mean() - 1).abs() < 5 * error
            assert error < 0.05


def _own(density, site, at):
    """Prior term and Jacobian of one site at a point."""
    draws = density.constrain(at)
    trace = poutine.trace(poutine.condition(every_support, draws)).get_trace(none=None)
    trace.compute_log_prob()
    raw = site.part(at)
    return (
        trace.nodes[site.name]["log_prob"].sum()
        + site.transform.log_abs_det_jacobian(raw, site.transform(raw)).sum()
    )


def test_constrain_and_unconstrain_are_inverse_in_any_batch():
    density = density_of(every_support, none=torch.zeros(1))
    u = torch.randn(2, 3, density.dim, dtype=torch.float64)
    draws = density.constrain(u)
    assert draws["simplex"].shape == (2, 3, 3)
    assert draws["chol"].shape == (2, 3, 3, 3)
    assert torch.allclose(density.unconstrain(draws), u, atol=1e-9)
    with pytest.raises(ProgramError, match="lack site 'chol'"):
        density.unconstrain({k: v for k, v in draws.items() if k != "chol"})


def normal(y=None):
    z = pyro.sample("z", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", 4):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def test_value_gradient_hessian_and_counts():
    density = density_of(normal)
    u = torch.tensor([0.3], dtype=torch.float64)
    expected = dist.Normal(0.0, 2.0).log_prob(u[0]) + dist.Normal(u[0], 1.0).log_prob(Y).sum()
    value, gradient = density.gradient(u)
    assert torch.isclose(value, expected, rtol=1e-6)
    assert gradient.item() == pytest.approx((Y - 0.3).sum().item() - 0.3 / 4)
    assert density.hessian(u).item() == pytest.approx(-4.25)
    before = density.evaluations
    density.batch(u.expand(5, 1))
    density(u)
    assert density.evaluations == before + 6


def test_batches_are_vectorized_even_when_first_asked_without_gradients():
    density = density_of(normal)
    with torch.no_grad():
        assert density.eager_batch().vectorized


def test_masked_observations_count_nothing():
    keep = torch.tensor([True, False, True, True])

    def program(y):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("rows", 4), poutine.mask(mask=keep):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    density = density_of(program)
    rows = density.pointwise({"z": torch.tensor([0.3], dtype=torch.float64)})["y"]
    expected = dist.Normal(0.3, 1.0).log_prob(Y) * keep
    assert torch.allclose(rows, expected[None], rtol=1e-6)


def test_pointwise_of_a_mixture_sums_out_each_class():
    def program(y):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        with pyro.plate("rows", 4):
            c = pyro.sample(
                "c", dist.Categorical(torch.tensor([0.2, 0.8])), infer={"enumerate": "parallel"}
            )
            pyro.sample("y", dist.Normal(z[c], 1.0), obs=y)

    z = torch.tensor([[0.3, -1.0], [2.0, 0.1]], dtype=torch.float64)
    rows = density_of(program).pointwise({"z": z})["y"]
    expected = (
        dist.Normal(z[:, None, :], 1.0).log_prob(Y[None, :, None]) + torch.tensor([0.2, 0.8]).log()
    ).logsumexp(-1)
    assert torch.allclose(rows, expected, rtol=1e-6)


def test_a_shared_class_has_no_pointwise_terms():
    def program(y):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        c = pyro.sample(
            "c", dist.Categorical(torch.tensor([0.2, 0.8])), infer={"enumerate": "parallel"}
        )
        with pyro.plate("rows", 4):
            pyro.sample("y", dist.Normal(z[c], 1.0), obs=y)

    density = density_of(program)
    u = torch.tensor([0.3, -1.0], dtype=torch.float64)
    by_class = dist.Normal(u[:, None], 1.0).log_prob(Y).sum(-1) + torch.tensor([0.2, 0.8]).log()
    assert torch.isclose(
        density(u), by_class.logsumexp(0) + dist.Normal(0.0, 2.0).log_prob(u).sum(), rtol=1e-6
    )
    with pytest.raises(ProgramError, match="shared by several observations"):
        density.pointwise({"z": u[None]})


def test_global_state_and_random_streams_are_untouched():
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    density = density_of(normal)
    density.gradient(torch.zeros(1, dtype=torch.float64))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == dtype
    assert not pyro.get_param_store().keys()


def changing(y):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    if z > 0.1:
        pyro.sample("more", dist.Normal(0.0, 1.0))
    pyro.sample("later", dist.Normal(0.0, 1.0).expand([1 if abs(z) < 0.1 else 2]).to_event(1))


@pytest.mark.parametrize(
    ("program", "y", "kind", "match"),
    [
        (
            lambda y: pyro.sample(
                "y", dist.Poisson(pyro.sample("z", dist.Gamma(1.0, 1.0))), obs=y
            ),
            -1.0,
            DataError,
            "support",
        ),
        (
            lambda y: pyro.sample("y", dist.Normal(0.0, 1.0), obs=y),
            0.0,
            ProgramError,
            "no continuous latent",
        ),
        (
            lambda y: pyro.sample("z", dist.Normal(0.0, -1.0)),
            0.0,
            ProgramError,
            "Site 'z' has a scale outside its range",
        ),
        (lambda y: pyro.sample("z", dist.Poisson(3.0)), 0.0, ProgramError, "'z'"),
        (lambda y: y.nothing, 0.0, (ProgramError, AttributeError), "nothing"),
        (changing, 0.0, ProgramError, "changes shape"),
        (
            lambda y: pyro.sample(
                "b", dist.Uniform(0.0, pyro.sample("a", dist.Uniform(0.0, 1.0)))
            ),
            0.0,
            ProgramError,
            "fraction",
        ),
    ],
)
def test_programs_that_cannot_be_handled_are_refused(program, y, kind, match):
    with pytest.raises(kind, match=match):
        LogDensity(program, Data(train={"y": torch.tensor(y)}))


def test_nan_in_the_likelihood_is_a_data_error():
    def program(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0).mask(True), obs=y / 0.0 * 0.0)

    with pytest.raises(DataError):
        LogDensity(program, Data(train={"y": torch.tensor(1.0)}))


def test_flat_priors_have_a_density_up_to_a_constant():
    def program(y):
        z = pyro.sample("z", dist.ImproperUniform(constraints.greater_than(1.0), (), ()))
        with pyro.plate("rows", 4):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    u = torch.tensor([-0.4], dtype=torch.float64)
    expected = dist.Normal(1 + u.exp(), 1.0).log_prob(Y).sum() + u[0]
    assert torch.isclose(density_of(program)(u), expected, rtol=1e-9)


@pytest.mark.parametrize("name", zoo.names())
def test_eager_single_and_batched_agree_on_every_entry(name, load_entry):
    entry = load_entry(name)
    data = entry.load_data()
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    u = 0.3 * torch.randn(3, density.dim, dtype=density.dtype)
    single = torch.stack([density.eager_gradient(row)[1] for row in u])
    point = u.clone().requires_grad_(True)
    (together,) = torch.autograd.grad(density.eager_batch()(point).sum(), point)
    assert torch.allclose(single, together, rtol=1e-9, atol=1e-9)


def mixture_prior(y):
    weights = dist.Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64))
    x = pyro.sample(
        "x",
        dist.MixtureSameFamily(
            weights, dist.LogNormal(torch.tensor([-1.0, 1.0], dtype=torch.float64), 0.5)
        ),
    )
    pyro.sample("y", dist.Normal(x, 1.0).expand(y.shape).to_event(1), obs=y)


def test_a_mixture_as_a_prior_lives_where_its_parts_do():
    """torch has no bijection for this support; the density needs that of positive numbers."""
    u = torch.tensor([0.4], dtype=torch.float64)
    x = float(u.exp())
    parts = [
        w * math.exp(-0.5 * ((math.log(x) - m) / 0.5) ** 2) / (x * 0.5 * math.sqrt(2 * math.pi))
        for w, m in ((0.3, -1.0), (0.7, 1.0))
    ]
    likelihood = sum(-0.5 * (float(y) - x) ** 2 - 0.5 * math.log(2 * math.pi) for y in Y)
    assert float(density_of(mixture_prior)(u)) == pytest.approx(
        math.log(sum(parts)) + math.log(x) + likelihood, rel=1e-12
    )
