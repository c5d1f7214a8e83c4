"""Steps on a graphics card: the same graph takes the same steps.

Without a card the CPU stands in for it.
"""

import logging

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support.stepping import RUN, objective, programs

import guides
import zoo
from guides.optimize.step import Step
from guides.session import session
from guides.types import FitConfig
from zoo.compiler import cuda
from zoo.compiler.cuda import DeviceSteps, check_device, moved
from zoo.compiler.trace import trace
from zoo.errors import UnknownNameError, UsageError

CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
PAIRS = [
    ("mixture", "full_rank"),
    ("decoder", "mean_field"),
    ("minibatch", "amortized"),
    ("minibatch", "low_rank"),
]


@pytest.fixture
def pretended(monkeypatch):
    """Let `cuda` be the CPU: everything but the kernels of the card runs as with a card."""
    real = Step._on_device
    monkeypatch.setattr("guides.optimize.settings.check_device", lambda name: None)
    monkeypatch.setattr(
        Step,
        "_on_device",
        lambda self, _, mode, expected: real(self, torch.device("cpu"), mode, expected),
    )


def _same(entry, family, batch_size, limit=1e-8, **options):
    plain = guides.fit(entry, family, batch_size=batch_size, compile="off", **RUN)
    there = guides.fit(
        entry,
        family,
        batch_size=batch_size,
        device="cuda",
        **{"compile": "auto", **RUN, **options},
    )
    assert there.compiled["used"], there.compiled
    assert there.compiled["reason"].startswith("on ")
    assert len(plain.losses) == len(there.losses)
    assert np.abs(there.losses / plain.losses - 1).max() < limit
    assert there.stop == plain.stop
    assert there.cost.compile_seconds > 0
    for a, b in zip(
        plain.guide.state_dict().values(), there.guide.state_dict().values(), strict=True
    ):
        assert b.device.type == "cpu"
        assert torch.allclose(a, b, rtol=10 * limit, atol=10 * limit)
    return there


@pytest.mark.parametrize(("name", "family"), PAIRS[:3])
def test_a_moved_graph_has_the_losses_of_an_eager_run(tiny, pretended, name, family):
    entry, batch_size = programs(tiny, name)
    _same(entry, family, batch_size)


def test_a_block_that_breaks_ends_at_its_last_good_step(tiny):
    """Like steps one by one: same count, losses and states.

    A card cannot stop inside a block and has to go back.
    """
    entry, _ = programs(tiny, "mixture")
    with session(entry.dtype):
        ours, theirs = (
            Step(objective(entry, "mean_field", None), FitConfig(compile="off"), 1)
            for _ in range(2)
        )
        theirs.native = theirs._on_device(torch.device("cpu"), "auto", 1)
        assert isinstance(theirs.native, DeviceSteps)
        noise = [
            torch.stack(c)
            for c in zip(
                *[ours.objective.noise(torch.Generator().manual_seed(s)) for s in range(9)],
                strict=True,
            )
        ]
        noise[0][5] = float("nan")
        for number in (1, 10):
            blocks = [s.block(number, [1.0] * 9, noise, [False] * 9) for s in (ours, theirs)]
            assert [len(b[0]) for b in blocks] == [6, 6]
            assert np.allclose(blocks[0][0][:5], blocks[1][0][:5], rtol=1e-9)
            assert not np.isfinite(blocks[1][0][5]).all()
            assert torch.allclose(blocks[0][1][:5], blocks[1][1][:5], rtol=1e-9)
            assert torch.allclose(ours.state, theirs.state, rtol=1e-9)
            assert torch.allclose(ours._before, theirs._before, rtol=1e-9)
        noise[0][0] = float("nan")  # at once: the state stays
        state = theirs.state.clone()
        rows, _ = theirs.block(19, [1.0] * 9, noise, [False] * 9)
        assert len(rows) == 1
        assert torch.equal(theirs.state, state)


def test_a_device_that_fails_leaves_the_fit_to_the_processor(tiny, pretended, monkeypatch, caplog):
    entry, _ = programs(tiny, "mixture")
    whole, calls = DeviceSteps._one, iter(range(10_000))

    def breaks(self):
        if next(calls) > 40:
            raise RuntimeError("the card fell off the bus")
        whole(self)

    monkeypatch.setattr(DeviceSteps, "_one", breaks)
    monkeypatch.setattr(DeviceSteps, "seconds", lambda self: 0.0)
    with caplog.at_level(logging.WARNING, logger="zoo"):
        plain = guides.fit(entry, "mean_field", compile="off", **RUN)
        there = guides.fit(entry, "mean_field", device="cuda", compile="auto", **RUN)
    assert not there.compiled["used"]
    assert "failed at run time" in there.compiled["reason"]
    assert "fell off the bus" in caplog.text
    assert np.abs(there.losses / plain.losses - 1).max() < 1e-8


