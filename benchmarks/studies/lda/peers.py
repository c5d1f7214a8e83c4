"""Other implementations of latent Dirichlet allocation, run for a budget.

All are judged by the same evaluator and optional. Every function returns topics `[topic, word]`
and the CPU seconds of the training (one thread each), which mean the same on a busy machine.
"""

from __future__ import annotations

import importlib.util
import time
import warnings

import numpy as np
import torch
from torch import Tensor

from guides.base.cavi_lda import Ascent, ascend

__all__ = [
    "has_tomotopy",
    "normalized",
    "ours",
    "sklearn_batch",
    "sklearn_online",
    "tomotopy_gibbs",
]


def normalized(weights: Tensor) -> Tensor:
    """Return rows divided by their sums."""
    return weights / weights.sum(1, keepdim=True)


def ours(
    counts: Tensor, topics: int, alpha: float, beta: float, seed: int, *, starts: int = 20
) -> tuple[Ascent, float]:
    """Return the coordinate ascent of the `dirichlet` family and its CPU seconds."""
    before = time.process_time()
    topic = torch.full((topics, counts.shape[1]), beta, dtype=torch.float64)
    mixture = torch.full((len(counts), topics), alpha, dtype=torch.float64)
    found = ascend(counts, topic, mixture, torch.Generator().manual_seed(seed), starts=starts)
    return found, time.process_time() - before


def sklearn_online(
    counts: Tensor, topics: int, alpha: float, beta: float, seed: int, seconds: float
) -> tuple[Tensor, float]:
    """Return the topics of scikit-learn's online variational Bayes.

    It makes epochs of minibatches of 128 until the seconds are spent.
    """
    from sklearn.decomposition import LatentDirichletAllocation

    table, order = counts.numpy(), np.random.default_rng(seed)
    model = LatentDirichletAllocation(
        topics,
        doc_topic_prior=alpha,
        topic_word_prior=beta,
        total_samples=len(table),
        random_state=seed,
        learning_method="online",
    )
    before = time.process_time()
    while True:
        for rows in np.array_split(order.permutation(len(table)), max(1, len(table) // 128)):
            model.partial_fit(table[rows])
            if time.process_time() - before > seconds:
                return normalized(torch.as_tensor(model.components_)), time.process_time() - before


def sklearn_batch(
    counts: Tensor, topics: int, alpha: float, beta: float, seed: int, passes: int
) -> tuple[Tensor, float]:
    """Return the topics of scikit-learn's batch variational Bayes."""
    from sklearn.decomposition import LatentDirichletAllocation

    before = time.process_time()
    model = LatentDirichletAllocation(
        topics,
        doc_topic_prior=alpha,
        topic_word_prior=beta,
        max_iter=passes,
        random_state=seed,
        learning_method="batch",
    )
    return (
        normalized(torch.as_tensor(model.fit(counts.numpy()).components_)),
        time.process_time() - before,
    )


def has_tomotopy() -> bool:
    """Return whether the optional peer is installed."""
    return importlib.util.find_spec("tomotopy") is not None


def tomotopy_gibbs(
    counts: Tensor, topics: int, alpha: float, beta: float, seed: int, sweeps: int
) -> tuple[Tensor, float]:
    """Return the topics of tomotopy's collapsed Gibbs sampler at its last sweep.

    Hyperparameters are fixed.
    """
    import tomotopy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = tomotopy.LDAModel(k=topics, alpha=alpha, eta=beta, seed=seed + 1)
        for row in counts.numpy():
            model.add_doc([str(v) for v in np.repeat(np.arange(len(row)), row.astype(int))])
        model.burn_in, model.optim_interval = 0, 0
        before = time.process_time()
        model.train(sweeps, workers=1)
        seconds = time.process_time() - before
    found = torch.zeros(topics, counts.shape[1], dtype=torch.float64)
    words = [int(v) for v in model.used_vocabs]
    for k in range(topics):
        found[k, words] = torch.as_tensor(model.get_topic_word_dist(k), dtype=torch.float64)
    # words that never occur have no row there; they get their share of the prior
    return (
        normalized(
            found.clamp(min=beta / (float(counts.sum()) / topics + counts.shape[1] * beta))
        ),
        seconds,
    )
