"""Tables of latent classes from given draws; the page says met, missed or open."""

from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import guides
import zoo
from benchmarks.studies.latent_classes import co_clustering, coverage, evidence, heldout
from benchmarks.studies.latent_classes import render as page
from zoo.models.mixtures import gaussian_mixture
from zoo.quantities import shared_classes
from zoo.types import Analytic, Data, ModelEntry, Quantity


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


def normal_entry(number=50):
    """Independent normals, one observation each: the posterior is Normal(y / 2, 1 / sqrt 2)."""

    def program(y=None, index=None):
        zero = torch.zeros(number, dtype=torch.float64)
        loc = pyro.sample("loc", dist.Normal(zero, 1.0).to_event(1))
        pyro.sample("y", dist.Normal(loc, 1.0).to_event(1), obs=y)

    data = Data(train={"y": torch.zeros(number, dtype=torch.float64)}, observed=("y",))

    def sample(made, n, seed):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(n, number, dtype=torch.float64, generator=generator)
        return {"loc": made.train["y"] / 2 + noise / 2**0.5}

    names = ("location", "weight", "log_scale", "mixture_mean")
    quantities = {
        name: Quantity(fn=lambda draws, data: draws["loc"], dims=("unit",)) for name in names
    }
    entry = ModelEntry(
        name="normals",
        title="normals",
        make_data=lambda seed: data,
        build=lambda data: program,
        quantities=quantities,
        analytic=lambda made: Analytic(sample=lambda n, seed: sample(made, n, seed), moments={}),
        reference="analytic",
    )
    return entry, sample


def test_intervals_of_exact_draws_hold_nine_truths_of_ten(monkeypatch):
    """Twenty-five simulations of fifty components know the share to 0.9 %."""
    entry, sample = normal_entry()
    fake = SimpleNamespace(
        fit=lambda entry, family, data, seed: SimpleNamespace(ok=True, data=data, seed=seed),
        draw=lambda fit, n: SimpleNamespace(draws=sample(fit.data, n, fit.seed)),
    )
    monkeypatch.setattr(coverage, "guides", fake)
    monkeypatch.setattr(coverage, "zoo", SimpleNamespace(load=lambda name, K: entry))
    found = coverage.cover(entry, "exact", simulations=25, quantities=("location",))
    closed = coverage.exact_intervals(25, seed=2)
    for one in (found, closed):
        assert 0.003 < one.se < 0.0125
        assert abs(one.share - 0.9) < 4 * one.se


def test_a_failed_fit_covers_nothing(monkeypatch):
    entry, _ = normal_entry(3)
    monkeypatch.setattr(
        coverage, "guides", SimpleNamespace(fit=lambda *given, **more: SimpleNamespace(ok=False))
    )
    found = coverage.cover(entry, "none", simulations=4, quantities=("location",))
    assert (found.share, found.failures) == (0.0, 4)
    assert found.held["location"].shape == (4, 3)


def test_rows_are_scored_by_the_log_of_the_mean_and_scaled_by_their_training_fold(monkeypatch):
    """Of two draws with densities p and 3 p of a row the score is log 2 p, not log sqrt(3) p."""
    from sklearn.model_selection import KFold

    seen = []

    def log_joint(draws, held, basis):
        seen.append(held)
        one = held.sum(-1)  # [row]
        return torch.stack([one, one + np.log(3.0)])[..., None]  # [draw, row, class]

    class Theirs:
        def __init__(self, **settings):
            pass

        def fit(self, x):
            return self

        def score_samples(self, x):
            return x.sum(-1)

    classes = heldout.classes
    monkeypatch.setattr(
        heldout,
        "classes",
        SimpleNamespace(COLUMNS=classes.COLUMNS, from_rows=classes.from_rows, log_joint=log_joint),
    )
    monkeypatch.setattr(heldout, "DRAWS", 2)
    monkeypatch.setattr(
        heldout,
        "guides",
        SimpleNamespace(
            fit=lambda *given, **more: SimpleNamespace(ok=True),
            draw=lambda fit, n: SimpleNamespace(draws={}),
        ),
    )
    monkeypatch.setattr("sklearn.mixture.BayesianGaussianMixture", Theirs)
    found = heldout.compare("iris", 3, "full", seeds=1)
    table = heldout.read("iris")
    raw = table.select(table.columns[: classes.COLUMNS["iris"]])
    for (train, test), held in zip(
        KFold(heldout.FOLDS, shuffle=True, random_state=0).split(raw.numpy()), seen, strict=True
    ):
        rows = raw[train].numpy()
        wanted = (raw[test].numpy() - rows.mean(0)) / rows.std(0)
        np.testing.assert_allclose(held.numpy(), wanted)
        np.testing.assert_allclose(found.ours[0, test], wanted.sum(-1) + np.log(2.0))
        np.testing.assert_allclose(found.theirs[0, test], wanted.sum(-1))  # of the same rows


def test_constant_weights_are_their_own_bound(monkeypatch):
    """ELBO and importance-weighted bound of 8,000 equal weights are that weight."""
    entry = zoo.load("gaussian_mixture_exact", K=2)
    draws = entry.exact(entry.load_data()).sample(evidence.DRAWS, 0)
    weights = torch.full((evidence.DRAWS,), -37.25, dtype=torch.float64)
    monkeypatch.setattr(
        evidence,
        "guides",
        SimpleNamespace(
            fit=lambda *given, **more: None,
            draw=lambda fit, n: SimpleNamespace(draws=draws, log_weights=weights),
        ),
    )
    rows = evidence.evidence_rows(2, families=("full_rank",))
    assert [row["estimate"].partition(" bound")[0] for row in rows] == [
        "ELBO",
        "importance-weighted",
    ]
    truth = entry.exact(entry.load_data()).log_evidence
    for row in rows:
        assert row["nats"] == pytest.approx(-37.25, abs=1e-9)
        assert row["error"] == pytest.approx(-37.25 - truth, abs=1e-9)
        assert row["se"] == pytest.approx(0.0, abs=1e-9)
    assert rows[0]["co_clustering"] < 0.02  # of exact draws


def test_responsibilities_are_class_probabilities_of_the_distinct_lengths():
    entry = gaussian_mixture.ENTRY
    data = entry.load_data()
    fit = guides.fit(entry, "laplace", data=data, compile="off")
    posterior = guides.draw(fit, 7)
    found = co_clustering.responsibilities(posterior, data)
    lengths = np.unique(data.train["petal"].numpy())
    assert found.shape == (7, len(lengths), 2)
    torch.testing.assert_close(found.sum(-1), torch.ones(7, len(lengths)).double())
    joint = gaussian_mixture.log_joint(posterior.draws, torch.tensor(lengths)).exp().numpy()
    np.testing.assert_allclose(found, joint / joint.sum(-1, keepdims=True))
    assert (found[..., 0] > 0.9).any(-1).all()
    assert (found[..., 0] < 0.1).any(-1).all()
