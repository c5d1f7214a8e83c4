"""Figures of `docs/results/lda.md`, each stored as soon as it is measured.

The optional peers take two thirds of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import guides
import zoo
from benchmarks.studies.lda import peers
from benchmarks.studies.lda.heldout import (
    Heldout,
    complete,
    document_completion,
    elbo_bound,
    left_to_right,
    split_tokens,
)
from benchmarks.studies.record import Work
from benchmarks.studies.rows import Kept
from guides.families.topic_encoder import TopicEncoder
from zoo.models.topics._corpus import corpus, features, topic_entry
from zoo.models.topics._topics import match
from zoo.models.topics.lda import bars

__all__ = ["PARTS"]

TRAINED, K, ALPHA, BETA = 1500, 10, 0.5, 0.5  # of the digits
NUMBERS = (2, 5, 10, 15, 20)  # numbers of topics
SWEEPS = 1000
LEFT_DOCUMENTS = 40
QUICK_STEPS = 200  # of the encoder
Row = dict[str, Any]
Run = Callable[[], tuple[Tensor, float]]


def _kept(work: Work) -> Kept:
    return Kept(work.out / "rows.json")


def digits() -> tuple[Tensor, Tensor]:
    """Return the training and held-out images: a fixed permutation, 1,500 and 297."""
    counts = zoo.load("lda_digits").load_data().train["counts"]
    order = torch.as_tensor(np.random.RandomState(0).permutation(len(counts)))
    return counts[order[:TRAINED]], counts[order[TRAINED:]]


def _figures(score: Heldout) -> Row:
    return {"perplexity": score.perplexity, "nats": score.nats_per_token, "se": score.se}


def _ours(counts: Tensor, topics: int, seed: int, alpha: float = ALPHA) -> tuple[Tensor, float]:
    found, seconds = peers.ours(counts, topics, alpha, BETA, seed)
    return peers.normalized(found.topics), seconds


def _recovered(method: str, seed: int, run: Run) -> Row:
    truth, (found, seconds) = bars(5), run()
    worst = match(found, truth, (truth[:, None] - found[None]).abs().sum(-1))[1]
    return {
        "method": method,
        "seed": seed,
        "worst": float(worst.max()),
        "found": int((worst <= 0.1).sum()),
        "seconds": seconds,
    }


def recover(work: Work) -> dict[str, Row]:
    """Recover the ten true bars.

    The largest matched L1 distance for every method and data seed, and the CPU seconds.
    """
    kept, seeds, others = (
        _kept(work),
        range(2 if work.quick else 10),
        range(0 if work.quick else 3),
    )
    for seed in seeds:
        counts = zoo.load("lda").load_data(seed).train["counts"]
        runs: dict[str, Run] = {"ours": partial(_ours, counts, 10, seed, 1.0)}
        if seed in others:
            runs["sklearn batch, 30 passes"] = partial(
                peers.sklearn_batch, counts, 10, 1.0, BETA, seed, 30
            )
            if peers.has_tomotopy():
                runs["tomotopy, 200 sweeps"] = partial(
                    peers.tomotopy_gibbs, counts, 10, 1.0, BETA, seed, 200
                )
        for method, run in runs.items():
            kept.once(f"{method} {seed}", partial(_recovered, method, seed, run))
    return kept.rows


def compare_digits(work: Work) -> dict[str, Row]:
    """Score document completion of held-out digits by every method's topics.

    The evaluator is the same for all.
    """
    kept, (train, test) = _kept(work), digits()

    def pair(seed: int) -> Row:
        found, seconds = _ours(train, K, seed)
        other, spent = peers.sklearn_online(train, K, ALPHA, BETA, seed, seconds)
        rows = {"ours": (found, seconds), "sklearn online, equal seconds": (other, spent)}
        return {
            "seed": seed,
            **{
                m: {**_figures(document_completion(t, ALPHA, test)), "seconds": s}
                for m, (t, s) in rows.items()
            },
        }

    def single(method: str, run: Run) -> Row:
        found, seconds = run()
        return {
            "seed": 0,
            method: {**_figures(document_completion(found, ALPHA, test)), "seconds": seconds},
        }

    for seed in range(1 if work.quick else 3):
        kept.once(f"pair {seed}", partial(pair, seed))
    blunt = peers.normalized(train.sum(0, keepdim=True) + BETA)
    kept.once("one topic", partial(single, "one topic", lambda: (blunt, 0.0)))
    if peers.has_tomotopy() and not work.quick:
        name = f"tomotopy, {SWEEPS} sweeps"
        kept.once(
            "tomotopy",
            partial(single, name, partial(peers.tomotopy_gibbs, train, K, ALPHA, BETA, 0, SWEEPS)),
        )
    return kept.rows


def three_numbers(work: Work) -> dict[str, Row]:
    """Score the same topics on the same images by all three quantities."""
    kept, (train, test) = _kept(work), digits()
    few = test[: 5 if work.quick else LEFT_DOCUMENTS]

    def make() -> Row:
        topics, _ = _ours(train, K, 0)
        found = {
            "ELBO bound": elbo_bound(topics, ALPHA, few),
            "left to right, 50 particles": left_to_right(topics, ALPHA, few),
            "document completion": document_completion(topics, ALPHA, few),
        }
        return {
            "documents": len(few),
            "scores": {name: _figures(score) for name, score in found.items()},
        }

    kept.once("digits", make)
    return kept.rows


def number_of_topics(work: Work) -> dict[str, Row]:
    """Score held-out digits for several K.

    Log probabilities per image are kept, so that differences have paired errors.
    """
    kept, (train, test) = _kept(work), digits()

    def make(topics: int) -> Row:
        score = document_completion(_ours(train, topics, 0)[0], ALPHA, test)
        return {
            "K": topics,
            **_figures(score),
            "log_prob": [round(v, 6) for v in score.log_prob.tolist()],
            "tokens": score.tokens.tolist(),
        }

    for topics in NUMBERS[:2] if work.quick else NUMBERS:
        kept.once(f"{topics:02d}", partial(make, topics))
    return kept.rows


def amortized(work: Work) -> dict[str, Row]:
    """Score what amortization loses.

    The encoder's topics are scored with its own mixtures and with per-document inference.
    """
    kept, (train, test) = _kept(work), digits()
    known, scored = split_tokens(test)
    short: dict[str, Any] = (
        {"steps": QUICK_STEPS, "patience": 50, "anneal": 50} if work.quick else {}
    )

    def make() -> Row:
        entry = topic_entry(corpus(train), name="digits_train", topics=K, alpha=ALPHA, beta=BETA)
        fit = guides.fit(entry, "topic_encoder", seed=0, **short)
        guide: Any = fit.guide
        assert isinstance(guide, TopicEncoder)
        topics = peers.normalized(guides.draw(fit, 100).draws["topic"].double().mean(0))
        with torch.no_grad():
            loc, scale = guide.encode(features({"counts": known}))
            noise = torch.randn(
                200, *loc.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
            )
            mixtures = torch.distributions.biject_to(torch.distributions.constraints.simplex)(
                loc + scale * noise
            ).mean(0)
        return {
            "encoder": _figures(complete(topics, mixtures, scored)),
            "the encoder's topics, per-document inference": _figures(
                document_completion(topics, ALPHA, test)
            ),
            "steps": fit.cost.steps,
        }

    def direct() -> Row:
        return {
            "dirichlet, per-document inference": _figures(
                document_completion(_ours(train, K, 0)[0], ALPHA, test)
            )
        }

    kept.once("dirichlet", direct)
    kept.once("encoder", make)
    return kept.rows


PARTS: dict[str, Callable[[Work], dict[str, Row]]] = {
    "bars": recover,
    "number_of_topics": number_of_topics,
    "three_numbers": three_numbers,
    "amortized": amortized,
    "digits": compare_digits,
}
