"""The results page of topic models, from the figures kept beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

__all__ = ["render"]

HEAD = """# Topic models: bars and held-out scores

Made by `from benchmarks.topics.results import main; main()` from the figures in `lda.json`. Seconds are processor seconds of one thread,
training only. "ours" is the coordinate ascent behind the family `dirichlet` (20 starts, the best three run to the end). Every method's
topics are judged by the same evaluator (`benchmarks.topics.heldout`); perplexity is exp of minus the nats per token, lower is better.
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(r) + " |" for r in rows)]) + "\n"


def _named(rows: Sequence[Mapping[str, Any]], prefix: str, key: str) -> list[float]:
    return [float(r[key]) for r in rows if str(r["method"]).startswith(prefix)]


def _numbers(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['perplexity']:.2f}", f"{row['nats']:.4f}", f"{row['se']:.4f}"]


def _bars(part: Mapping[str, Any], targets: list[tuple[str, str, bool | None]]) -> str:
    rows = part["rows"]
    methods = list(dict.fromkeys(r["method"] for r in rows))
    lines = []
    for m in methods:
        mine = [r for r in rows if r["method"] == m]
        lines.append([
            m, str(len(mine)), str(sum(r["found"] == 10 for r in mine)), f"{mean(r['found'] for r in mine):.1f}",
            f"{max(r['worst'] for r in mine):.3f}", f"{mean(r['seconds'] for r in mine):.1f}",
        ])  # fmt: skip
    own = [r for r in rows if r["method"] == "ours"]
    whole, slowest = sum(r["found"] == 10 for r in own), max(r["seconds"] for r in own)
    targets.append((
        "all ten bars (matched L1 at most 0.1) in at least 9 of 10 seeds, 60 s each",
        f"{whole} of {len(own)} seeds, slowest {slowest:.1f} s", whole >= 9 and slowest <= 60,
    ))  # fmt: skip
    head = ("method", "seeds", "all ten found", "bars found, mean", "worst L1", "seconds, mean")
    text = "Corpus `lda`: 1,000 documents of 100 words, alpha = 1, beta = 0.5, K = 10; seeds are data seeds. A bar is found where the L1\n"
    return "## Bars\n\n" + text + "distance of its matched topic is at most 0.1.\n\n" + _table(head, lines)


def _digits(part: Mapping[str, Any], targets: list[tuple[str, str, bool | None]]) -> str:
    rows = part["rows"]
    lines = [
        [r["method"], str(r["seed"]), f"{r['perplexity']:.2f}", f"{r['nats']:.4f}", f"{r['se']:.4f}", f"{r['seconds']:.1f}"] for r in rows
    ]
    own, gibbs, online = (_named(rows, n, "perplexity") for n in ("ours", "tomotopy", "sklearn online"))
    wanted = "digits: within 1 % of tomotopy's collapsed Gibbs, 1,000 sweeps"
    if gibbs:
        change = 100 * (median(own) / gibbs[0] - 1)
        targets.append((wanted, f"{change:+.2f} % (median of {len(own)} seeds)", change <= 1))
    else:
        targets.append((wanted, "tomotopy is not installed", None))
    gains = [100 * (1 - a / b) for a, b in zip(own, online, strict=True)]
    targets.append((
        "digits: at least 2 % better than scikit-learn's online VB at equal processor time",
        f"{mean(gains):+.2f} % (seeds {', '.join(f'{g:+.2f}' for g in gains)})", mean(gains) >= 2,
    ))  # fmt: skip
    text = f"{part['train']:,} images ({part['tokens']:,.0f} tokens) trained, {part['test']} held out; K = 10, alpha = beta = 0.5.\n\n"
    return "## Digits\n\n" + text + _table(("method", "seed", "completion perplexity", "nats per token", "se", "seconds"), lines)


def _three(part: Mapping[str, Any]) -> str:
    rows = [[r["name"], f"{r['nats']:.4f}", f"{r['se']:.4f}", f"{r['perplexity']:.2f}"] for r in part["rows"]]
    text = (
        f"The same topics and the same {part['documents']} held-out images. The first is a bound on the second; the third scores half the\n"
    )
    text += "tokens given the other half. Comparing one method's bound with another's completion compares nothing.\n\n"
    return "## Three numbers with three names\n\n" + text + _table(("number", "nats per token", "se over images", "perplexity"), rows)


def _topics(part: Mapping[str, Any], targets: list[tuple[str, str, bool | None]]) -> str:
    rows = part["rows"]
    lines = [
        [str(r["K"]), f"{r['perplexity']:.2f}", f"{r['nats']:.4f}", "" if r["step"] is None else f"{r['step']:+.4f} +/- {r['step_se']:.4f}"]
        for r in rows
    ]  # fmt: skip
    worst = min((r["step"] / r["step_se"], r["K"]) for r in rows if r["step"] is not None)
    said = f"smallest step {worst[0]:+.1f} se, at K = {worst[1]}"
    targets.append(("perplexity does not rise from K = 2 to 20 beyond its standard error", said, worst[0] >= -1))
    return "## Number of topics\n\n" + _table(("K", "completion perplexity", "nats per token", "gain over the row above, nats"), lines)


def _amortized(part: Mapping[str, Any], targets: list[tuple[str, str, bool | None]]) -> str:
    rows = part["rows"]
    lines = [[r["method"], *_numbers(r)] for r in rows]
    loss = 100 * (rows[0]["perplexity"] / rows[2]["perplexity"] - 1)
    targets.append(("amortized at most 3 % worse than per-document inference", f"{loss:+.2f} %", loss <= 3))
    text = f"Family `topic_encoder`, {part['steps']} steps; the encoder sees half of an image and its mixture predicts the rest.\n\n"
    return "## Amortized\n\n" + text + _table(("mixtures from", "completion perplexity", "nats per token", "se"), lines)


def render(parts: Mapping[str, Any]) -> str:
    """Return the page in Markdown; parts that were not made are left out."""
    targets: list[tuple[str, str, bool | None]] = []
    sections = []
    if "bars" in parts:
        sections.append(_bars(parts["bars"], targets))
    if "digits" in parts:
        sections.append(_digits(parts["digits"], targets))
    if "amortized" in parts:
        sections.append(_amortized(parts["amortized"], targets))
    if "number_of_topics" in parts:
        sections.append(_topics(parts["number_of_topics"], targets))
    if "three_numbers" in parts:
        sections.append(_three(parts["three_numbers"]))
    words = {True: "met", False: "missed", None: "not measured"}
    summary = _table(("bar", "measured", ""), [[bar, found, words[ok]] for bar, found, ok in targets])
    return "\n".join([HEAD, summary, *sections])
