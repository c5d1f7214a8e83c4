"""Long graphs of small tensors as plain C: the numbers of the eager function, in seconds."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import guides
import zoo
from zoo.compiler import compile as compiling
from zoo.compiler.compile import compile_function
from zoo.compiler.policy import Work, is_recursion, pays
from zoo.compiler.scalar_code import NotScalar, ScalarCode
from zoo.compiler.scalar_forms import build_library
from zoo.compiler.trace import trace
from zoo.density.log_density import LogDensity

F = torch.float64
FIXED = torch.tensor([[0.3, -1.2, 0.7], [2.0, 0.1, -0.4]], dtype=F)
ROWS = torch.tensor([2, 0, 1, 1])


def with_gradient(value):
    def function(u):
        x = u.detach().requires_grad_(True)
        with torch.enable_grad():
            y = value(x)
            (slope,) = torch.autograd.grad(y, x)
        return [y.detach(), slope]

    return function


def recursion(x):
    state, total = torch.ones(()), torch.zeros(())
    for t in range(12):
        state = (x[0].exp() + x[1].sigmoid() * state**2 + FIXED[0, t % 3].abs()).sqrt()
        normal = dist.Normal(x[2], state, validate_args=False)
        total = total + normal.log_prob(FIXED[1, t % 3])
    return total


VALUES = {
    "recursion": recursion,
    "products": lambda x: (FIXED @ x[:3] + (FIXED.T @ x[3:5]).sum()).square().sum(),
    "matrices": lambda x: (x[:4].reshape(2, 2) @ FIXED).tanh().prod() + x.dot(x),
    "choices": lambda x: x[ROWS].exp().cumsum(0)[1:].log().sum() + x.flip(0)[:2].prod(),
    "stacks": lambda x: torch.stack([x, x * 2, torch.cat([x[1:], x[:1]])]).logsumexp(0).sum(),
    "conditions": lambda x: torch.where(x > 0.1, x.log1p().abs(), -(x**3)).clamp(-0.5, 2).sum(),
    "special": lambda x: (x.exp().lgamma() + x.erf() + x.sin() * x.cos() - x.exp().rsqrt()).sum(),
    "turns": lambda x: (7 * x - 3 * torch.floor((7 * x + 1) / 3)).cos().sum(),
    "digamma": lambda x: torch.lgamma(x.square() + 0.01).sum(),
    "simplex": lambda x: torch.nn.functional.softplus(x).div(x.exp().sum()).log().sum(),
    "sigmoids": lambda x: torch.nn.functional.logsigmoid(3 * x).sum() + x.sigmoid().mean(),
    "maxima": lambda x: x.reshape(2, 3).max(-1).values.sum() + x.reshape(3, 2).amax(0).exp().sum(),
    "parts": lambda x: x.unbind()[1] * x.split(2)[2].exp().sum() + x.split([1, 5])[1].sin().sum(),
    "nine terms": lambda x: torch.cat([x, x[:3].sin()]).exp().sum(),
    "long rows": lambda x: (torch.linspace(0, 1, 500, dtype=F) * x[0] + x[1]).exp().mean(),
    "writing": lambda x: (
        torch.zeros(7, dtype=F).index_put((torch.arange(6) % 3,), x, accumulate=True).exp().sum()
    ),
    "cumulative products": lambda x: x.sigmoid().cumprod(0).sum() + x.sigmoid().cumsum(0).prod(),
}


@pytest.mark.parametrize("name", VALUES)
def test_plain_c_has_the_numbers_of_the_eager_function(name, tmp_path):
    function = with_gradient(VALUES[name])
    example = torch.linspace(-0.9, 1.1, 6, dtype=F)
    code = ScalarCode(trace(function, [example]))
    run = code.load(build_library(code.source, str(tmp_path / "graph.so")))
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        u = torch.randn(6, dtype=F, generator=generator)
        for got, truth in zip(run([u]), function(u), strict=True):
            assert got.shape == truth.shape
            assert torch.allclose(got, truth, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_a_statement_that_repeats_is_written_once():
    code = ScalarCode(trace(lambda u: [u.exp().expand(5, 6).sum()], [torch.ones(6, dtype=F)]))
    assert sum("exp(" in s for s in code.statements) == 6


def test_an_operation_that_is_not_listed_is_left_to_the_other_way():
    matrix = FIXED @ FIXED.T
    with pytest.raises(NotScalar, match="the operation"):
        ScalarCode(
            trace(lambda u: [torch.linalg.eigvalsh(matrix + u[0])], [torch.ones(1, dtype=F)])
        )
    with pytest.raises(NotScalar, match="another type"):
        ScalarCode(trace(lambda u: [u.exp()], [torch.ones(1)]))


def test_only_long_graphs_become_plain_c(monkeypatch):
    function = with_gradient(recursion)
    points = torch.randn(4, 6, dtype=F, generator=torch.Generator().manual_seed(1))
    checks = [[p] for p in points[1:]]
    monkeypatch.setattr(compiling.scalar_code, "LEAST_NODES", 100)
    made = compile_function(function, [points[0]], checks, mode="on")
    assert made.record["used"]
    assert made.scalar
    again = compile_function(function, [points[0]], checks, mode="on")
    assert again.record["cached"]
    assert torch.equal(again(points[1])[1], made(points[1])[1])


def test_a_wrong_statement_is_caught_by_the_check(monkeypatch):
    """A planted fault in one form: the graph is refused and the eager function runs."""
    function = with_gradient(recursion)
    points = torch.randn(4, 6, dtype=F, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(compiling.scalar_code, "LEAST_NODES", 100)
    monkeypatch.setitem(compiling.scalar_code.UNARY, "sqrt", "sqrt({0} + 1e-6)")
    made = compile_function(function, [points[0]], [[p] for p in points[1:]], mode="on")
    assert not made.record["used"]
    assert "self-check failed" in made.record["reason"]
    assert torch.equal(made(points[1])[0], function(points[1])[0])


def test_what_auto_takes_for_a_recursion():
    assert is_recursion(Work(25_000, 25_000))
    assert not is_recursion(Work(2_000, 2_000))
    assert not is_recursion(Work(25_000, 25_000_000))
    assert pays(Work(25_000, 25_000), 300, one_point=True)
    assert not pays(Work(25_000, 25_000), 300)  # many points, each of few operations
    assert not pays(Work(25_000, 25_000), 20, one_point=True)


def volatility(y):
    """A garch(1, 1), one site per step."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    a0 = pyro.sample("a0", dist.HalfNormal(1.0))
    a1 = pyro.sample("a1", dist.Beta(2.0, 2.0))
    b1 = pyro.sample("b1", dist.Beta(2.0, 2.0))
    s = torch.ones(())
    for t in range(len(y)):
        pyro.sample(f"y{t}", dist.Normal(mu, s), obs=y[t])
        s = (a0 + a1 * (y[t] - mu) ** 2 + b1 * s**2).sqrt()


