"""Re-make `docs/results/lda.md`: `from benchmarks.topics.results import main; main()`, or single parts by name.

Figures are kept in `docs/results/lda.json`, one part each, so that a part can be made again by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import zoo
from benchmarks.topics import peers
from benchmarks.topics.heldout import Heldout, complete, document_completion, elbo_bound, left_to_right, split_tokens
from zoo.models.lda import bars
from zoo.topics import match

__all__ = ["PARTS", "main"]

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "results"
TRAINED, K, ALPHA, BETA = 1500, 10, 0.5, 0.5  # of the digits
SWEEPS = 1000
LEFT_DOCUMENTS = 40


def digits() -> tuple[Tensor, Tensor]:
    """Return the training and held-out images: a fixed permutation, 1,500 and 297."""
    counts = zoo.load("lda_digits").load_data().train["counts"]
    order = torch.as_tensor(np.random.RandomState(0).permutation(len(counts)))
    return counts[order[:TRAINED]], counts[order[TRAINED:]]


def _figures(score: Heldout) -> dict[str, float]:
    return {"perplexity": score.perplexity, "nats": score.nats_per_token, "se": score.se}


def _ours(counts: Tensor, topics: int, seed: int, alpha: float = ALPHA) -> tuple[Tensor, float]:
    found, seconds = peers.ours(counts, topics, alpha, BETA, seed)
    return peers.normalized(found.topics), seconds


def recover(seeds: Sequence[int] = range(10), other: Sequence[int] = range(3)) -> dict[str, Any]:
    """Return for every method and seed the largest matched L1 distance to the ten true bars, and the processor seconds."""
    truth, rows = bars(5), []
    for seed in seeds:
        data = zoo.load("lda").load_data(seed)
        counts = data.train["counts"]
        runs: dict[str, Callable[[], tuple[Tensor, float]]] = {"ours": partial(_ours, counts, 10, seed, 1.0)}
        if seed in other:
            runs["sklearn batch, 30 passes"] = partial(peers.sklearn_batch, counts, 10, 1.0, BETA, seed, 30)
            if peers.has_tomotopy():
                runs["tomotopy, 200 sweeps"] = partial(peers.tomotopy_gibbs, counts, 10, 1.0, BETA, seed, 200)
        for method, run in runs.items():
            found, seconds = run()
            distance = (truth[:, None] - found[None]).abs().sum(-1)
            worst = match(found, truth, distance)[1]
            found_bars = int((worst <= 0.1).sum())
            rows.append({"method": method, "seed": seed, "worst": float(worst.max()), "found": found_bars, "seconds": seconds})
    return {"rows": rows, "tomotopy": peers.has_tomotopy()}


def compare_digits(seeds: Sequence[int] = range(3)) -> dict[str, Any]:
    """Return held-out document completion of every method on the digits, judged by one evaluator."""
    train, test = digits()
    rows: list[dict[str, Any]] = []

    def add(method: str, seed: int, found: tuple[Tensor, float]) -> Heldout:
        score = document_completion(found[0], ALPHA, test)
        rows.append(
            {
                "method": method,
                "seed": seed,
                "perplexity": score.perplexity,
                "nats": score.nats_per_token,
                "se": score.se,
                "seconds": found[1],
            }
        )
        return score

    for seed in seeds:
        own = _ours(train, K, seed)
        add("ours", seed, own)
        add("sklearn online, equal seconds", seed, peers.sklearn_online(train, K, ALPHA, BETA, seed, own[1]))
        if seed == seeds[0] and peers.has_tomotopy():
            add(f"tomotopy, {SWEEPS} sweeps", seed, peers.tomotopy_gibbs(train, K, ALPHA, BETA, seed, SWEEPS))
    blunt = peers.normalized(train.sum(0, keepdim=True) + BETA)
    add("one topic", 0, (blunt, 0.0))
    return {"rows": rows, "tomotopy": peers.has_tomotopy(), "train": len(train), "test": len(test), "tokens": float(train.sum())}


def three_numbers(seed: int = 0) -> dict[str, Any]:
    """Return the three held-out numbers, which are not each other, on the digits."""
    train, test = digits()
    topics, _ = _ours(train, K, seed)
    few = test[:LEFT_DOCUMENTS]
    scores = [
        ("ELBO bound", elbo_bound(topics, ALPHA, few)),
        ("left to right, 50 particles", left_to_right(topics, ALPHA, few)),
        ("document completion", document_completion(topics, ALPHA, few)),
    ]
    return {
        "rows": [{"name": n, "nats": s.nats_per_token, "se": s.se, "perplexity": s.perplexity} for n, s in scores],
        "documents": len(few),
    }


def number_of_topics(values: Sequence[int] = (2, 5, 10, 15, 20), seed: int = 0) -> dict[str, Any]:
    """Return the held-out perplexity for several K, with the standard error of each step over documents."""
    train, test = digits()
    rows: list[dict[str, Any]] = []
    before: Heldout | None = None
    for topics in values:
        score = document_completion(_ours(train, topics, seed)[0], ALPHA, test)
        row: dict[str, Any] = {"K": topics, **_figures(score), "step": None}
        if before is not None:
            change = Heldout(name="step", log_prob=score.log_prob - before.log_prob, tokens=score.tokens)
            row |= {"step": change.nats_per_token, "step_se": change.se}
        rows.append(row)
        before = score
    return {"rows": rows}


def amortized(seed: int = 0) -> dict[str, Any]:
    """Return what the encoder loses: its topics with its own mixtures against the same topics with per-document inference."""
    import guides
    from guides.topic_encoder import TopicEncoder
    from zoo.corpus import corpus, features, topic_entry

    train, test = digits()
    known, scored = split_tokens(test)
    entry = topic_entry(corpus(train), name="digits_train", topics=K, alpha=ALPHA, beta=BETA)
    fit = guides.fit(entry, "topic_encoder", seed=seed)
    guide: Any = fit.guide
    assert isinstance(guide, TopicEncoder)
    posterior = guides.draw(fit, 100)
    topics = peers.normalized(posterior.draws["topic"].double().mean(0))
    with torch.no_grad():
        loc, scale = guide.encode(features({"counts": known}))
        noise = torch.randn(200, *loc.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        mixtures = torch.distributions.biject_to(torch.distributions.constraints.simplex)(loc + scale * noise).mean(0)
    encoded, own = complete(topics, mixtures, scored), document_completion(topics, ALPHA, test)
    other = document_completion(_ours(train, K, seed)[0], ALPHA, test)
    rows = [("encoder", encoded), ("the encoder's topics, per-document inference", own), ("dirichlet, per-document inference", other)]
    cost = {"seconds": fit.cost.seconds, "steps": fit.cost.steps, "compiled": fit.compiled["used"]}
    return {"rows": [{"method": n, **_figures(s)} for n, s in rows], **cost}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "bars": recover,
    "digits": compare_digits,
    "three_numbers": three_numbers,
    "number_of_topics": number_of_topics,
    "amortized": amortized,
}


def main(parts: Sequence[str] = tuple(PARTS), folder: Path = FOLDER) -> None:
    """Make the parts anew, keep the others, and write the page."""
    from benchmarks.topics.page import render

    store = folder / "lda.json"
    for part in parts:
        made = PARTS[part]()
        kept = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
        store.write_text(json.dumps({**kept, part: made}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "lda.md").write_text(render(json.loads(store.read_text(encoding="utf-8"))), encoding="utf-8")
