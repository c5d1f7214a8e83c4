"""The loss further along the way of a search: at an optimum, and where nothing moved."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import guides
import zoo
from guides.optimize.ahead import FEW, MORE, Ahead, look_ahead, tolerance_of

D, MANY = 10, FEW * MORE
CURVATURE = 10.0 ** torch.linspace(-1, 1, D, dtype=torch.float64)
LOUD = 300.0  # nats by which losses of different random numbers differ


def bowl(asked=None, paired=0.0):
    """A quadratic loss whose gradient is noisy, in nats, 0 on average at its optimum."""
    stream = torch.Generator().manual_seed(0)
    pull = torch.randn(MANY, D, dtype=torch.float64, generator=stream) * CURVATURE.sqrt()
    level = LOUD * torch.randn(MANY, dtype=torch.float64, generator=stream)

    def losses(row, number):
        if asked is not None:
            asked.append(number)
        value = 0.5 * (CURVATURE * row.square()).sum() + (pull @ row + level)[:number]
        jitter = paired * torch.randn(number, dtype=torch.float64, generator=stream)
        return (value + jitter).numpy()

    return losses


def optimum_of(losses):
    """The place where the mean of these very losses is lowest."""
    zero = torch.zeros(D, dtype=torch.float64)
    unit = torch.eye(D, dtype=torch.float64)
    base = losses(zero, MANY).mean()
    slope = torch.tensor([losses(u, MANY).mean() - base for u in unit]) - 0.5 * CURVATURE
    return -slope / CURVATURE


@pytest.mark.parametrize("exponent", range(-9, -1))
def test_a_fall_is_found_whatever_the_size_of_a_step(exponent):
    """Steps straight to the optimum: half of the way back leaves a quarter of the loss."""
    here = torch.full((D,), 10.0, dtype=torch.float64)
    losses = bowl()
    found = look_ahead(losses, here, {"the guide": -(10.0**exponent) * here}, 1.0)
    share = found.times * 10.0**exponent
    height = 50 * float(CURVATURE.sum())
    assert 0.4 < share < 1.6  # the multiple of four that is next to 1, give or take the noise
    right = height * (1 - (1 - share) ** 2)
    assert found.fall == pytest.approx(right, abs=5 * found.se)
    assert 0 < found.se < LOUD / 3  # noise that both ends share cancels


def test_at_an_optimum_nothing_falls():
    """Ways of every size and direction: none is taken for a fall, and most cost one look."""
    asked = []
    losses = bowl(asked)
    here = optimum_of(losses)
    asked.clear()
    stream = torch.Generator().manual_seed(1)
    for exponent in np.linspace(-6, 1, 200):
        way = 10.0**exponent * torch.randn(D, dtype=torch.float64, generator=stream)
        assert look_ahead(losses, here, {"the guide": way}, 0.1) is None
    assert max(asked) == MANY  # a fall of the first numbers alone was looked at again
    assert np.mean(asked) < 2 * FEW


def test_a_tolerated_fall_is_none():
    """A way of a hundredth of the distance: 64 of them leave 6.5 of 50 nats, 256 overshoot."""
    here = torch.zeros(D, dtype=torch.float64)
    here[0] = math.sqrt(2 * 50 / float(CURVATURE[0]))

    def losses(row, number):
        return np.full(number, 0.5 * float(CURVATURE @ row.square()))

    found = look_ahead(losses, here, {"the guide": -here / 100}, 43.0)
    assert (found.times, found.se) == (64.0, 0.0)
    assert found.fall == pytest.approx(50 * (1 - 0.36**2))
    assert look_ahead(losses, here, {"the guide": -here / 100}, 44.0) is None


def test_a_fall_within_three_errors_is_looked_at_with_more_numbers():
    """At noise of 2.7 per pair the error is 0.7 with 16 numbers, 0.3 with 64.

    1.5 nats are seen then, and 0.3 nats, though above the tolerance, are not.
    """
    place = torch.zeros(1)
    stream = np.random.default_rng(3)
    asked = []

    def look(fall):
        def losses(row, number):
            asked.append(number)
            return fall * (float(row) == 0) + 1.9 * stream.standard_normal(number)

        return look_ahead(losses, place, {"the guide": torch.ones(1)}, 0.1)

    assert sum(look(0.3) is not None for _ in range(100)) < 20
    found = [look(1.5) for _ in range(100)]
    assert sum(f is not None for f in found) > 80
    assert MANY in asked
    errors = [f.se for f in found if f]
    assert 0.7 < np.median(errors) / (1.9 * math.sqrt(2 / MANY)) < 1.3


def test_each_part_is_followed_by_itself():
    """Beside weights that have come to rest and only jitter, a guide that stands still is seen."""
    losses = bowl()
    here = optimum_of(losses)
    here[: D // 2] += 30.0
    still, loud = torch.zeros(D, dtype=torch.float64), torch.zeros(D, dtype=torch.float64)
    still[: D // 2], loud[D // 2 :] = -1e-6, 1.0
    assert look_ahead(losses, here, {"both": still + loud}, 1.0) is None
    found = look_ahead(losses, here, {"the guide": still, "the weights": loud}, 1.0)
    assert found.part == "the guide"
    assert found.times > 1e6


def test_a_place_where_the_program_fails_ends_the_way():
    """At 64 times the way of a window; what was found before it counts."""

    def losses(row, number):
        if float(row) >= 64.0:
            raise RuntimeError("the matrix is not positive definite")
        return np.full(number, 100.0 - float(row))

    found = look_ahead(losses, torch.zeros(1), {"the guide": torch.ones(1)}, 0.1)
    assert (found.times, found.fall) == (16.0, 16.0)


def test_what_is_no_number_is_no_fall():
    def losses(row, number):
        return np.full(number, math.nan if float(row) else 5.0)

    assert look_ahead(losses, torch.zeros(1), {"the guide": torch.ones(1)}, 0.1) is None


@pytest.mark.parametrize(
    ("loss", "error", "nats"),
    [(80.0, 0.001, 0.052), (80.0, 30.0, 0.058), (-4e4, 30.0, 4.05), (-4e4, 0.5, 1.05)],
)
def test_a_settled_search_may_leave_little_and_a_little_of_its_noise(loss, error, nats):
    assert tolerance_of(loss, error) == pytest.approx(nats)


def test_a_finding_is_told_in_words():
    found = Ahead(part="the guide", times=4096.0, fall=92.6, se=4.7)
    assert found.sentence == (
        "moving the guide 4,096 times as far the same way would lower it by 93 +- 5 nats"
    )


ROWS = 40


def own_pair():
    """A linear decoder with an encoder, as a caller would write them, and the closed form."""
    torch.manual_seed(0)
    weight = torch.randn(2, 5, dtype=torch.float64)
    x = torch.randn(ROWS, 2, dtype=torch.float64) @ weight
    x = x + 0.3 * torch.randn(ROWS, 5, dtype=torch.float64)
    decoder, encoder = nn.Linear(2, 5).double(), nn.Linear(5, 4).double()

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("rows", ROWS):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.3).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("rows", ROWS):
            mean, scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, scale.exp()).to_event(1))

    values = torch.linalg.eigvalsh((x - x.mean(0)).T @ (x - x.mean(0)) / ROWS).flip(0)
    variances = torch.cat([values[:2], torch.full((3,), 0.09, dtype=torch.float64)])
    best = -ROWS / 2 * float((2 * math.pi * variances).log().sum() + (values / variances).sum())
    return zoo.from_program(model, {"x": x}, guide=guide), best


QUICK = {"patience": 10, "anneal": 100, "num_particles": 1, "compile": "off"}
SLOWER = QUICK | {"patience": 20, "anneal": 200}


@pytest.mark.parametrize(("rate", "steps"), [(1e-9, 560), (1e-6, 560), (1e-6, 300)])
def test_a_fit_that_did_not_move_has_not_settled(rate, steps):
    """Noise of tens of nats per step hid that nothing was trained: this was called settled.

    Also not where the budget ends first, before forty windows of ten steps.
    """
    entry, best = own_pair()
    fit = guides.fit(entry, "own", lr=rate, weight_lr=rate, steps=steps, **QUICK)
    assert fit.elbo.value_nats < best - 300
    assert fit.stop.status == "not_converged"
    assert fit.stop.sentence.startswith("Not settled: over the last ")
    assert ": the steps are too small; raise " in fit.stop.sentence
    assert f"lr ({rate:g}); annealed" in fit.stop.sentence


def test_a_guide_that_did_not_move_is_seen_beside_weights_that_did():
    entry, best = own_pair()
    fit = guides.fit(entry, "own", lr=1e-9, weight_lr=0.02, steps=1200, **QUICK)
    assert fit.elbo.value_nats < best - 20
    assert fit.stop.status == "not_converged"
    assert "moving the guide" in fit.stop.sentence
    assert "raise lr (1e-09)" in fit.stop.sentence


def test_a_fit_that_moved_still_settles():
    entry, best = own_pair()
    fit = guides.fit(entry, "own", lr=0.05, weight_lr=0.02, steps=4000, **SLOWER)
    assert fit.stop.sentence.startswith("Settled: ")
    assert fit.elbo.value_nats == pytest.approx(best, abs=0.3)
    assert fit.cost.steps < 2000


def test_a_flow_that_did_not_move_has_not_settled():
    """It starts at the Laplace approximation of a banana, half a nat from where it can be."""
    options = {"patience": 30, "anneal": 60, "num_particles": 32, "optimizer": "adam"}
    entry = zoo.load("banana")
    fit = guides.fit(entry, "flow", lr=1e-9, steps=200, compile="off", **options)
    assert fit.stop.status == "not_converged"
    assert "moving the guide" in fit.stop.sentence
    assert "raise lr (1e-09)" in fit.stop.sentence