def series(n):
    return 1.5 * torch.randn(n, dtype=F, generator=torch.Generator().manual_seed(0))


def by_hand(y, mu, a0, a1, b1):
    """Log likelihood of the recursion in plain Python."""
    s, total = 1.0, 0.0
    for v in y.tolist():
        total += -0.5 * ((v - mu) / s) ** 2 - math.log(s) - 0.5 * math.log(2 * math.pi)
        s = math.sqrt(a0 + a1 * (v - mu) ** 2 + b1 * s**2)
    return total


def test_a_loop_of_hundred_steps_is_fitted_compiled():
    """Recursions become plain C, with one call per point; their times are in docs/compiler.md."""
    y = series(100)
    entry = zoo.from_program(volatility, {"y": y})
    data = entry.load_data()
    density = LogDensity(entry.program(data), data)
    assert is_recursion(density.work())
    fit = guides.fit(entry, "mean_field", seed=0, steps=400)
    assert fit.compiled["used"], fit.compiled
    assert fit.density.by_points
    u = torch.tensor([0.1, -0.2, -1.0, 0.3], dtype=F)
    draws = {k: float(v) for k, v in density.constrain(u).items()}
    prior = sum(
        float(d.log_prob(torch.tensor(draws[k], dtype=F)))
        for k, d in (
            ("mu", dist.Normal(torch.tensor(0.0, dtype=F), 1.0)),
            ("a0", dist.HalfNormal(torch.tensor(1.0, dtype=F))),
            ("a1", dist.Beta(torch.tensor(2.0, dtype=F), 2.0)),
            ("b1", dist.Beta(torch.tensor(2.0, dtype=F), 2.0)),
        )
    )
    jacobian = math.log(draws["a0"])
    jacobian += sum(math.log(draws[k] * (1 - draws[k])) for k in ("a1", "b1"))
    expected = by_hand(y, **draws) + prior + jacobian
    assert float(fit.density.gradient(u)[0]) == pytest.approx(expected, abs=1e-9)
    points = torch.stack([u, 0.5 * u, -u])
    together = fit.density.batch(points)
    assert torch.allclose(together, torch.stack([density.evaluate(p) for p in points]), atol=1e-9)


def test_a_chain_of_states_compiles_in_seconds():
    """pyro.markov over 24 steps: the density of `dist.DiscreteHMM`."""
    y = series(24)
    moves = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=F)

    def program(y):
        m = pyro.sample("m", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        x = torch.tensor(0)
        for t in pyro.markov(range(len(y))):
            x = pyro.sample(f"x{t}", dist.Categorical(moves[x]))
            pyro.sample(f"y{t}", dist.Normal(m[x], 1.0), obs=y[t])

    entry = zoo.from_program(program, {"y": y})
    data = entry.load_data()
    density = LogDensity(entry.program(data), data)
    record = density.compile("on")
    assert record["used"]
    assert density.by_points
    assert record["compile_seconds"] < 60
    m = torch.tensor([0.4, -0.8], dtype=F)
    chain = dist.DiscreteHMM(
        torch.tensor([1.0, 0.0], dtype=F).log(), moves.log(), dist.Normal(m, 1.0)
    )
    expected = chain.log_prob(y) + dist.Normal(torch.zeros(2, dtype=F), 2.0).log_prob(m).sum()
    assert float(density.gradient(m)[0]) == pytest.approx(float(expected), abs=1e-8)
