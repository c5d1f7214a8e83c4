"""A step that does not compile runs eagerly and says why; what both have in common."""

import logging

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support.stepping import RUN, both, loops, objective

import guides
from guides.optimize.loop import optimize
from guides.optimize.step import Step
from guides.session import session
from guides.types import FitConfig
from zoo.compiler import compile as compiled
from zoo.compiler import policy
from zoo.errors import UsageError
from zoo.types import Data


def _branching(y, index=None):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x, 1.0 if x > 0 else 2.0), obs=y)


def test_a_program_that_cannot_be_traced_runs_eagerly_with_one_notice(tiny, caplog):
    entry = tiny.entry(
        "branching", lambda: Data(train={"y": torch.ones((), dtype=torch.float64)}), _branching
    )
    with caplog.at_level(logging.WARNING, logger="zoo"):
        eager, fast, _ = loops(entry, runs=2)
    assert not fast.record["used"]
    assert "cannot be traced" in fast.record["reason"]
    assert np.array_equal(eager.losses, fast.losses)
    assert len([r for r in caplog.records if "Running uncompiled" in r.getMessage()]) == 1


def test_a_graph_with_a_baked_value_fails_its_check(tiny):
    def program(y, index=None):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        # wrong on purpose: a trace keeps the value at that point
        frozen = torch.from_numpy(x.detach().numpy().copy())
        pyro.sample("y", dist.Normal(x + frozen, 1.0), obs=y)

    entry = tiny.entry(
        "baked", lambda: Data(train={"y": torch.ones((), dtype=torch.float64)}), program
    )
    eager, fast = loops(entry)
    assert not fast.record["used"]
    assert "self-check failed" in fast.record["reason"]
    assert np.array_equal(eager.losses, fast.losses)


def test_a_graph_that_is_slightly_wrong_is_refused(tiny, monkeypatch, uncompiled, caplog):
    honest = compiled._build

    def build(*arguments, **options):
        graph, run, package, found = honest(*arguments, **options)
        # A large loss would hide this from a tolerance relative to the largest output.
        return (
            graph,
            lambda inputs: (lambda out: [out[0] * (1 + 1e-7), out[1]])(run(inputs)),
            package,
            found,
        )

    monkeypatch.setattr(compiled, "_build", build)
    with caplog.at_level(logging.WARNING, logger="zoo"):
        eager, fast = both(tiny.gaussian()[0], "mean_field", None)
    assert "differs from the eager one" in caplog.text
    assert fast.compiled == {
        "used": False,
        "reason": "self-check failed: the compiled step differs from the eager one",
    }
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
    monkeypatch.setattr(
        compiled, "work_of", lambda function, inputs: policy.Work(operations=500, numbers=10**9)
    )
    assert guides.fit(
        entry, "mean_field", compile="auto", **{**RUN, "steps": 1000, "patience": 400}
    ).compiled["used"]


def test_what_never_compiles_says_why(tiny):
    entry, _ = tiny.skewed()

    def guide(y, index=None):
        pyro.sample(
            "rate",
            dist.Gamma(
                pyro.param("a", torch.tensor(5.0), constraint=dist.constraints.positive), 1.0
            ),
        )
        pyro.sample("share", dist.Dirichlet(torch.ones(3)))

    own = tiny.entry(
        "own",
        entry.load_data,
        entry.program(None),
        own_guides={"mine": lambda program, data, entry: guide},
    )
    fit = guides.fit(own, "mine", compile="on", **{**RUN, "steps": 4, "num_particles": 2})
    assert "_standard_gamma" in fit.compiled["reason"]
    assert not fit.compiled["used"]
    assert "no optimization step" in guides.fit(tiny.gaussian()[0], "laplace").compiled["reason"]
    with pytest.raises(UsageError, match="compile"):
        guides.fit(entry, "mean_field", compile="maybe")


def test_a_loss_that_breaks_stops_alike(tiny, uncompiled):
    def program(y, index=None):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("wall", torch.log(2.5 - x))

    entry = tiny.entry(
        "wall", lambda: Data(train={"y": torch.ones((), dtype=torch.float64)}), program
    )
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
        loss.peek_noise(torch.Generator().manual_seed(2))
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
