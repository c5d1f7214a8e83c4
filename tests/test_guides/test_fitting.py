"""A program that was trained keeps its weights in later fits, also for other data."""

import dataclasses
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import guides
import zoo
from guides import session
from zoo.errors import UnknownNameError, UsageError
from zoo.types import Data

SHORT = {"steps": 40, "patience": 10, "anneal": 10, "num_particles": 4, "compile": "off"}


class Learned(pyro.nn.PyroModule):
    """A location of its own that is trained, beside one latent per row."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.offset = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, y, index=None):
        with pyro.plate("row", self.size, subsample=index):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z + self.offset, 0.5), obs=y)


def test_a_fit_to_other_data_holds_the_given_weights(tiny):
    y = 4.0 + torch.linspace(-1, 1, 6, dtype=torch.float64)
    data = Data(train={"y": y}, batched=("y",), size=6)
    entry = tiny.entry("learned", lambda: data, None, learns=True)
    object.__setattr__(entry, "build", lambda data: Learned(data.size))
    first = guides.fit(entry, "mean_field", **SHORT)
    trained = first.program.state_dict()["offset"]
    assert float(trained) > 0.05
    few = Data(train={"y": y[:2]}, batched=("y",), size=2)
    for other in (data, few):
        second = guides.fit(entry, "mean_field", data=other, given=first, **SHORT)
        assert torch.equal(second.program.state_dict()["offset"], trained)
        assert second.program.size == other.size
    posterior = guides.draw(second, 4000)
    # conjugate, given the offset: precision 1 + 4
    exact = 0.8 * (y[:2] - trained)
    assert (posterior.draws["z"].mean(0) - exact).abs().max() < 0.2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": {"x": torch.ones(3, 2)}}, "data=a dict with a Tensor of shape (3, 2); accepted:"
         " data of the entry, as entry.load_data() or entry.judged(data), or None."),
        ({"config": {"steps": 3}}, "config={'steps': 3} (dict); accepted: guides.FitConfig(...),"
         " or None."),
        ({"given": "mean_field"}, "given='mean_field' (str); accepted: a fit, from guides.fit, or"
         " None."),
        ({"family": torch.ones(3)}, "family=a Tensor of shape (3,); accepted: the name of a guide"
         " family, such as 'mean_field'."),
    ],
)  # fmt: skip
def test_an_argument_of_another_type_is_described(given, said):
    with pytest.raises(UsageError) as caught:
        guides.fit(zoo.load("coin"), **{"family": "mean_field", **given})
    assert str(caught.value) == f"guides.fit got {said}"


def test_weights_that_a_solver_would_leave_are_named_as_their_author_does():
    decoder = nn.Linear(1, 1)

    def program(x):
        pyro.module("decoder", decoder)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    entry = zoo.from_program(program, {"x": torch.zeros(3, 1)})
    with pytest.raises(UsageError) as caught:
        guides.fit(entry, "laplace", **SHORT)
    assert str(caught.value) == (
        "laplace solves for the latent values and trains no weights, but my_model learns 'weight'"
        " of the network 'decoder'; fit another family first and pass given=fit."
    )


def test_an_unknown_setting_of_an_entry_is_named():
    entry = dataclasses.replace(zoo.load("coin"), learns=False, training={"step": 10})
    with pytest.raises(UnknownNameError, match=r"setting in training 'step'.*steps"):
        guides.fit(entry, entry.families[0], compile="off")


@pytest.mark.parametrize(
    ("recursion", "settings", "compiled"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"compile": "off"}, False),
        (True, {"batch_size": 5}, False),
        (True, {"device": "cuda"}, False),
    ],
)
def test_only_a_long_recursion_is_compiled_before_its_start(
    recursion, settings, compiled, monkeypatch
):
    asked = []
    density = SimpleNamespace(
        work=lambda: "work", compile=lambda mode, **k: asked.append((mode, k))
    )
    monkeypatch.setattr(session, "is_recursion", lambda work: recursion and work == "work")
    given = {"compile": "auto", "batch_size": None, "device": "cpu", **settings}
    config = SimpleNamespace(steps=100, num_particles=8, **given)
    session.compile_recursion(density, config)
    assert asked == ([("auto", {"expected_calls": 800})] if compiled else [])