def test_a_wrong_graph_is_refused(tiny, pretended, monkeypatch):
    """A device that computes something else than the program is refused."""
    entry, _ = programs(tiny, "mixture")

    def wrong(traced, where):
        out = moved(traced, where)
        for constant in out.constants:
            if constant.dtype.is_floating_point:
                constant.mul_(1.0001)
        return out

    monkeypatch.setattr(cuda, "moved", wrong)
    fit = guides.fit(entry, "mean_field", device="cuda", compile="auto", **RUN)
    assert not fit.compiled["used"]
    assert "self-check failed" in fit.compiled["reason"]


def test_a_program_as_guide_stays_on_the_processor_with_a_notice(tiny, pretended, caplog):
    entry, _ = tiny.gaussian()

    def guide(loc, index=None):
        pyro.sample(
            "x",
            dist.Normal(pyro.param("at", torch.zeros(2, dtype=torch.float64)), 1.0).to_event(1),
        )

    own = tiny.entry(
        "own",
        entry.load_data,
        entry.program(None),
        own_guides={"mine": lambda program, data, entry: guide},
    )
    with caplog.at_level(logging.WARNING, logger="zoo"):
        fit = guides.fit(own, "mine", device="cuda", **{**RUN, "steps": 4, "num_particles": 2})
    assert not fit.compiled["used"]
    assert "not on cuda: steps of a guide that is a Pyro program" in caplog.text


def test_every_tensor_a_graph_makes_is_made_on_the_device():
    def function(x):
        return [
            x
            + torch.arange(3.0, dtype=x.dtype)
            + torch.zeros(3, dtype=x.dtype).index_fill(0, x.argmax()[None], 2.0)
        ]

    traced = trace(function, [torch.ones(3, dtype=torch.float64)])
    there = moved(traced, torch.device("meta"))
    named = [n.kwargs["device"] for n in there.graph.graph.nodes if "device" in n.kwargs]
    assert named
    assert all(d == torch.device("meta") for d in named)
    assert all(t.device.type == "meta" for t in there(*there.examples))
    assert all(
        n.kwargs.get("device", torch.device("cpu")) == torch.device("cpu")
        for n in traced.graph.graph.nodes
    )


def test_a_device_that_is_not_there_is_refused_in_one_sentence(monkeypatch):
    with pytest.raises(UnknownNameError, match="did you mean 'cuda'"):
        check_device("cudda")
    with pytest.raises(UsageError, match="'off' but steps on cuda are graphs"):
        FitConfig(device="cuda", compile="off")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"The device is 'cuda' but .* accepted here: cpu"):
        guides.fit(zoo.load("coin"), "mean_field", device="cuda")


@CARD
@pytest.mark.parametrize("compile_", ["cached", "on"])
@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_a_card_has_the_losses_of_an_eager_run(tiny, name, family, compile_):
    entry, batch_size = programs(tiny, name)
    # A card sums in another order, and the first steps of Adam are signs of gradients: where one
    # is near zero, its last digit decides.
    assert (
        "on NVIDIA" in _same(entry, family, batch_size, 1e-6, compile=compile_).compiled["reason"]
    )


@CARD
def test_a_block_on_a_card_ends_at_its_last_good_step(tiny):
    entry, _ = programs(tiny, "mixture")
    with session(entry.dtype):
        step = Step(
            objective(entry, "mean_field", None), FitConfig(compile="auto", device="cuda"), 1
        )
        assert step.state.device.type == "cuda"
        noise = [
            torch.stack(c)
            for c in zip(
                *[step.objective.noise(torch.Generator().manual_seed(s)) for s in range(9)],
                strict=True,
            )
        ]
        noise[0][5] = float("nan")
        rows, values = step.block(1, [1.0] * 9, noise, [False] * 9)
        assert len(rows) == 6
        assert torch.equal(step.state[0], values[4])
        assert bool(torch.isfinite(step.state).all())
