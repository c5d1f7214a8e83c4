"""The optimization step as one graph: the same gradients, losses and stops as the eager one, or eager with the reason."""

import logging

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import guides
from guides.families import FAMILIES, build
from guides.mean_field import WhitenedMeanField
from guides.objectives import FlatObjective
from guides.session import session, trainable
from guides.start import find_start
from guides.step import Step
from guides.svi import optimize
from guides.types import FitConfig
from zoo import compiled
from zoo.errors import UsageError
from zoo.log_density import LogDensity
from zoo.types import Data

FLAT = ("mean_field", "full_rank", "low_rank", "amortized")
PLAIN = ("mean_field", "full_rank", "low_rank")
RUN = {"steps": 64, "patience": 16, "anneal": 20, "num_particles": 8}  # settles at step 32 at the earliest: always 64 steps
PAIRS = [("gaussian", f) for f in PLAIN] + [("mixture", f) for f in PLAIN] + [("decoder", f) for f in PLAIN]
PAIRS += [("intercepts", f) for f in FLAT] + [("minibatch", f) for f in FLAT]


class Decoder(pyro.nn.PyroModule):
    """y = net(z) + noise, with weights of its own to learn."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(1, 2, dtype=torch.float64)
        with torch.no_grad():
            self.net.weight.fill_(0.5)
            self.net.bias.fill_(0.1)

    def forward(self, y, index=None):
        with pyro.plate("row", 6):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=torch.float64), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(self.net(z), 0.5).to_event(1), obs=y)


def decoder(tiny):
    y = torch.linspace(-3, 3, 12, dtype=torch.float64).reshape(6, 2)
    card = tiny.entry("decoder", lambda: Data(train={"y": y}), None, learns=True)
    return type(card)(**{**{f: getattr(card, f) for f in card.__dataclass_fields__}, "build": lambda data: Decoder()})


def programs(tiny, name):
    """Return an entry and the minibatch size."""
    if name == "decoder":
        return decoder(tiny), None
    return getattr(tiny, "intercepts" if name == "minibatch" else name)()[0], 4 if name == "minibatch" else None


def objective(entry, family, batch_size, *, stick=True, particles=8):
    """Return the flat objective at a jittered start, its weights included; call it inside a session."""
    data = entry.load_data()
    torch.manual_seed(0)
    program = entry.program(data)
    density = LogDensity(program, data, dtype=entry.dtype)
    module = FAMILIES[family]
    flat = module.flat(build(family, program, data, entry), find_start(density, torch.Generator().manual_seed(0)))
    weights = trainable(program, learns=entry.learns, name=entry.name)
    with torch.no_grad():
        for parameter in flat.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return FlatObjective(density, flat, weights, num_particles=particles, batch_size=batch_size, stick=stick)


@pytest.fixture
def uncompiled(monkeypatch):
    """Run traced graphs node by node in place of Inductor's code; everything around them is as it is."""

    def build(function, make, checks, saved):
        graph = make()

        def run(inputs):
            with torch.no_grad(), compiled.default_of(graph.examples):
                return list(graph.graph(*inputs))

        compiled._check(function, lambda inputs: run([*inputs, *graph.constants]), checks)
        return graph, run, False

    monkeypatch.setattr(compiled, "_build", build)


@pytest.fixture(autouse=True)
def _hear_again():
    compiled._said.clear()


def graph_gradients(step, graph, noise):
    """Read the gradient of every parameter off the first moment of a graph's first step, unclipped."""
    control = torch.tensor([1.0, 1.0, 0.0, 1e30], dtype=torch.float64)
    moment = graph(step.state, control, step.rates, *noise)[0][1]
    parts = moment.split([p.numel() for p in step.parameters])
    return [part.reshape(p.shape) / (1 - 0.9) for part, p in zip(parts, step.parameters, strict=True)]


@pytest.mark.parametrize(("name", "family", "stick"), [(*p, True) for p in PAIRS] + [(*p, False) for p in PAIRS if p[0] == "minibatch"])
def test_every_gradient_of_the_graph_equals_the_eager_one(tiny, name, family, stick):
    entry, batch_size = programs(tiny, name)
    with session(entry.dtype):
        loss = objective(entry, family, batch_size, stick=stick)
        step = Step(loss, FitConfig(compile="off"), 1)
        noise = loss.noise(torch.Generator().manual_seed(3))
        got = graph_gradients(step, step.trace(), noise)
        # The truth goes through the parameters themselves, not through the functional form that is traced.
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
        return u, log_q + 0 * self.log_scale.detach().sum() if noise.requires_grad else log_q.detach()

    with session(entry.dtype):
        loss = objective(entry, "mean_field", None, stick=False)
        step = Step(loss, FitConfig(compile="off"), 1)
        noise = loss.noise(torch.Generator().manual_seed(3))
        truth = torch.autograd.grad(loss.loss(noise), step.parameters)
        monkeypatch.setattr(WhitenedMeanField, "sample", cut)
        got = graph_gradients(step, step.trace(), noise)
    assert max(float((a - b).abs().max()) for a, b in zip(got, truth, strict=True)) > 1e-3


