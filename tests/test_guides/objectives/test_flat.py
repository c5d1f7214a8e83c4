"""Minibatches: an epoch holds every unit once, and epochs differ."""

import dataclasses
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from support.densities import density_of
from torch import nn

from guides.base.flat import FlatGuide
from guides.objectives import flat as module
from guides.objectives.flat import FlatObjective, Minibatches
from zoo.density.log_density import LogDensity


def batches(tiny, size, number):
    entry, *_ = tiny.intercepts(groups=12)
    data = entry.load_data()
    made = Minibatches(LogDensity(entry.program(data), data), size)
    generator = torch.Generator().manual_seed(0)
    return [made.draw(generator) for _ in range(number)]


def test_batches_of_an_epoch_are_disjoint_and_hold_every_unit(tiny):
    found = batches(tiny, 3, 8)
    for epoch in (found[:4], found[4:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(12))


def test_every_unit_meets_others_in_another_epoch(tiny):
    found = [frozenset(b.tolist()) for b in batches(tiny, 3, 40)]
    assert len(set(found)) > 30  # of 40 batches, in 10 epochs; 220 triples are possible
    neighbors = {u: set().union(*(b for b in found if u in b)) - {u} for u in range(12)}
    assert all(len(seen) >= 8 for seen in neighbors.values())


def test_an_incomplete_remainder_is_dropped(tiny):
    found = batches(tiny, 5, 6)
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert len(set(first.tolist()) | set(second.tolist())) == 10


def test_a_batch_as_large_as_the_data_is_all_of_them(tiny):
    assert batches(tiny, 12, 1) == [None]


# -- the loss ------------------------------------------------------------------------------------


class Normal(FlatGuide):
    """Independent normals, with a local scale for the units of a minibatch."""

    def __init__(self, dim):
        super().__init__()
        self.dim = self.noise_dim = dim
        self.loc = nn.Parameter(torch.linspace(-0.5, 0.5, dim, dtype=torch.float64))
        self.held = nn.Parameter(torch.zeros(1, dtype=torch.float64), requires_grad=False)
        self.asked = []

    def noise_for(self, units):
        return units + 100

    def watched(self):
        return self.loc.detach() + 1

    def sample(self, noise, *, index=None, stl=False):
        self.asked.append((noise, index, stl))
        u = self.loc + noise[:, : self.dim] if index is None else self.loc.expand(len(noise), -1)
        return u, self.log_prob_flat(u)

    def log_prob_flat(self, u):
        return torch.distributions.Normal(self.loc, 1.0).log_prob(u).sum(-1)


def objective(tiny, *, groups=4, weights=None, density=None, **options):
    if density is None:
        entry, *_ = tiny.intercepts(groups=groups, rows=2)
        data = entry.load_data()
        density = LogDensity(entry.program(data), data)
    given = {"num_particles": 4, "batch_size": None, "stl": False, **options}
    return FlatObjective(density, Normal(density.dim), weights or {}, **given)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("particles", "rows", "all_"), [(4, 2, 4), (3, 3, 3), (1, 1, 1)])
def test_an_even_number_of_particles_comes_in_mirrored_pairs(tiny, particles, rows, all_):
    made = objective(tiny, num_particles=particles)
    (noise,) = made.noise(stream())
    assert noise.shape == (rows, 5)
    assert noise.dtype == torch.float64
    assert made.normal == (rows, 5)
    assert made.numbers == rows * 5
    assert made.gradients_per_step == particles
    both = made.mirrored(noise)
    assert both.shape == (all_, 5)
    if particles == 4:
        assert torch.equal(both[2:], -noise)
    assert torch.equal(both[:rows], noise)


def test_the_loss_is_minus_the_elbo_of_the_particles(tiny):
    made = objective(tiny)
    noise = made.noise(stream())
    u = made.guide.loc + made.mirrored(*noise)
    log_p = torch.stack([made.density.evaluate(row) for row in u])
    expected = -(log_p - made.guide.log_prob_flat(u)).mean()
    assert float(made.loss(noise).detach()) == pytest.approx(float(expected.detach()))
    assert made.guide.asked[-1][1:] == (None, False)
    assert objective(tiny, stl=True).loss(noise).ndim == 0


def test_one_particle_needs_no_map(tiny):
    made = objective(tiny, num_particles=1)
    noise = made.noise(stream())
    u = made.guide.loc + noise[0]
    expected = made.guide.log_prob_flat(u) - made.density.evaluate(u[0])
    assert float(made.loss(noise).detach()) == pytest.approx(float(expected.detach()))


def test_sticking_the_landing_is_asked_of_the_guide(tiny):
    made = objective(tiny, stl=True)
    made.loss(made.noise(stream()))
    assert made.guide.asked[-1][2] is True


def test_a_minibatch_has_its_own_noise_and_terms(tiny):
    made = objective(tiny, batch_size=2)
    assert made.noise_width == 102
    assert made.normal is None
    assert made.numbers == 1
    noise, index = made.noise(stream())
    assert noise.shape == (2, 102)
    assert len(index) == 2
    tensors = made.batches.tensors(index)
    assert torch.equal(tensors["index"], index)
    assert torch.equal(tensors["y"], made.density.data.train["y"][index])
    u = made.guide.loc.expand(4, -1)
    expected = made.guide.log_prob_flat(u)[0] - made.density.evaluate(u[0], tensors)
    assert float(made.loss((noise, index)).detach()) == pytest.approx(float(expected.detach()))
    assert torch.equal(made.guide.asked[-1][1], index)
    assert "index" not in made.batches.tensors(None)


