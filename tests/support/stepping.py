"""Programs, objectives and runs shared by the tests of the optimization step."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import guides
from guides.base.flat import Start
from guides.base.initialize import find_start
from guides.families.mean_field import WhitenedMeanField
from guides.objectives.flat import FlatObjective
from guides.optimize.loop import optimize
from guides.optimize.step import controls
from guides.registry import FAMILIES, build
from guides.session import session, trainable
from guides.types import FitConfig
from zoo.density.log_density import LogDensity
from zoo.types import Data

# converges at step 32 at the earliest: always 64 steps
RUN = {"steps": 64, "patience": 16, "anneal": 20, "num_particles": 8}


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
    return type(card)(
        **{
            **{f: getattr(card, f) for f in card.__dataclass_fields__},
            "build": lambda data: Decoder(),
        }
    )


def programs(tiny, name):
    """Return an entry and the minibatch size."""
    if name == "decoder":
        return decoder(tiny), None
    return getattr(tiny, "intercepts" if name == "minibatch" else name)()[0], (
        4 if name == "minibatch" else None
    )


def objective(entry, family, batch_size, *, stl=True, particles=8):
    """Return the flat objective at a jittered start, with its weights; call inside a session."""
    data = entry.load_data()
    torch.manual_seed(0)
    program = entry.program(data)
    density = LogDensity(program, data, dtype=entry.dtype)
    module = FAMILIES[family]
    flat = module.flat(
        build(family, program, data, entry), find_start(density, torch.Generator().manual_seed(0))
    )
    weights = trainable(program, learns=entry.learns, name=entry.name)
    with torch.no_grad():
        for parameter in flat.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return FlatObjective(
        density, flat, weights, num_particles=particles, batch_size=batch_size, stl=stl
    )


def graph_gradients(step, graph, noise):
    """Return the gradient of every parameter, unclipped.

    It is read off the first moment after a graph's first step.
    """
    control = torch.from_numpy(controls([1], [1.0], [False], 1e30)[0])
    moment = graph(step.state, control, step.rates, *noise)[0][1]
    parts = moment.split([p.numel() for p in step.parameters])
    return [
        part.reshape(p.shape) / (1 - 0.9) for part, p in zip(parts, step.parameters, strict=True)
    ]


def both(entry, family, batch_size, **options):
    """Fit eagerly and compiled."""
    return tuple(
        guides.fit(entry, family, batch_size=batch_size, compile=mode, **{**RUN, **options})
        for mode in ("off", "on")
    )


def loops(entry, runs=1):
    """Run the loop alone, eagerly and compiled, from a plain start.

    For programs that are slow because they evaluate point by point.
    """
    outcomes = []
    for mode in ("off", *["on"] * runs):
        with session(entry.dtype):
            density = LogDensity(entry.program(None), entry.load_data(), dtype=entry.dtype)
            loc = torch.full((density.dim,), 0.1, dtype=entry.dtype)
            start = Start(loc=loc, scale=torch.full_like(loc, 0.5))
            loss = FlatObjective(
                density,
                WhitenedMeanField(torch.nn.Module(), start),
                {},
                num_particles=4,
                batch_size=None,
                stl=True,
            )
            config = FitConfig(**{**RUN, "num_particles": 4, "compile": mode})
            outcomes.append(optimize(loss, config, torch.Generator().manual_seed(0)))
    return outcomes


def assert_same_run(eager, fast, tolerance=1e-8):
    """Compare losses and parameters.

    Adam divides by the size of gradients, so rounding grows where they are small.
    """
    assert not eager.compiled["used"]
    assert fast.compiled == {"used": True, "reason": "compiled"}
    assert fast.cost.compile_seconds > 0
    assert eager.cost.compile_seconds == 0
    assert len(eager.losses) == len(fast.losses) == 64
    assert np.abs(fast.losses / eager.losses - 1).max() < tolerance
    assert fast.stop == eager.stop
    for a, b in zip(
        eager.guide.state_dict().values(), fast.guide.state_dict().values(), strict=True
    ):
        assert torch.allclose(a, b, rtol=10 * tolerance, atol=10 * tolerance)
