"""Relabeling and modes on planted draws.

The permutation is found, a second mode is named, and neither is mistaken for the other.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import zoo
from benchmarks.comparison import relabel
from benchmarks.report.panels.mixture import chain_modes
from benchmarks.studies.latent_classes.render import render
from zoo.errors import UsageError
from zoo.types import Posterior

CHAINS, DRAWS, ROWS, K = 4, 60, 30, 3


def planted(seed=0, *, second_mode=(), switch="draws"):
    """Return class probabilities, class means, and the permutation planted in each draw."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(K), ROWS // K)
    other = truth.copy()
    # the third class is split among the others
    other[truth == 2] = np.where(np.arange((truth == 2).sum()) < 5, 0, 1)
    other[:5] = 2  # and a new one is split off the first
    r = np.empty((CHAINS, DRAWS, ROWS, K))
    means = np.empty((CHAINS, DRAWS, K))
    order = np.empty((CHAINS, DRAWS, K), dtype=int)
    for c in range(CHAINS):
        grouping = other if c in second_mode else truth
        fixed = rng.permutation(K)
        for s in range(DRAWS):
            p = rng.dirichlet(np.full(K, 0.3), size=ROWS) * 0.2 + 0.8 * np.eye(K)[grouping]
            order[c, s] = fixed if switch == "chains" else rng.permutation(K)
            r[c, s] = p[:, order[c, s]]
            means[c, s] = (np.array([0.0, 5.0, 10.0]) + 0.1 * rng.standard_normal(K))[order[c, s]]
    return r, means, order


def posterior_of(lp=None):
    entry = zoo.load("gaussian_mixture", K=K)
    stats = {} if lp is None else {"lp": torch.as_tensor(lp)[:, None].expand(CHAINS, DRAWS)}
    draws = {"location": torch.zeros(CHAINS, DRAWS, K)}
    return Posterior(
        entry=entry,
        data=entry.load_data(),
        method="nuts",
        draws=draws,
        sample_dims=("chain", "draw"),
        stats=stats,
    )


@pytest.mark.parametrize("method", [relabel.stephens, relabel.pivot])
@pytest.mark.parametrize("switch", ["draws", "chains"])
def test_a_planted_permutation_is_undone(method, switch):
    r, means, order = planted(switch=switch)
    found = method(r)
    # undoing the planted order and then numbering: the composition is one permutation for all
    # draws
    composed = np.take_along_axis(order, found.order, 2).reshape(-1, K)
    assert (composed == composed[0]).all()
    assert found.agreement > 0.99
    assert found.quality < 0.1 < found.before
    assert found.certainty > 0.9
    before, after = relabel.rhat_before_after(means, found)
    assert after < 1.03
    if switch == "chains":
        assert before > 2


def test_stephens_does_not_end_worse_than_its_start():
    r, _, _ = planted(3)
    soft = 0.5 * r + 0.5 / K  # classes that overlap
    assert relabel.stephens(soft).quality <= relabel.pivot(soft).quality + 1e-12


def test_draws_without_classes_get_no_certainty():
    rng = np.random.default_rng(1)
    noise = rng.dirichlet(np.ones(K), size=(CHAINS, DRAWS, ROWS))
    assert relabel.stephens(noise).certainty < 0.8
    assert relabel.stephens(noise).agreement < 0.9


def test_a_second_mode_is_found_and_named_whatever_the_numbers():
    r, _, _ = planted(second_mode=(2,))
    found = relabel.modes(posterior_of([-10.0, -10.5, -14.0, -10.2]), r)
    assert found.number == 2
    assert found.labels.tolist() == [0, 0, 1, 0]
    assert "mode 2: chain 3 (mean log density -14.0)" in found.sentence
    assert "no average" in found.sentence


def test_switched_numbers_are_no_second_mode():
    r, _, _ = planted(switch="chains")
    found = relabel.modes(posterior_of(), r)
    assert found.number == 1
    assert "alike" in found.sentence


def test_co_clustering_does_not_see_numbers():
    r, _, order = planted()
    undone = np.take_along_axis(r, order.argsort(-1)[:, :, None, :], 3)
    assert np.allclose(relabel.co_clustering(r), relabel.co_clustering(undone))
    assert relabel.co_clustering(r)[0, 0, 1] > 0.6 > 0.3 > relabel.co_clustering(r)[0, 0, -1]


def test_wrong_shapes_are_refused():
    r, means, _ = planted()
    with pytest.raises(UsageError, match=r"\[chain, draw, row, class\]"):
        relabel.stephens(r[0])
    with pytest.raises(UsageError, match="axes of one class"):
        relabel.apply(means[:, :10], relabel.pivot(r))


def test_the_report_of_a_mixture_names_a_chain_in_another_mode():
    r, _, _ = planted(second_mode=(1,))
    posterior = posterior_of([-10.0, -14.0, -10.5, -10.2])
    module = SimpleNamespace(responsibilities=lambda draws, data: torch.as_tensor(r))
    report = SimpleNamespace(
        reference=SimpleNamespace(kind="stored", posterior=posterior),
        comparisons=[],
        data=posterior.data,
    )
    (sentence,) = chain_modes(report, module)
    assert sentence.startswith("The reference: the chains are in 2 modes, mode 1: chains 1, 3, 4")
    assert "mode 2: chain 2 (mean log density -14.0)" in sentence
    report.reference.kind = "nuts"
    assert chain_modes(report, module) == []


def test_the_results_page_lists_every_mode_with_its_chains():
    row = {
        "entry": "a[K=3]",
        "mode": 1,
        "chains": [1, 3],
        "of": 3,
        "log_density": -10.0,
        "sizes": [60.0, 40.0],
        "rhat_all": 1.9,
        "sentence": "a[K=3]: the chains are in 2 modes.",
        "within": 0.01,
        "apart": 0.4,
    }
    shown = render({"modes": [row, {**row, "mode": 2, "chains": [2], "log_density": -14.0}]})
    assert "R-hat of the judged quantities over all chains: 1.90" in shown
    assert "| `a[K=3]` | 2 | 2 | −14.0 | 60, 40 | 0.010 | 0.400 |" in shown


def two_chains(distance):
    """Return one row of two classes, whose co-clustering with itself is known in every half.

    The chains differ by `distance`; the halves of the first by 0.04, of the second by 0.06.
    """

    def probabilities(value):  # with p^2 + (1 - p)^2 = value
        p = (1 + np.sqrt(2 * value - 1)) / 2
        return [[p, 1 - p]]

    halves = [(0.7, 0.74), (0.69 + distance, 0.75 + distance)]
    return np.array([[probabilities(v) for v in chain] for chain in halves])


@pytest.mark.parametrize(("distance", "number"), [(0.15, 1), (0.159, 1), (0.161, 2), (0.17, 2)])
def test_modes_differ_by_more_than_four_times_the_smaller_noise(distance, number):
    posterior = SimpleNamespace(stats={}, entry=SimpleNamespace(key="stub"))
    found = relabel.modes(posterior, two_chains(distance))
    assert found.distance[0, 1] == pytest.approx(distance)
    assert found.number == number
    assert relabel.modes(posterior, two_chains(distance), threshold=0.2).number == 1
