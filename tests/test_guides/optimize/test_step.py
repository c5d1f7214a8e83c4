"""The optimization step as one graph: the same gradients and losses as the eager one."""

import copy

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support.stepping import (
    RUN,
    assert_same_run,
    both,
    graph_gradients,
    loops,
    objective,
    programs,
)

import guides
from guides.base.flat import Start, lower_product
from guides.families.amortized import flat
from guides.families.mean_field import WhitenedMeanField
from guides.optimize import step as stepping
from guides.optimize.loop import _Run
from guides.optimize.step import BETAS, EPSILON, Step, advance, controls
from guides.registry import build
from guides.session import session
from guides.types import FitConfig
from zoo.compiler.policy import backend
from zoo.density.log_density import LogDensity
from zoo.types import Data

PLAIN = ("mean_field", "full_rank", "low_rank")
MINIBATCHED = [("minibatch", f) for f in (*PLAIN, "amortized")]
FEW = [("mixture", "mean_field"), ("decoder", "mean_field"), *MINIBATCHED]
PAIRS = [(n, f) for n in ("gaussian", "mixture") for f in PLAIN] + [
    ("decoder", "mean_field"),
    *MINIBATCHED,
]
ALL = [
    *PAIRS,
    ("decoder", "full_rank"),
    ("decoder", "low_rank"),
    *[("intercepts", f) for _, f in MINIBATCHED],
]


@pytest.mark.parametrize(
    ("name", "family", "stl"), [(*p, True) for p in PAIRS] + [(*p, False) for p in MINIBATCHED]
)
def test_every_gradient_of_the_graph_equals_the_eager_one(tiny, name, family, stl):
    entry, batch_size = programs(tiny, name)
    with session(entry.dtype):
        loss = objective(entry, family, batch_size, stl=stl)
        step = Step(loss, FitConfig(compile="off"), 1)
        noise = loss.noise(torch.Generator().manual_seed(3))
        got = graph_gradients(step, step.trace(), noise)
        # The truth goes through the parameters themselves, not through the functional form that is
        # traced.
        truth = torch.autograd.grad(loss.loss(noise), step.parameters)
    assert len(got) == len(loss.parameters) + len(loss.weights)
    assert (name == "decoder") == bool(loss.weights)
    for mine, theirs in zip(got, truth, strict=True):
        assert float(theirs.norm()) > 0
        assert float((mine - theirs).abs().max()) <= 1e-9 * (1 + float(theirs.abs().max()))


def test_a_gradient_that_does_not_arrive_would_be_seen(tiny, monkeypatch):
    entry, _ = tiny.gaussian()
    plain = WhitenedMeanField.sample

    def cut(self, noise, **options):
        u, log_q = plain(self, noise, **options)
        return u, (
            log_q + 0 * self.log_scale.detach().sum() if noise.requires_grad else log_q.detach()
        )

    with session(entry.dtype):
        loss = objective(entry, "mean_field", None, stl=False)
        step = Step(loss, FitConfig(compile="off"), 1)
        noise = loss.noise(torch.Generator().manual_seed(3))
        truth = torch.autograd.grad(loss.loss(noise), step.parameters)
        monkeypatch.setattr(WhitenedMeanField, "sample", cut)
        got = graph_gradients(step, step.trace(), noise)
    assert max(float((a - b).abs().max()) for a, b in zip(got, truth, strict=True)) > 1e-3


@pytest.mark.parametrize(("name", "family"), FEW)
def test_a_traced_run_has_the_losses_of_an_eager_one(tiny, uncompiled, name, family):
    entry, batch_size = programs(tiny, name)
    eager, fast = both(entry, family, batch_size)
    assert_same_run(eager, fast)
    if name == "decoder":
        for fit in (eager, fast):
            assert float((fit.program.net.weight - 0.5).abs().max()) > 1e-3
        assert torch.allclose(eager.program.net.weight, fast.program.net.weight, rtol=1e-8)


@pytest.mark.parametrize(
    ("name", "family"), [("mixture", "full_rank"), ("minibatch", "amortized")]
)
def test_a_compiled_run_has_the_losses_of_an_eager_one(tiny, name, family):
    entry, batch_size = programs(tiny, name)
    assert_same_run(*both(entry, family, batch_size))


