"""The stopping rule: what stands still settles, what falls or moves does not."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import guides
from guides.optimize import loop
from guides.optimize.stopping import LEAST, SHORTEST, SLACK, Settled, Watch
from guides.types import FitConfig

WINDOW = 400


def windows(first, second, *, values=(0.0, 0.0), noise=0.3):
    """Feed two windows of losses around two means, with a watched parameter around two values."""
    rng = np.random.default_rng(0)
    watch, ends = Watch(WINDOW), []
    for mean, value in zip((first, second), values, strict=True):
        moved = value + 0.01 * rng.standard_normal(WINDOW)
        ends.append(
            watch.extend(
                (mean + noise * rng.standard_normal(WINDOW)).tolist(),
                lambda i, moved=moved: torch.tensor([moved[i], 0.0]),
            )
        )
    assert ends[0] is False  # nothing to compare the first window with
    return ends[1], watch.last


def test_losses_and_values_that_stand_still_are_settled():
    ended, last = windows(5.0, 5.0)
    assert ended
    assert last.settled
    assert not last.improving


def test_a_loss_that_falls_is_not_settled_and_still_improving():
    ended, last = windows(5.0, 4.0)
    assert not ended
    assert last.improving
    error = 0.3 * math.sqrt(2 / WINDOW)  # of the difference of two independent window means
    assert last.gain == pytest.approx(1.0, abs=5 * error)
    assert last.gain_se == pytest.approx(error, rel=0.15)


def test_a_loss_that_rises_is_not_improving():
    assert not windows(4.0, 5.0)[1].improving


def test_a_parameter_that_moves_is_not_settled_though_the_loss_is():
    ended, last = windows(5.0, 5.0, values=(0.0, 0.5))
    assert not ended
    assert last.moved == pytest.approx(0.5, abs=0.01)
    assert not last.improving


def fed(watch, means, noise=0.3):
    """Feed windows of losses; return after how many the search had settled, 0 if never.

    The 16 losses at mean parameters lie around the same means; their random numbers are those of
    every window, so that their differences are exact but for `noise` / 100.
    """
    rng = np.random.default_rng(3)
    same = noise * rng.standard_normal(16)
    for number, mean in enumerate(means, 1):
        losses = (mean + noise * rng.standard_normal(watch.length)).tolist()
        probes = mean + same + noise / 100 * rng.standard_normal(16)
        if watch.extend(losses, lambda i: None, lambda probes=probes: probes):
            return number
    return 0


def test_pairs_of_windows_settle_from_the_fortieth_on_and_are_named_by_their_steps():
    watch = Watch(WINDOW, pairs=True)
    assert fed(watch, [5.0] * 60) == LEAST == 40
    assert watch.last.sentence.startswith(f"over the last {20 * WINDOW} steps the loss fell by")
    single = Watch(WINDOW)
    assert fed(single, [5.0] * 9) == 2
    assert single.last.sentence.startswith(f"over the last {WINDOW} steps the loss fell by")
    assert " +- " in single.last.sentence  # as in every plain sentence


def test_a_slow_fall_is_seen_over_half_of_the_windows():
    """A tenth of a standard error of a window mean, in each: seen at equal random numbers."""
    error = 0.3 / math.sqrt(WINDOW)
    means = [5.0 - (SLACK / 20 + 0.1 * error) * k for k in range(80)]
    assert fed(Watch(WINDOW), means) == 2
    watch = Watch(WINDOW, pairs=True)
    assert fed(watch, means) == 0
    assert watch.last.gain == pytest.approx(means[39] - means[79], abs=0.01)
    assert watch.last.gain_se == pytest.approx(0.003 * math.sqrt(2 / 16), rel=0.5)


def test_a_plateau_is_left_if_it_does_not_last_for_half_of_the_windows():
    plateau, later = [5.0] * 25, np.linspace(5.0, 2.0, 12)
    means = [8.0, 6.5, *plateau, *later, *[2.0] * 60]
    ended = fed(Watch(WINDOW, pairs=True), means)
    assert means[ended // 2 - 1] == 2.0
    assert ended == 2 * (2 + len(plateau) + len(later))


def test_a_window_shorter_than_the_shortest_is_named_by_its_length():
    watch = Watch(3)
    assert fed(watch, [5.0] * 3)
    assert watch.last.sentence.startswith(f"over the last {SHORTEST} steps")


def test_a_fit_that_has_settled_stops_before_its_last_step(tiny):
    entry, _ = tiny.gaussian()
    fit = guides.fit(
        entry, "full_rank", steps=4000, patience=100, anneal=50, num_particles=4, compile="off"
    )
    assert fit.stop.status == "ok"
    assert fit.stop.sentence.startswith("Settled: over the last 100 steps")
    assert fit.cost.steps < 1000


def falling(monkeypatch, losses, warmup=0):
    """Run the loop on losses as they are given, whatever the parameters are."""
    rows = iter(losses)

    class Step:
        native, together, record = None, 1, None

        def __init__(self, *given):
            self.state, self.rates = torch.zeros(4, 1), torch.zeros(1)

        def block(self, first, shares, noise, averaging):
            return np.array([[next(rows), 0.0] for _ in shares]), torch.zeros(len(shares), 1)

        def write(self, values=None):
            pass

        def write_average(self, number):
            pass

    monkeypatch.setattr(loop, "Step", Step)
    objective = SimpleNamespace(
        normal=None,
        noise=lambda generator: (),
        inputs=lambda noise: noise,
        watched=lambda: None,
        weights={},
        parameters={},
        warmup=warmup,
    )
    config = FitConfig(steps=1000, patience=100, anneal=200)
    return loop.optimize(objective, config, torch.Generator())


def test_a_loss_that_still_falls_at_the_last_step_is_not_converged(monkeypatch):
    noise = 0.1 * np.random.default_rng(1).standard_normal(1000)
    found = falling(monkeypatch, np.linspace(50, 0, 1000) + noise)
    assert found.steps == 1000
    assert found.stop.status == "not_converged"
    assert "while still improving" in found.stop.sentence


@pytest.mark.parametrize(("warmup", "steps"), [(0, 400), (500, 800)])
def test_no_search_ends_inside_the_warm_up(monkeypatch, warmup, steps):
    """Standing losses settle after two windows, but not before the schedule has ended."""
    noise = 0.1 * np.random.default_rng(2).standard_normal(1000)
    found = falling(monkeypatch, noise, warmup)
    assert found.stop.status == "ok"
    assert found.steps == steps


@pytest.mark.parametrize(("gain", "improving"), [(0.35, True), (0.33, False), (-1.0, False)])
def test_a_loss_still_falls_beyond_three_errors_and_twice_the_slack(gain, improving):
    """The line is 3 * 0.1 + 2 * 0.02 nats."""
    found = Settled(steps=10, gain=gain, gain_se=0.1, moved=0.0, settled=False)
    assert found.improving is improving
