"""Tables of latent classes from given draws; the page says met, missed or open."""

import numpy as np
import torch

import zoo
from benchmarks.studies.latent_classes import coverage, heldout
from benchmarks.studies.latent_classes import render as page
from zoo.quantities import shared_classes


def test_shared_is_the_mean_over_draws():
    r = torch.rand(2, 5, 4, 3, dtype=torch.float64)
    r = r / r.sum(-1, keepdim=True)
    expected = torch.einsum("csik,csjk->ij", r, r) / 10
    assert torch.allclose(shared_classes(r), expected)
    assert torch.allclose(shared_classes(r.flatten(0, 1)), expected)


def test_the_interval_finds_a_difference_and_only_a_difference():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(2, 300))
    fields = {
        "data": "iris",
        "K": 3,
        "covariance": "full",
        "family": "laplace",
        "theirs": base,
        "failures": 0,
    }
    same = heldout.Score(ours=base + rng.normal(size=(2, 300)), **fields)
    better = heldout.Score(ours=base + 0.5 + rng.normal(size=(2, 300)), **fields)
    assert heldout.interval(same)[1] < 0 < heldout.interval(same)[2]
    mean, low, _ = heldout.interval(better)
    assert 0.3 < low < mean < 0.7


def test_simulated_rows_come_from_the_simulated_parameters():
    entry = zoo.load("gaussian_mixture_exact")
    data = entry.load_data()
    truth, made = coverage.simulated(entry, data, 3)
    again, _ = coverage.simulated(entry, data, 3)
    other, _ = coverage.simulated(entry, data, 4)
    assert torch.equal(truth["location"], again["location"])
    assert not torch.equal(truth["location"], other["location"])
    standardized = (made.train["petal"] - truth["location"][truth["label"]]) / truth["variance"][
        truth["label"]
    ].sqrt()
    assert standardized.abs().max() < 5
    assert made.train["petal"].shape == data.train["petal"].shape


def test_exact_intervals_hold_the_truth_nine_times_of_ten():
    found = coverage.exact_intervals(40, seed=1)
    assert abs(found.share - 0.9) < 5 * found.se
    assert found.failures == 0


def test_the_page_calls_a_bar_by_what_was_measured():
    row = {
        "data": "iris",
        "K": 3,
        "covariance": "full",
        "family": "full_rank",
        "seeds": 1,
        "folds": 5,
        "rows": 150,
        "ours": -1.0,
        "theirs": -1.2,
        "difference": 0.2,
        "low": 0.1,
        "high": 0.3,
        "failures": 0,
    }
    verdicts = {
        bar: verdict
        for bar, _, verdict in page.bars(
            {"heldout_iris": [row], "heldout_wine": [{**row, "low": -0.1}]}
        )
    }
    by_data = {
        name: next(v for b, v in verdicts.items() if f" on {name}," in b)
        for name in ("iris", "wine", "breast_cancer")
    }
    assert by_data == {"iris": "met", "wine": "missed", "breast_cancer": "open"}
    assert "| iris |" in page.render({"heldout_iris": [row]})