def both(entry, family, batch_size, **options):
    """Fit eagerly and compiled."""
    return tuple(guides.fit(entry, family, batch_size=batch_size, compile=mode, **{**RUN, **options}) for mode in ("off", "on"))


def assert_same_run(eager, fast):
    assert not eager.compiled["used"]
    assert fast.compiled == {"used": True, "reason": "compiled"}
    assert fast.cost.compile_seconds > 0
    assert eager.cost.compile_seconds == 0
    assert len(eager.losses) == len(fast.losses) == 64
    assert np.abs(fast.losses / eager.losses - 1).max() < 1e-8
    assert fast.stop == eager.stop
    for a, b in zip(eager.guide.state_dict().values(), fast.guide.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("name", "family"), [p for p in PAIRS if p[0] in ("mixture", "minibatch", "decoder")])
def test_a_traced_run_has_the_losses_of_an_eager_one(tiny, uncompiled, name, family):
    eager, fast = both(*reversed_pair(programs(tiny, name), family))
    assert_same_run(eager, fast)
    if name == "decoder":
        for fit in (eager, fast):
            assert float((fit.program.net.weight - 0.5).abs().max()) > 1e-3
        assert torch.allclose(eager.program.net.weight, fast.program.net.weight, rtol=1e-8)


def reversed_pair(pair, family):
    entry, batch_size = pair
    return entry, family, batch_size


@pytest.mark.parametrize(("name", "family"), [("mixture", "full_rank"), ("minibatch", "amortized")])
def test_a_compiled_run_has_the_losses_of_an_eager_one(tiny, name, family):
    assert_same_run(*both(*reversed_pair(programs(tiny, name), family)))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["elbo", "elbo_plain"])
@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_every_compiled_run_has_the_losses_of_an_eager_one(tiny, name, family, objective):
    assert_same_run(*both(*reversed_pair(programs(tiny, name), family), objective=objective))


def test_values_of_a_plain_function_are_inputs_of_the_graph_and_trained(tiny, uncompiled):
    net = torch.nn.Linear(1, 2, dtype=torch.float64)

    def program(y, index=None):
        decode = pyro.module("net", net)
        spread = pyro.param("spread", torch.tensor(0.5, dtype=torch.float64), constraint=dist.constraints.positive)
        with pyro.plate("row", 6):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=torch.float64), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(decode(z), spread).to_event(1), obs=y)

    y = torch.linspace(-3, 3, 12, dtype=torch.float64).reshape(6, 2)
    entry = tiny.entry("lifted", lambda: Data(train={"y": y}), program, learns=True)
    eager, fast = both(entry, "mean_field", None)
    assert_same_run(eager, fast)
    before = guides.fit(entry, "mean_field", compile="off", **{**RUN, "steps": 1}).program.state_dict()
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
    assert_same_run(*both(entry, "full_rank", None))


# -- when it does not compile ---------------------------------------------------------------------------------------------


def _branching(y, index=None):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x, 1.0 if x > 0 else 2.0), obs=y)


def test_a_program_that_cannot_be_traced_runs_eagerly_with_one_notice(tiny, caplog):
    entry = tiny.entry("branching", lambda: Data(train={"y": torch.ones((), dtype=torch.float64)}), _branching)
    with caplog.at_level(logging.WARNING, logger="zoo"):
        eager, fast = both(entry, "mean_field", None, restarts=2)
    assert not fast.compiled["used"]
    assert "cannot be traced" in fast.compiled["reason"]
    assert np.array_equal(eager.losses, fast.losses)
    assert len([r for r in caplog.records if "Running uncompiled" in r.getMessage()]) == 1


def test_a_graph_with_a_baked_value_fails_its_check(tiny):
    def program(y, index=None):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        frozen = torch.from_numpy(x.detach().numpy().copy())  # wrong on purpose: a trace keeps the value at the traced point
        pyro.sample("y", dist.Normal(x + frozen, 1.0), obs=y)

    entry = tiny.entry("baked", lambda: Data(train={"y": torch.ones((), dtype=torch.float64)}), program)
    eager, fast = both(entry, "mean_field", None)
    assert not fast.compiled["used"]
    assert "self-check failed" in fast.compiled["reason"]
    assert np.array_equal(eager.losses, fast.losses)


