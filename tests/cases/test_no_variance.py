"""Quantities without a variance are judged by quantiles, and it is said.

A Cauchy latent with data that do not move it: quantiles at 5, 25, 75, 95 % are -6.314, -1, 1,
6.314. Judged by mean and sd, 28 of 100 comparisons of exact draws with exact draws
gave a false finding.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from support.short_runs import short_fits

import benchmarks
from benchmarks.metrics.joint.c2st import c2st_accuracy
from benchmarks.metrics.tails import tail_index
from benchmarks.thresholds import TAIL
from zoo.types import Data, ModelEntry, Posterior, Quantity, Reference


def card(d):
    return ModelEntry(
        name="tails",
        title="t",
        make_data=lambda seed: Data(train={}),
        build=lambda data: None,
        quantities={"x": Quantity(fn=lambda draws, data: draws["x"], dims=("d",))},
        reference="none",
    )


def verdict(df, d, seed, *, change=lambda x: x, distances="none"):
    """Compare 2,000 with 4 x 2,000 exact draws of a t with df degrees of freedom."""
    rng = np.random.default_rng(seed)
    entry, data = card(d), Data(train={})
    sides = [torch.tensor(rng.standard_t(df, size)) for size in ((2000, d), (4, 2000, d))]
    method = Posterior(
        entry=entry,
        data=data,
        method="guide",
        draws={"x": change(sides[0])},
        sample_dims=("sample",),
    )
    truth = Posterior(
        entry=entry,
        data=data,
        method="exact",
        draws={"x": sides[1]},
        sample_dims=("chain", "draw"),
    )
    reference = Reference(kind="exact", posterior=truth)
    return benchmarks.compare(method, reference, heldout=False, distances=distances)


@pytest.mark.parametrize(("df", "d"), [(1, 1), (1, 5), (2, 5), (3, 5), (1000, 5)])
def test_exact_against_exact_is_no_finding(df, d):
    """None of 25; at one in 300 each, two or more are seen once in 300 such tests."""
    found = [verdict(df, d, seed).verdict for seed in range(25)]
    assert sum(v not in ("agrees", "inconclusive") for v in found) <= 1, found


def test_the_classifier_sees_no_difference_either():
    found = [verdict(1, 3, seed, distances="all") for seed in range(3)]
    assert [c.verdict for c in found] == ["agrees"] * 3
    assert all(c.scores[0].by_quantiles for c in found)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: 0.7 * x, "too_narrow"),
        (lambda x: 1.4 * x, "too_wide"),
        (lambda x: x + 0.4, "shifted"),
    ],
)
@pytest.mark.parametrize("d", [1, 5])
def test_what_is_wrong_is_named_and_by_what(change, expected, d):
    for seed in range(5):
        found = verdict(1, d, seed, change=change)
        assert found.verdict == expected
        assert "quantiles, since its tail index" in found.sentence
        assert "leaves no variance" in found.sentence
        assert any("judged by quantiles" in note for note in found.notes)


def test_a_normal_with_the_right_quartiles_has_the_wrong_shape():
    generator = torch.Generator().manual_seed(0)
    normal = 1.4826 * torch.randn(2000, 1, generator=generator, dtype=torch.float64)
    assert verdict(1, 1, 0, change=lambda x: normal).verdict == "wrong_shape"


@pytest.mark.parametrize(
    ("df", "k"), [(1, 1.0), (2, 0.5), (3, 1 / 3), (10_000, 0.0)], ids=["t1", "t2", "t3", "normal"]
)
def test_the_tail_index_is_that_of_the_distribution(df, k):
    """1 / df, with a bias of a tenth from the larger of two tails; the sd is about 0.1."""
    found = tail_index(np.random.default_rng(1).standard_t(df, (4000, 200)))
    bias = 0.05 if df < 1000 else -0.08
    assert found.mean() == pytest.approx(k + bias, abs=0.05)
    share = (found > TAIL).mean()
    assert share > 0.85 if df <= 2 else share < 0.3 if df == 3 else share == 0


def test_one_side_alone_decides_too():
    """The reference's tail is seen in either direction, below as above."""
    rng = np.random.default_rng(0)
    lower = -(rng.pareto(1.0, (4000, 3)))
    assert (tail_index(lower) > 0.7).all()
    assert (tail_index(-lower) > 0.7).all()
    assert (tail_index(np.zeros((4000, 2))) == -np.inf).all()
    assert (tail_index(rng.standard_normal((100, 2))) == -np.inf).all()


def test_two_samples_of_one_posterior_are_told_apart_half_of_the_time():
    """With the tested draws in the standardization, accuracies were below 0.5."""
    rng = np.random.default_rng(0)
    found = [
        c2st_accuracy(rng.standard_normal((500, 1)), rng.standard_normal((500, 1)))[0]
        for _ in range(12)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=4 * 0.016 / 12**0.5)
    few = [
        c2st_accuracy(rng.standard_normal((100, 2)), rng.standard_normal((100, 2)))[0]
        for _ in range(12)
    ]
    assert np.mean(few) == pytest.approx(0.5, abs=4 * 0.036 / 12**0.5)


def model(y=None):
    z = pyro.sample("z", dist.Cauchy(0.0, 1.0))
    pyro.sample("y", dist.Normal(0.0 * z, 1.0), obs=y)


def test_a_guide_of_a_cauchy_is_judged_by_what_exists(monkeypatch):
    short_fits(monkeypatch, 200, 40)
    card = benchmarks.compare_program(
        model, {"y": torch.tensor(0.3)}, families=["full_rank"], quick=True, jobs=1
    )
    found = card.comparisons["full_rank"]
    score = found.scores[0]
    assert score.by_quantiles
    z = card.comparisons["nuts"].posterior.draws["z"].reshape(-1)
    # the unit is IQR / 1.35: exact 2 / 1.349; ESS about 1,000
    assert score.reference_sd == pytest.approx(1.4826, abs=0.35)
    assert float(z.quantile(0.75)) == pytest.approx(1.0, abs=0.35)
    assert "times the reference's" not in found.sentence or "interquartile" in found.sentence


@pytest.mark.parametrize(("draws", "known"), [(249, False), (250, True)])
def test_a_tail_of_25_draws_is_the_shortest_that_has_an_index(draws, known):
    """250 draws have a tenth of them in a tail."""
    found = tail_index(np.random.default_rng(2).standard_normal((draws, 3)))
    assert np.isfinite(found).all() == known