@pytest.mark.parametrize("family", PLAIN)
def test_a_stuck_log_q_has_value_and_slope_of_the_density_at_the_drawn_points(tiny, family):
    """Its gradient flows only through the points (sticking the landing).

    It does so also far from a unit factor.
    """
    entry, _ = programs(tiny, "gaussian")
    with session(entry.dtype):
        guide = objective(entry, family, None).guide
        with torch.no_grad():
            for parameter in guide.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))
        noise = torch.randn(4, guide.noise_dim, dtype=entry.dtype)
        moving = [p for p in guide.parameters() if p.requires_grad]
        u, log_q = guide.sample(noise, stl=True)
        got = torch.autograd.grad(log_q.sum(), moving, retain_graph=True, allow_unused=True)
        truth = torch.autograd.grad(
            copy.deepcopy(guide).log_prob_flat(u).sum(), moving, allow_unused=True
        )
        assert torch.allclose(log_q, guide.log_prob_flat(u), rtol=1e-8)
    assert max(float(b.abs().max()) for b in truth if b is not None) > 0.1
    for a, b in zip(got, truth, strict=True):
        assert torch.allclose(
            *(torch.zeros(()).to(noise) if x is None else x for x in (a, b)), rtol=1e-7, atol=1e-10
        )


def test_a_step_is_one_of_torchs_adam_and_the_tail_is_its_sum():
    """Seven steps with learning rates per parameter and gradient clipping, as by torch's Adam."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    gradients[4] *= 100
    rates, shares = (
        torch.tensor([0.1, 0.02, 0.3], dtype=torch.float64),
        [1.0, 1.0, 0.5, 0.5, 1.0, 0.2, 0.1],
    )
    state = torch.cat(
        [torch.ones(1, 3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)]
    )
    theirs = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    parts = [torch.nn.Parameter(theirs.detach()[i : i + 1].clone()) for i in range(3)]
    adam = torch.optim.Adam([{"params": [p], "lr": 0.0} for p in parts], betas=BETAS, eps=EPSILON)
    total = torch.zeros(3, dtype=torch.float64)
    for number, row in enumerate(controls(range(1, 8), shares, [n > 3 for n in range(7)], 5.0)):
        state, (_, norm) = advance(
            state, torch.from_numpy(row), rates, torch.zeros(()), gradients[number]
        )
        assert float(norm) == pytest.approx(float(gradients[number].norm()))
        for i, p in enumerate(parts):
            p.grad = gradients[number, i : i + 1].clone()
            adam.param_groups[i]["lr"] = shares[number] * float(rates[i])
        torch.nn.utils.clip_grad_norm_(parts, 5.0)
        adam.step()
        total += torch.cat([p.detach() for p in parts]) if number > 3 else 0.0
    # the library clips by norm + 1e-6
    assert torch.allclose(state[0], torch.cat([p.detach() for p in parts]), rtol=1e-6)
    assert torch.allclose(state[3], total, rtol=1e-6)


@pytest.mark.parametrize("particles", [1, 8])
def test_noise_is_the_same_however_many_steps_ask_for_it_at_once(tiny, particles, monkeypatch):
    entry, _ = programs(tiny, "mixture")
    with session(entry.dtype):
        loss, config = (
            objective(entry, "mean_field", None, particles=particles),
            FitConfig(compile="off"),
        )

        def run():
            return _Run(loss, config, torch.Generator().manual_seed(1), None, 1)

        one, many = run(), run()
        apart = torch.cat([one._noise(1)[0] for _ in range(210)])
        assert torch.equal(apart, torch.cat([many._noise(n)[0] for n in (100, 7, 93, 10)]))
        assert abs(float(apart.mean())) < 5 / apart.numel() ** 0.5
        monkeypatch.setattr(stepping, "LARGEST", 3 * apart[0].numel())
        assert run().step.together < 4


@pytest.mark.skipif(
    backend() != "standalone", reason="packages are called by torch's loader, step by step"
)
def test_a_block_of_steps_is_its_steps_one_by_one(tiny):
    """Also with a step that fails midway: the state is that of the last good one."""
    entry, batch_size = programs(tiny, "mixture")
    with session(entry.dtype):
        one, many = (
            Step(objective(entry, "mean_field", batch_size), FitConfig(compile="on"), 1)
            for _ in range(2)
        )
        assert many.native is not None
        one.native = None
        noise = [
            torch.stack(c)
            for c in zip(
                *[one.objective.noise(torch.Generator().manual_seed(s)) for s in range(9)],
                strict=True,
            )
        ]
        noise[0][6] = torch.nan
        shares, averaging = [1.0, 0.5, 0.25] * 3, [False] * 4 + [True] * 5
        (rows, history), (fast, values) = (
            step.block(3, shares, noise, averaging) for step in (one, many)
        )
    assert len(rows) == len(fast) == 7
    assert np.allclose(rows[:6], fast[:6], rtol=1e-10)
    assert np.isnan(fast[6][0])
    assert torch.allclose(history[:6], values[:6], rtol=1e-9, atol=1e-12)
    assert torch.allclose(one.state, many.state, rtol=1e-9, atol=1e-12)
    assert torch.allclose(one._before, many._before, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "family", "objective"),
    # The search already begins a full-rank fit of a normal at the posterior: its path derivative
    # is rounding and nothing else.
    [
        (*pair, o)
        for pair in ALL
        for o in ("elbo", "elbo_plain")
        if (*pair, o) != ("gaussian", "full_rank", "elbo")
    ],
)
def test_every_compiled_run_has_the_losses_of_an_eager_one(tiny, name, family, objective):
    entry, batch_size = programs(tiny, name)
    assert_same_run(*both(entry, family, batch_size, objective=objective), tolerance=1e-6)


def test_values_of_a_plain_function_are_inputs_of_the_graph_and_trained(tiny, uncompiled):
    net = torch.nn.Linear(1, 2, dtype=torch.float64)

    def program(y, index=None):
        decode = pyro.module("net", net)
        spread = pyro.param(
            "spread", torch.tensor(0.5, dtype=torch.float64), constraint=dist.constraints.positive
        )
        with pyro.plate("row", 6):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=torch.float64), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(decode(z), spread).to_event(1), obs=y)

    y = torch.linspace(-3, 3, 12, dtype=torch.float64).reshape(6, 2)
    entry = tiny.entry("lifted", lambda: Data(train={"y": y}), program, learns=True)
    eager, fast = both(entry, "mean_field", None)
    assert_same_run(eager, fast)
    before = guides.fit(
        entry, "mean_field", compile="off", **{**RUN, "steps": 1}
    ).program.state_dict()
    after = fast.program.state_dict()
    assert len(after) == 3
    for name, value in eager.program.state_dict().items():
        assert torch.allclose(after[name], value, rtol=1e-7)
        assert float((value - before[name]).abs().max()) > 1e-3


def test_odd_particles_clipping_and_restarts(tiny, uncompiled):
    entry, _ = tiny.skewed()
    eager, fast = both(entry, "full_rank", None, num_particles=3, clip_norm=0.05, restarts=2)
    assert np.abs(fast.losses / eager.losses - 1).max() < 1e-8
    assert [r.stop for r in fast.restarts] == [r.stop for r in eager.restarts]


def test_a_program_that_runs_point_by_point_is_mapped_in_the_graph(tiny, uncompiled):
    k = torch.tensor([[1, 2, 3], [4, 0, 2]], dtype=torch.float64)

    def program(k, index=None):
        p = pyro.sample("p", dist.Dirichlet(2.0 * torch.ones(3, dtype=torch.float64)))
        with pyro.plate("row", 2):
            pyro.sample("k", dist.Multinomial(10, p, validate_args=False), obs=k)

    entry = tiny.entry("counts", lambda: Data(train={"k": k}), program)
    assert not LogDensity(program, entry.load_data()).batch_function().vectorized
    eager, fast = loops(entry)
    assert fast.record["used"]
    assert np.abs(fast.losses / eager.losses - 1).max() < 1e-8


@pytest.mark.parametrize("dim", [1, 127, 128, 131, 400])
def test_a_product_in_bands_is_the_product(dim):
    """Values and gradients; entries above the diagonal are skipped.

    A full matrix must therefore differ where bands are used.
    """
    generator = torch.Generator().manual_seed(dim)
    full = torch.randn(dim, dim, dtype=torch.float64, generator=generator)
    tril, x = (
        full.tril(),
        torch.randn(dim, dtype=torch.float64, generator=generator).requires_grad_(True),
    )
    weight = torch.randn(dim, dtype=torch.float64, generator=generator)
    value = lower_product(tril, x)
    assert torch.allclose(value, tril @ x, rtol=1e-12, atol=1e-12)
    assert torch.allclose(
        torch.autograd.grad(weight @ value, x)[0], tril.T @ weight, rtol=1e-12, atol=1e-12
    )
    assert torch.allclose(lower_product(full, x), full @ x) == (dim < 128)


def test_a_block_of_any_length_ends_with_its_last_states(tiny):
    """The C loop triple-buffers its state: after 1 to 4 steps both states must be in place."""
    entry, _ = programs(tiny, "mixture")
    run = {}
    for number in (1, 2, 3, 4):
        with session(entry.dtype):
            step = Step(
                objective(entry, "mean_field", None), FitConfig(**{**RUN, "compile": "on"}), 10_000
            )
        if step.native is None:
            pytest.skip("no native step on this machine")
        noise = [
            torch.zeros(number, *x.shape, dtype=x.dtype)
            for x in step._example(torch.Generator())[3:]
        ]
        knobs = torch.from_numpy(
            controls(list(range(1, number + 1)), [1.0] * number, [False] * number, 1.0)
        )
        state, before = step.state.clone(), step._before.clone()
        done, numbers, history = step.native.steps(state, before, knobs, noise)
        assert done == number
        assert torch.equal(history[-1], state[0])
        run[number] = (state, before, numbers)
        if number > 1:
            assert torch.equal(before, run[number - 1][0])
            assert torch.equal(numbers[:-1], run[number - 1][2])


def test_a_minibatch_takes_noise_for_its_units_alone(tiny):
    """The same draws and log q as from noise for every unit with the same rows."""
    entry, batch_size = programs(tiny, "minibatch")
    with session(entry.dtype):
        loss = objective(entry, "amortized", batch_size, stl=False)
        guide, (short, index) = loss.guide, loss.noise(torch.Generator().manual_seed(5))
        rest = len(guide.rest)
        assert short.shape[1] == rest + batch_size * guide.width < guide.noise_dim
        whole = torch.randn(len(short), guide.noise_dim, dtype=short.dtype)
        whole[:, :rest] = short[:, :rest]
        whole[:, rest:].view(len(short), guide.size, guide.width)[:, index] = short[:, rest:].view(
            len(short), batch_size, guide.width
        )
        for a, b in zip(
            guide.sample(short, index=index), guide.sample(whole, index=index), strict=True
        ):
            assert torch.equal(a, b)


def test_an_encoder_begins_without_a_matrix_of_all_units(tiny, monkeypatch):
    """For codes of 64,000 images it would take 32 GB.

    The global values start as with a dense factor.
    """
    entry, _ = programs(tiny, "minibatch")
    with session(entry.dtype), torch.no_grad():
        density = LogDensity(entry.program(None), entry.load_data(), dtype=entry.dtype)
        scale = torch.linspace(0.5, 2.0, density.dim, dtype=entry.dtype)

        def begun(start):
            return flat(build("amortized", entry.program(None), entry.load_data(), entry), start)

        dense = begun(Start(loc=0.1 * scale, scale=scale, factor=torch.diag(scale)))
        monkeypatch.setattr(Start, "tril", property(lambda self: pytest.fail("a dense matrix")))
        plain = begun(Start(loc=0.1 * scale, scale=scale))
    for name, value in dense.named_buffers():
        assert torch.allclose(value, dict(plain.named_buffers())[name], rtol=1e-12)
    assert len(plain.rest)
