"""Tables of one entry: methods, scores of components, and provenance."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from benchmarks.metrics.metric import Metric
from benchmarks.report.components import View
from benchmarks.report.inputs import EntryReport, FitSummary
from benchmarks.report.numbers import DASH, count, duration, plain, with_error
from benchmarks.report.overview import tidy
from benchmarks.report.words import columns_of, definition, distance_key
from benchmarks.types import Comparison, Score

__all__ = ["METHOD_COLUMNS", "method_table", "metric_text", "provenance", "score_table"]

METHOD_COLUMNS = (
    "elbo",
    "lost",
    "log_evidence",
    "khat",
    "importance_ess",
    "distance",
    "heldout",
    "rhat",
    "ess",
    "ebfmi",
    "divergences",
    "seconds",
    "gradients",
    "compiled",
    "stop",
)
MOST_ROWS = 240


def method_table(view: View) -> dict[str, Any]:
    """Return one row per trust figure or cost and one column per method.

    Rows that would be empty are omitted.
    """
    fits = view.report.summaries()
    found = {name: _method(c, fits.get(name)) for name, c in view.by_name.items()}
    distances = list(dict.fromkeys(d.name for c in view.by_name.values() for d in c.distances))
    rows: list[tuple[str, str, list[str]]] = []
    for column in METHOD_COLUMNS:
        if column == "distance":
            rows += [
                (
                    distance_key(name),
                    definition(name).term,
                    [_distance(c, name) for c in view.by_name.values()],
                )
                for name in distances
            ]
        else:
            rows.append((column, "", [found[name][column] or DASH for name in view.names]))
    return {"methods": view.names, "rows": [row for row in rows if any(v != DASH for v in row[2])]}


def _distance(c: Comparison, name: str) -> str:
    d = next((d for d in c.distances if d.name == name), None)
    if d is None:
        return DASH
    return with_error(d.value, d.se) + (
        f" (floor {plain(d.floor, 2)})" if d.floor is not None and isfinite(d.floor) else ""
    )


def _method(c: Comparison, fit: FitSummary | None) -> dict[str, str]:
    cost, mcmc, k = c.posterior.cost, c.mcmc, c.pareto_k
    evidence: Mapping[str, float | None] = c.log_evidence or {}
    error = evidence.get("error")
    compiled = dict(fit.compiled) if fit is not None else {}
    return {
        "elbo": with_error(c.elbo.get("value_nats"), c.elbo.get("se")) if c.elbo else "",
        "lost": "" if c.lost is None else with_error(max(c.lost[0], 0.0), c.lost[1]),
        "log_evidence": (
            with_error(abs(error), evidence.get("bound_se")) if error is not None else ""
        ),
        "khat": f"{plain(k.value, 2)} ± {plain(k.se, 2)} (≤ {plain(k.threshold, 2)})"
        if k is not None
        else "",
        "importance_ess": (
            f"{count(k.importance_ess)} of {count(k.draws)}" if k is not None else ""
        ),
        "heldout": (
            with_error(c.heldout_lpd.get("nats_per_row"), c.heldout_lpd.get("se"))
            if c.heldout_lpd
            else ""
        ),
        "rhat": plain(mcmc.rhat_max, 4) if mcmc is not None else "",
        "ess": (
            f"{count(mcmc.ess_bulk_min)} / {count(mcmc.ess_tail_min)}" if mcmc is not None else ""
        ),
        "ebfmi": plain(mcmc.ebfmi_min, 2) if mcmc is not None else "",
        "divergences": str(mcmc.divergences) if mcmc is not None else "",
        "seconds": (
            duration(cost.seconds)
            + (f" + {duration(cost.compile_seconds)}" if cost.compile_seconds else "")
        ),
        "gradients": count(cost.gradient_evaluations) if cost.gradient_evaluations else "",
        "compiled": _compiled(compiled) if compiled else "",
        "stop": tidy(fit.stop.sentence) if fit is not None else "",
    }


def _compiled(record: Mapping[str, Any]) -> str:
    """Return whether steps ran compiled, on which device if not the CPU, or why not."""
    reason = str(record.get("reason", ""))
    if not record.get("used"):
        return f"no: {reason}"
    return f"yes, {reason}" if reason.startswith("on ") else "yes"


def score_table(view: View) -> dict[str, Any]:
    """Return one row per component and method, worst component first, at most `MOST_ROWS`."""
    rank = {key: i for i, key in enumerate(view.order)}
    found = [
        (rank.get((s.quantity, s.index), len(rank)), i, name, s)
        for i, (name, c) in enumerate(view.by_name.items())
        for s in c.scores
    ]
    found.sort(key=lambda row: row[:2])
    metrics = columns_of(row[3] for row in found)
    rows = []
    last = None
    for position, _, name, score in found[:MOST_ROWS]:
        rows.append(
            {
                "label": score.label,
                "name": name,
                "values": [metric_text(m, score) for m in metrics],
                "first": position != last,
                "judged": score.judged,
            }
        )
        last = position
    return {"columns": [m.name for m in metrics], "rows": rows, "left": len(found) - len(rows)}


def metric_text(metric: Metric, score: Score) -> str:
    """Format the values of one metric: with errors, to two digits, or as a percentage."""
    held = {c: score.extra.get(c, getattr(score, c, float("nan"))) for c in metric.columns}
    texts = []
    for name in metric.values:
        value = held[name]
        if metric.percent:
            texts.append(f"{100 * value:.0f} %" if isfinite(value) else DASH)
        elif f"{name}_se" in held:
            texts.append(with_error(value, held[f"{name}_se"], sign=metric.signed))
        else:
            texts.append(plain(value, 2, sign=metric.signed))
    return " / ".join(texts)


def provenance(report: EntryReport) -> list[tuple[str, str]]:
    """Return the provenance of the entry's data, reference and draws, as labeled lines."""
    entry, data, reference = report.entry, report.data, report.reference
    gates = ", ".join(
        f"{name} {'passed' if ok else 'FAILED'}" for name, ok in reference.gates.items()
    )
    lines = [
        ("entry", entry.key),
        ("options", ", ".join(f"{k}={v}" for k, v in sorted(entry.settings.items()))),
        ("data", data.source),
        ("data license", data.licence),
        (
            "reference",
            reference.kind
            + (f", borrowed from {entry.reference_of}" if entry.reference_of else ""),
        ),
        ("reference gates", gates),
        (
            "reference made by",
            ", ".join(f"{k}: {_flat(v)}" for k, v in reference.provenance.items()),
        ),
        (
            "log evidence",
            (
                ""
                if reference.log_evidence is None
                else f"{plain(reference.log_evidence, 7)} nats"
                if reference.log_evidence_se is None
                else f"{with_error(reference.log_evidence, reference.log_evidence_se)} nats by SMC"
            ),
        ),
        (
            "quantities",
            "; ".join(
                f"{n}: {q.description}" if q.description else n
                for n, q in entry.quantities.items()
            ),
        ),
        (
            "seeds",
            ", ".join(f"{c.posterior.method} {c.posterior.seed}" for c in report.comparisons),
        ),
        (
            "engine",
            ", ".join(
                dict.fromkeys(c.posterior.engine for c in report.comparisons if c.posterior.engine)
            ),
        ),
        (
            "notes",
            " ".join(
                dict.fromkeys(tidy(n) for c in report.comparisons for n in c.posterior.notes)
            ),
        ),
        ("tags", ", ".join(sorted(entry.tags))),
    ]
    return [(name, text) for name, text in lines if text] + [
        ("cites", cite) for cite in entry.cites
    ]


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} {_flat(v)}" for k, v in value.items()) + "}"
    return str(value)