def test_a_peek_does_not_use_up_a_minibatch(tiny):
    made, other = objective(tiny, batch_size=2), objective(tiny, batch_size=2)
    first = made.noise(stream(1))[1]
    made.peek_noise(stream(2))
    second = made.noise(stream(3))[1]
    assert torch.equal(other.noise(stream(1))[1], first)
    assert torch.equal(other.noise(stream(3))[1], second)
    assert sorted(torch.cat([first, second]).tolist()) == [0, 1, 2, 3]


def test_gradients_are_those_of_the_loss_in_the_order_of_the_values(tiny):
    made = objective(tiny)
    assert list(made.parameters) == ["loc"], "what is held is no parameter"
    noise = made.noise(stream())
    other = (made.guide.loc.detach() + 0.3).requires_grad_(True)
    loss, (gradient,) = made.gradients([other], *noise)
    with torch.no_grad():
        made.guide.loc.add_(0.3)
    expected = made.loss(noise)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()))
    (slope,) = torch.autograd.grad(expected, made.guide.loc)
    torch.testing.assert_close(gradient, slope)
    flat = made.flat_loss({"loc": other}, *noise)
    assert float(flat.detach()) == pytest.approx(float(expected.detach()))


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, y):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z + self.shift, 1.0).to_event(1), obs=y)


def test_weights_of_the_program_have_gradients_too(tiny):
    model = Weighted()
    density = density_of(model, y=torch.tensor([1.0, 2.0], dtype=torch.float64))
    made = objective(tiny, density=density, weights={"shift": model.shift})
    noise = made.noise(stream())
    values = [made.guide.loc, torch.tensor(0.9, dtype=torch.float64, requires_grad=True)]
    loss, gradients = made.gradients(values, *noise)
    with torch.no_grad():
        model.shift.fill_(0.9)
    expected = made.loss(noise)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()))
    slopes = torch.autograd.grad(expected, [made.guide.loc, model.shift])
    for a, b in zip(gradients, slopes, strict=True):
        torch.testing.assert_close(a, b)
    made.prepare()
    assert made._graph is None


def test_a_program_that_runs_point_by_point_is_traced_once(tiny):
    made = objective(tiny)
    made.prepare()
    assert made._graph is None, "a vectorized one needs no graph"
    made.function = SimpleNamespace(vectorized=False)
    noise = made.noise(stream())
    made.function = dataclasses.replace(made.density.batch_function(), vectorized=False)
    plain = made.loss(noise)
    made.prepare()
    graph = made._graph
    made.prepare()
    assert made._graph is graph
    assert float(made.loss(noise).detach()) == pytest.approx(float(plain.detach()))
    for options in ({"batch_size": 2}, {"weights": {"x": made.guide.loc}}):
        other = objective(tiny, **options)
        other.function = made.function
        other.prepare()
        assert other._graph is None


def test_a_graph_of_points_has_the_value_and_the_gradient(monkeypatch, tiny):
    made = objective(tiny)
    made.function = dataclasses.replace(made.density.batch_function(), vectorized=False)
    made.prepare()
    monkeypatch.setattr(module, "is_traced", lambda u: True)
    u = (0.3 * torch.randn(4, 5, generator=stream()).double()).requires_grad_(True)
    value = made._log_p(u, None)
    expected = torch.stack([made.density.evaluate(row) for row in u.detach()])
    torch.testing.assert_close(value.detach(), expected)
    (slope,) = torch.autograd.grad(value.sum(), u)
    gradient = torch.stack([made.density.eager_gradient(row)[1] for row in u.detach()])
    torch.testing.assert_close(slope, gradient)


def test_what_a_step_needs_is_its_noise(tiny):
    made = objective(tiny)
    noise = made.noise(stream())
    assert made.inputs(noise) is noise
    assert made.observe("cpu") is None
    assert torch.equal(made.watched(), made.guide.loc.detach() + 1)
    assert (made.record, made.eager) == (None, "")


@pytest.mark.parametrize(
    ("by_points", "options", "eager"),
    [(True, {}, True), (False, {}, False), (True, {"batch_size": 2}, False)],
)
def test_a_density_compiled_by_itself_is_no_part_of_a_step(
    monkeypatch, tiny, by_points, options, eager
):
    monkeypatch.setattr(LogDensity, "by_points", by_points)
    made = objective(tiny, **options)
    assert made.eager == (
        "its log density is compiled by itself, point by point in C" if eager else ""
    )
    assert (made.record is not None) is eager


def test_the_site_of_a_loss_that_is_not_finite_is_named(tiny):
    def program(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        bad = torch.where(b > 5, torch.nan, 1.0)
        pyro.sample("y", dist.Normal(a, bad), obs=y)
        pyro.factor("steep", (0 * b).abs().sqrt() if y > 0 else 0 * b)

    def made(y):
        return objective(tiny, density=density_of(program, y=torch.tensor(y).double()))

    def where(found, b):
        noise = torch.zeros(2, 2, dtype=torch.float64)
        noise[1, 1] = b
        return found.locate_nonfinite((noise,))

    assert where(made(-1.0), torch.inf) == "the guide's own parameters"
    assert where(made(-1.0), 9.0) == "site 'y'"
    assert where(made(-1.0), 0.0) == "a gradient of the guide"
    assert where(made(1.0), 0.0) == "the gradient of site 'b'"