def test_a_graph_that_is_slightly_wrong_is_refused(tiny, monkeypatch, uncompiled, caplog):
    honest = compiled._build

    def build(*arguments):
        graph, run, found = honest(*arguments)
        # A large loss would hide this from a tolerance relative to the largest output.
        return graph, lambda inputs: (lambda out: [out[0] * (1 + 1e-7), out[1]])(run(inputs)), found

    monkeypatch.setattr(compiled, "_build", build)
    with caplog.at_level(logging.WARNING, logger="zoo"):
        eager, fast = both(tiny.gaussian()[0], "mean_field", None)
    assert "differs from the eager one" in caplog.text
    assert fast.compiled == {"used": False, "reason": "self-check failed: the compiled step differs from the eager one"}
    assert np.array_equal(eager.losses, fast.losses)


def test_without_a_compiler_it_runs_eagerly(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    fit = guides.fit(tiny.gaussian()[0], "full_rank", compile="on", **RUN)
    assert not fit.compiled["used"]
    assert "no C++ compiler" in fit.compiled["reason"]
    assert fit.ok


def test_auto_compiles_only_what_pays(tiny, uncompiled, monkeypatch):
    entry, _ = tiny.gaussian()
    short = guides.fit(entry, "mean_field", compile="auto", **RUN)
    assert not short.compiled["used"]
    assert "eager is enough" in short.compiled["reason"]
    monkeypatch.setattr(compiled, "_eager_seconds", lambda function, inputs: 1.0)
    assert guides.fit(entry, "mean_field", compile="auto", **{**RUN, "steps": 1000, "patience": 400}).compiled["used"]


def test_what_never_compiles_says_why(tiny):
    entry, _ = tiny.skewed()

    def guide(y, index=None):
        pyro.sample("rate", dist.Gamma(pyro.param("a", torch.tensor(5.0), constraint=dist.constraints.positive), 1.0))
        pyro.sample("share", dist.Dirichlet(torch.ones(3)))

    own = tiny.entry("own", entry.load_data, entry.program(None), own_guides={"mine": lambda program, data, entry: guide})
    fit = guides.fit(own, "mine", compile="on", **{**RUN, "num_particles": 2})
    assert "Pyro program" in fit.compiled["reason"]
    assert not fit.compiled["used"]
    assert "no optimization step" in guides.fit(entry, "laplace").compiled["reason"]
    with pytest.raises(UsageError, match="compile"):
        guides.fit(entry, "mean_field", compile="maybe")


def test_a_loss_that_breaks_stops_alike(tiny, uncompiled):
    def program(y, index=None):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("wall", torch.log(2.5 - x))

    entry = tiny.entry("wall", lambda: Data(train={"y": torch.ones((), dtype=torch.float64)}), program)
    eager, fast = both(entry, "mean_field", None, steps=4000, num_particles=64)
    assert fast.compiled["used"]
    assert fast.stop == eager.stop
    assert fast.stop.status == "nan"
    assert "'wall'" in fast.stop.sentence
    assert torch.isfinite(fast.guide.loc).all()
    assert torch.allclose(fast.guide.loc, eager.guide.loc)


def test_the_stream_of_minibatches_is_not_moved_by_compiling(tiny):
    entry, *_ = tiny.intercepts()
    with session(entry.dtype):
        loss = objective(entry, "mean_field", 5)
        drawn = loss.noise(torch.Generator().manual_seed(1))[1]
        left = loss.batches._left.clone()
        loss.spare_noise(torch.Generator().manual_seed(2))
    assert len(drawn) == 5
    assert torch.equal(left, loss.batches._left)


def test_the_average_is_of_the_tail(tiny):
    entry, _ = tiny.gaussian()
    with session(entry.dtype):
        loss = objective(entry, "mean_field", None)
        seen = []
        config = FitConfig(compile="off", tail=0.5, **RUN)
        plain = Step.take

        def take(self, number, share, noise, *, averaging):
            out = plain(self, number, share, noise, averaging=averaging)
            if averaging:
                seen.append(self.state[0].clone())
            return out

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Step, "take", take)
            outcome = optimize(loss, config, torch.Generator().manual_seed(0))
    assert outcome.steps == 64
    assert len(seen) == 16
    values = torch.cat([p.detach().reshape(-1) for p in loss.parameters.values()])
    assert torch.allclose(values, torch.stack(seen).mean(0), rtol=1e-12)
