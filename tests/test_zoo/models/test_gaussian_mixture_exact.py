"""The twelve-flower mixture: its sum over labelings and its draws, checked independently.

By scipy, plain loops and the exact matrix.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import gammaln, logsumexp

from zoo.errors import UsageError
from zoo.models.mixtures import gaussian_mixture_exact as exact


def by_hand(petal: list[float], K: int) -> tuple[float, np.ndarray]:
    """Return log evidence and co-clustering matrix, by loops and scipy's multivariate t."""
    y, n = np.array(petal), len(petal)
    marginal = {}
    for rows in itertools.chain.from_iterable(
        itertools.combinations(range(n), m) for m in range(n + 1)
    ):
        # y | class ~ t with 2 * 3 degrees of freedom and scale (1/3) (I + 11' / 0.1)
        m = len(rows)
        shape = (1.0 / 3.0) * (np.eye(m) + 10.0)
        marginal[rows] = (
            stats.multivariate_t.logpdf(y[list(rows)], np.full(m, 4.0), shape, df=6.0)
            if m
            else 0.0
        )
    terms, shared = [], []
    for labels in itertools.product(range(K), repeat=n):
        groups = [tuple(i for i in range(n) if labels[i] == k) for k in range(K)]
        prior = (
            gammaln(2.0 * K)
            - gammaln(2.0 * K + n)
            + sum(gammaln(2.0 + len(g)) - gammaln(2.0) for g in groups)
        )
        terms.append(prior + sum(marginal[g] for g in groups))
        shared.append(np.equal.outer(labels, labels))
    log_evidence = float(logsumexp(terms))
    return log_evidence, np.tensordot(
        np.exp(np.array(terms) - log_evidence), np.array(shared, dtype=float), axes=1
    )


@pytest.mark.parametrize(("K", "rows"), [(2, slice(0, 12, 2)), (3, slice(1, 12, 2))])
def test_evidence_and_matrix_are_those_of_plain_loops(K: int, rows: slice) -> None:
    data = exact.ENTRY.load_data()
    petal = data.train["petal"][rows].tolist()
    log_evidence, matrix = by_hand(petal, K)
    found = exact._partitions(tuple(petal), K)
    assert found.log_evidence == pytest.approx(log_evidence, abs=1e-9)
    small = type(data)(
        train={"petal": torch.tensor(petal, dtype=torch.float64)}, observed=("petal",)
    )
    assert np.allclose(exact.co_clustering(small, K).numpy(), matrix, atol=1e-10)


def test_labelings_that_differ_by_a_numbering_are_equally_likely() -> None:
    found = exact.partitions(exact.ENTRY.load_data(), 2)
    flipped = found.probability.flip(0)  # labels 1 - c
    assert torch.allclose(found.probability, flipped, atol=1e-15)
    assert found.probability.sum().item() == pytest.approx(1.0, abs=1e-12)


def test_rao_blackwellized_draws_give_the_exact_matrix() -> None:
    entry = exact.ENTRY.with_options(K=3)
    data = entry.load_data()
    closed = entry.exact(data)
    assert closed is not None
    r = exact.responsibilities(closed.sample(20_000, 5), data)  # [draw, flower, class]
    shared = torch.einsum("sik,sjk->sij", r, r)
    upper = torch.triu_indices(12, 12, 1)
    found, error = shared.mean(0)[*upper], shared.std(0)[*upper] / math.sqrt(20_000)
    distance = (found - exact.co_clustering(data, 3)[*upper]).abs() / error
    assert distance.max() < 5
    assert exact.co_clustering(data, 3).diagonal().allclose(torch.ones(12, dtype=torch.float64))


def test_a_wrong_prior_is_seen_in_the_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    petal = exact.ENTRY.load_data().train["petal"][::2].tolist()
    right, _ = by_hand(petal, 2)
    monkeypatch.setattr(exact, "SHAPE", 2.5)
    exact._partitions.cache_clear()
    assert abs(exact._partitions(tuple(petal), 2).log_evidence - right) > 0.05
    exact._partitions.cache_clear()


def test_other_numbers_of_classes_are_refused() -> None:
    with pytest.raises(UsageError, match="2 or 3"):
        exact.ENTRY.with_options(K=4).load_data()
