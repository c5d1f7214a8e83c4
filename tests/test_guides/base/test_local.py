"""Guides whose units are independent given the globals, with a table of per-datum numbers."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support import tiny
from support.densities import density_of
from torch import nn
from torch.distributions import MultivariateNormal

from guides.base.flat import Start
from guides.base.local import LocalGuide
from zoo.density.log_density import LogDensity
from zoo.errors import FitError
from zoo.types import Data

UNITS, ROWS = 3, 2


class Table(LocalGuide):
    """Numbers of its own for every unit."""

    def __init__(self, density, *, full=True, head="full", seed=0):
        super().__init__(density, full=full, head=head)
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(
            0.4 * torch.randn(self.size, self.head.numbers, generator=generator).double()
        )
        self.begun = None

    def numbers(self, units):
        return self.table if units is None else self.table[units]

    def begin_local(self, scale, loc):
        self.begun = scale, loc


def two_globals():
    """Sites in the order: a global, two local ones of two values and one, another global."""

    def program(y, index=None):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("unit", UNITS, subsample=index):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            w = pyro.sample("w", dist.Normal(a, 1.0))
            pyro.sample("y", dist.Normal(z.sum(-1) + w, 1.0), obs=y)
        pyro.sample("b", dist.Normal(0.0, 1.0))

    y = torch.zeros(UNITS, dtype=torch.float64)
    data = Data(train={"y": y}, observed=("y",), batched=("y",), size=UNITS)
    return LogDensity(program, data)


def codes():
    """No global value."""

    def program(y, index=None):
        with pyro.plate("unit", UNITS, subsample=index):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=y)

    y = torch.zeros(UNITS, dtype=torch.float64)
    return LogDensity(program, Data(train={"y": y}, observed=("y",), batched=("y",), size=UNITS))


PLACES = [[1, 2, 7], [3, 4, 8], [5, 6, 9]]  # z of each unit, then w


def start(dim=11, factor=True):
    generator = torch.Generator().manual_seed(3)
    tril = torch.randn(dim, dim, generator=generator).double().tril(-1) * 0.3
    scale = torch.linspace(0.5, 1.5, dim, dtype=torch.float64)
    loc = torch.linspace(-2.0, 3.0, dim, dtype=torch.float64) ** 2
    return Start(loc=loc, scale=scale, factor=tril + torch.diag(scale) if factor else None)


def stirred(density, **options):
    guide = Table(density, **options)
    guide.begin(start(density.dim))
    with torch.no_grad():
        guide.shift.copy_(torch.linspace(0.2, 0.4, len(guide.rest)))
        guide.log_scale.copy_(torch.linspace(-0.3, 0.3, len(guide.rest)))
        if guide.full and len(guide.rest):
            guide.lower[1, 0] = 0.5
    return guide


def test_a_program_without_units_is_refused():
    def program(y):
        pyro.sample("y", dist.Normal(pyro.sample("m", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    with pytest.raises(FitError) as caught:
        Table(density_of(program, y=torch.zeros((), dtype=torch.float64)))
    assert str(caught.value) == (
        "The program has no local site in a minibatch plate; give Data(batched=..., size=...) and"
        " a plate of that size."
    )


@pytest.mark.parametrize("full", [True, False])
def test_a_guide_knows_which_values_belong_to_which_unit(full):
    guide = Table(two_globals(), full=full)
    assert guide.places.tolist() == PLACES
    assert guide.rest.tolist() == [0, 10]
    assert (guide.dim, guide.noise_dim, guide.size, guide.width) == (11, 11, 3, 3)
    assert (guide.full, guide.head.width) == (full, 3)
    assert guide.noise_for(2) == 2 + 2 * 3
    assert guide.lower.requires_grad is full
    assert guide.shift.requires_grad is True
    assert guide.log_scale.requires_grad is True
    assert guide.shift.dtype == torch.float64


def test_a_guide_begins_as_a_standard_normal_before_it_has_a_start():
    guide = Table(two_globals())
    assert guide.origin.tolist() == [0.0, 0.0]
    assert guide.tril.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert guide.center.tolist() == [0.0] * 3
    assert guide.spread.tolist() == [1.0] * 3
    assert guide.watched().tolist() == [0.0] * 4
    assert guide.lower.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_a_guide_of_one_global_value_has_no_lower_triangle_to_train():
    card, *_ = tiny.intercepts(3, 2)
    data = card.load_data()
    guide = Table(LogDensity(card.program(data), data))
    assert guide.rest.tolist() == [0]
    assert guide.lower.requires_grad is False
    assert guide.shift.requires_grad is True


def test_a_guide_without_global_values_trains_none():
    guide = Table(codes())
    assert len(guide.rest) == 0
    assert not guide.shift.requires_grad
    assert not guide.log_scale.requires_grad
    assert guide.watched() is None
    guide.begin(start(6))
    assert guide.center.tolist() == start(6).loc.reshape(3, 2).mean(0).tolist()


@pytest.mark.parametrize("full", [True, False])
def test_begin_takes_the_moments_of_the_start(full):
    guide, begun = Table(two_globals(), full=full), start()
    guide.begin(begun)
    rest = torch.tensor([0, 10])
    assert torch.equal(guide.origin, begun.loc[rest])
    if full:
        covariance = (begun.factor @ begun.factor.T)[rest][:, rest]
        torch.testing.assert_close(guide.tril @ guide.tril.T, covariance)
        assert guide.tril[0, 1] == 0
    else:
        assert torch.equal(guide.tril, torch.diag(begun.scale[rest]))
    local = begun.loc[torch.tensor(PLACES)].numpy()
    np.testing.assert_allclose(guide.center, local.mean(0))
    np.testing.assert_allclose(guide.spread, local.std(0).clip(min=0.5))
    assert torch.equal(guide.begun[0], begun.scale[torch.tensor(PLACES)])
    assert torch.equal(guide.begun[1], torch.as_tensor(local))


def test_units_that_begin_alike_have_the_smallest_scale_of_the_start():
    guide, begun = Table(two_globals()), start()
    guide.begin(Start(loc=torch.ones(11).double(), scale=begun.scale))
    assert guide.spread.tolist() == [0.5] * 3


def moments(guide):
    """Mean and covariance of the guide, from its parameters one by one."""
    dim = guide.dim
    mean, covariance = np.zeros(dim), np.zeros((dim, dim))
    rest = guide.rest.numpy()
    lower = np.tril(guide.lower.detach().numpy(), -1)
    lower = guide.tril.numpy() @ (lower + np.diag(np.exp(guide.log_scale.detach().numpy())))
    mean[rest] = guide.origin.numpy() + guide.tril.numpy() @ guide.shift.detach().numpy()
    covariance[np.ix_(rest, rest)] = lower @ lower.T
    d = guide.width
    for unit, places in enumerate(guide.places.tolist()):
        row = guide.table.detach().numpy()[unit]
        factor = np.diag(np.exp(row[d : 2 * d]))
        place = 2 * d
        for i in range(d):
            for j in range(i):
                factor[i, j] = row[place]
                place += 1
        factor = guide.spread.numpy()[:, None] * factor
        mean[places] = guide.center.numpy() + guide.spread.numpy() * row[:d]
        covariance[np.ix_(places, places)] = factor @ factor.T
    return torch.as_tensor(mean), torch.as_tensor(covariance)


@pytest.mark.parametrize("make", [two_globals, codes])
def test_the_guide_is_the_normal_of_its_parameters(make):
    guide = stirred(make())
    mean, covariance = moments(guide)
    noise = torch.randn(5, guide.dim, generator=torch.Generator().manual_seed(1)).double()
    u, log_q = guide.sample(noise)
    law = MultivariateNormal(mean, covariance)
    torch.testing.assert_close(log_q, law.log_prob(u))
    torch.testing.assert_close(guide.log_prob_flat(u), log_q)
    linear = (
        guide.sample(torch.eye(guide.dim).double())[0]
        - guide.sample(torch.zeros(guide.dim, guide.dim).double())[0]
    )  # row i: what noise i moves
    torch.testing.assert_close(linear.T @ linear, covariance)
    torch.testing.assert_close(guide.sample(torch.zeros(1, guide.dim).double())[0][0], mean)


def test_the_log_q_of_the_units_adds_up():
    guide = stirred(two_globals())
    mean, covariance = moments(guide)
    noise = torch.randn(4, 11, generator=torch.Generator().manual_seed(1)).double()
    u, each = guide.sample_units(noise)
    assert each.shape == (4, 3)
    assert bool((u[:, guide.rest] == 0).all())
    torch.testing.assert_close(guide.log_prob_units(u), each)
    for unit, places in enumerate(torch.tensor(PLACES)):
        law = MultivariateNormal(mean[places], covariance[places][:, places])
        torch.testing.assert_close(each[:, unit], law.log_prob(u[:, places]))


@pytest.mark.parametrize("short", [True, False])
def test_a_minibatch_sets_its_own_units_and_scales_their_log_q(short):
    """With the noise of all units, or of these only, in the order of the index."""
    guide, index = stirred(two_globals()), torch.tensor([2, 0])
    noise = torch.randn(4, 11, generator=torch.Generator().manual_seed(1)).double()
    own = torch.cat([noise[:, :2], noise[:, 8:11], noise[:, 2:5]], -1)
    everything, _ = guide.sample(noise)
    u, log_q = guide.sample(own if short else noise, index=index)
    assert bool((u[:, torch.tensor(PLACES[1])] == 0).all())
    kept = torch.tensor([0, 10, *PLACES[0], *PLACES[2]])
    torch.testing.assert_close(u[:, kept], everything[:, kept])
    each = guide.log_prob_units(everything)
    of_globals = guide.log_prob_flat(everything) - each.sum(-1)
    torch.testing.assert_close(log_q, of_globals + 1.5 * (each[:, 0] + each[:, 2]))
    codes_guide = stirred(codes())
    u, log_q = codes_guide.sample(noise[:, :6], index=torch.tensor([1]))
    each = codes_guide.log_prob_units(codes_guide.sample(noise[:, :6])[0])
    torch.testing.assert_close(log_q, 3.0 * each[:, 1])


def test_sticking_the_landing_keeps_the_value_and_the_path_only():
    """E of the score is 0: what stl leaves out is d log q(u fixed) / d parameter."""
    guide = stirred(two_globals())
    noise = torch.randn(4, 11, generator=torch.Generator().manual_seed(1)).double()
    plain, landing = guide.sample(noise)[1], guide.sample(noise, stl=True)[1]
    torch.testing.assert_close(plain, landing)
    u = guide.sample(noise)[0].detach()
    parameters = [guide.shift, guide.log_scale, guide.lower, guide.table]
    full = torch.autograd.grad(plain.sum(), parameters)
    path = torch.autograd.grad(landing.sum(), parameters)
    score = torch.autograd.grad(guide.log_prob_flat(u).sum(), parameters)
    for a, b, c in zip(full, path, score, strict=True):
        torch.testing.assert_close(a, b + c)
        assert float(c.abs().max()) > 1e-3


def test_the_whitened_globals_are_watched():
    guide = stirred(two_globals())
    torch.testing.assert_close(
        guide.watched(), torch.tensor([0.2, 0.4, -0.3, 0.3], dtype=torch.float64)
    )
    assert not guide.watched().requires_grad
