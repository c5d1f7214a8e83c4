"""Estimated references: moments of weighted islands, doubt, evidences."""

import dataclasses
import math

import pytest
import torch

import zoo
from benchmarks.trust.estimate import (
    LOG_Z,
    MOVED,
    estimated_reference,
    evidence_holds,
    evidence_of,
    island_moments,
)
from benchmarks.types import Comparison
from zoo.types import Posterior, Reference


def posterior(log_z, means, doubt="", moved=False):
    """Islands of a normal around different means, with different estimates of Z."""
    entry = zoo.load("correlated_gaussian", d=2)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(means), 500, 2, generator=generator, dtype=torch.float64)
    noise = noise - noise.mean(1, keepdim=True)
    x = torch.tensor(means, dtype=torch.float64)[:, None, None] + noise
    z = torch.tensor(log_z, dtype=torch.float64)[:, None].expand(len(means), 500)
    return Posterior(
        entry=entry,
        data=entry.load_data(),
        method="smc",
        draws={"x": x},
        sample_dims=("chain", "draw"),
        stats={LOG_Z: z, MOVED: torch.full((len(means), 500), moved)},
        doubt=doubt,
    )


def test_islands_weigh_as_their_evidences():
    found = island_moments(posterior([math.log(3.0), 0.0], [1.0, 5.0]))["x"]
    assert found.mean.tolist() == pytest.approx([2.0, 2.0])  # (3 * 1 + 1 * 5) / 4
    equal = island_moments(posterior([0.0, 0.0], [1.0, 5.0]))["x"]
    assert equal.mean.tolist() == pytest.approx([3.0, 3.0])


def test_the_evidence_is_the_mean_of_the_islands_and_not_of_their_logarithms():
    found = evidence_of(posterior([math.log(3.0), 0.0], [0.0, 0.0]))
    assert found.value == pytest.approx(math.log(2.0))
    assert found.se == pytest.approx(math.sqrt(2.0) / math.sqrt(2.0) / 2.0)


def test_an_improper_prior_has_no_evidence_and_doubt_no_truth():
    sound = estimated_reference(posterior([0.0, 0.1], [0.0, 0.0]), proper=True)
    assert sound.usable
    assert sound.log_evidence == pytest.approx(math.log((1 + math.exp(0.1)) / 2))
    assert sound.log_evidence_se > 0
    improper = estimated_reference(posterior([0.0, 0.1], [0.0, 0.0]), proper=False)
    assert improper.usable
    assert (improper.log_evidence, improper.log_evidence_se) == (None, None)
    doubted = estimated_reference(posterior([0.0, 0.1], [0.0, 0.0], "It moves."), proper=True)
    assert not doubted.usable
    assert doubted.reason == "It moves."
    assert doubted.log_evidence is None


def test_draws_that_later_chains_moved_have_no_evidence():
    moved = posterior([0.0, 0.1], [0.0, 0.0], moved=True)
    found = estimated_reference(moved, proper=True)
    assert found.usable
    assert (found.log_evidence, found.log_evidence_se) == (None, None)
    assert not evidence_holds(moved)
    assert evidence_holds(posterior([0.0, 0.1], [0.0, 0.0]))


def test_lost_nats_have_the_errors_of_both_sides():
    own = posterior([0.0, 0.1], [0.0, 0.0])
    found = Comparison(
        posterior=own,
        reference=Reference(kind="none", posterior=None),
        scores=(),
        distances=(),
        verdict="no_reference",
        reasons=(),
        sentence="",
        elbo={"value_nats": -5.0, "se": 0.03},
        log_evidence={"exact": None, "estimate": -4.5, "estimate_se": 0.04},
    )
    assert found.lost == pytest.approx((0.5, 0.05))
    exact = dataclasses.replace(found, log_evidence={"exact": -4.4})
    assert exact.lost == pytest.approx((0.6, 0.03))
    assert dataclasses.replace(found, log_evidence={"exact": None}).lost is None
    assert dataclasses.replace(found, elbo=None).lost is None
    point = {"value_nats": -5.0, "se": math.nan}
    assert dataclasses.replace(found, elbo=point).lost is None
