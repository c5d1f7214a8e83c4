"""`zoo list`, `zoo show`, `zoo doctor`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import zoo
from benchmarks.cli.console import print_json, print_table, say
from benchmarks.metrics.numbers import value_with_error
from zoo.errors import UnknownNameError, ZooError

if TYPE_CHECKING:
    from zoo.registry import EntryInfo
    from zoo.types import Data, ModelEntry

__all__ = ["doctor", "list_models", "show"]

SHOWN = (
    "reference",
    "reference_of",
    "parameters",
    "observations",
    "families",
    "tags",
    "options",
    "sites",
    "summed_out",
    "data",
    "not_judged",
)


def list_models(tag: str | None, long: bool, as_json: bool) -> None:
    """Print every entry.

    Without `long` no model is imported, so parameters and observations are null.
    """
    from zoo.registry import catalog

    infos = catalog(deep=True) if long else catalog()
    if tag is not None:
        known = {t for info in infos for t in info.tags}
        if tag not in known:
            raise UnknownNameError("tag", tag, known)
        infos = [info for info in infos if tag in info.tags]
    rows = [_listed(info, long) for info in infos]
    if as_json:
        print_json({"schema": 1, "entries": rows})
        return
    columns = [
        "name",
        "reference",
        *(["parameters", "observations", "log_evidence", "tags"] if long else []),
        *(["source"] if any(info.source != "zoo" for info in infos) else []),
        "title",
    ]
    print_table(columns, [[_cell(row, c) for c in columns] for row in rows])
    if not long:
        tags = ", ".join(sorted({t for info in infos for t in info.tags}))
        print(f"zoo: tags: {tags}; --long shows those of each entry", file=sys.stderr)


def _cell(row: dict[str, Any], column: str) -> str:
    if column == "title" and row["error"]:
        return f"BROKEN: {row['error']}"
    value = row[column]
    if column == "log_evidence" and value is not None:
        exact = value["se"] == 0
        return f"{value['value']:.3f}" if exact else value_with_error(value["value"], value["se"])
    return ", ".join(value) if isinstance(value, list) else "" if value is None else str(value)


def _listed(info: EntryInfo, long: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": info.name,
        "title": info.title,
        "tags": sorted(info.tags),
        "reference": info.reference,
        "source": info.source,
        "error": info.error,
        "parameters": None,
        "observations": None,
        "log_evidence": None,
    }
    if not long or info.error is not None:
        return row
    from zoo.density.log_density import LogDensity

    try:
        entry = zoo.load(info.name)
        data = entry.load_data()
        row |= {"title": entry.title, "tags": sorted(entry.tags), "reference": entry.reference}
        row |= {
            "parameters": LogDensity(entry.program(data), data, dtype=entry.dtype).dim,
            "observations": _observations(data),
            "log_evidence": _log_evidence(entry),
        }
    except ZooError as error:
        row["error"] = str(error)
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}"
    return row


def _log_evidence(entry: ModelEntry) -> dict[str, float] | None:
    """Return the stored log evidence with its error in nats, 0 if exact; null if not known."""
    from zoo.density.log_density import LogDensity
    from zoo.truth import evidence
    from zoo.truth.stored import borrowed

    owner = borrowed(entry)
    if entry.learns or owner.key not in evidence.stored():
        return None
    data = owner.load_data()
    density = LogDensity(owner.program(data), data, dtype=owner.dtype)
    found = evidence.evidence(owner.key, density)
    if found is None:
        return None
    if found.exact is not None:
        return {"value": found.exact, "se": 0.0}
    return {"value": found.value, "se": found.se}


def _observations(data: Data) -> int:
    return sum(int(data.train[name].numel()) for name in data.observed)


def show(model: str, as_json: bool) -> None:
    """Print the card of an entry."""
    from zoo.density.log_density import LogDensity

    entry = zoo.load(model)
    data = entry.load_data()
    density = LogDensity(entry.program(data), data, dtype=entry.dtype)
    card = _card(entry, data) | {"parameters": density.dim, "observations": _observations(data)}
    card["sites"] = {s.name: list(s.shape) for s in density.sites}
    card["summed_out"] = list(density.discrete)
    if as_json:
        print_json({"schema": 1, **card})
        return
    say(f"{card['name']}: {card['title']}")
    for name in SHOWN:
        if card[name] not in (None, [], {}):
            say(f"  {name.replace('_', ' ')}: {_words(card[name])}")
    print("  quantities:")
    for name, text in card["quantities"].items():
        say(f"    {name}: {text}")
    say(f"  source: {card['source']}\n  licence: {card['licence']}")
    for cite in card["cites"]:
        if cite.rpartition(", ")[0] not in card["source"]:  # the source is said once
            say(f"  {cite}")


def _card(entry: ModelEntry, data: Data) -> dict[str, Any]:
    import torch

    shapes = {
        k: list(v.shape) if isinstance(v, torch.Tensor) else v for k, v in data.train.items()
    }
    described = {name: q.description or "no description" for name, q in entry.quantities.items()}
    return {
        "name": entry.key,
        "title": entry.title,
        "reference": entry.reference,
        "reference_of": entry.reference_of,
        "families": [*entry.families, *(g for g in entry.own_guides if g not in entry.families)],
        "tags": sorted(entry.tags),
        "options": dict(entry.settings),
        "data": shapes,
        "source": data.source,
        "licence": data.licence,
        "cites": list(entry.cites),
        "not_judged": [name for name, q in entry.quantities.items() if not q.judged],
        "quantities": described,
    }


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{k} {tuple(v) if isinstance(v, list) else f'= {v}'}" for k, v in value.items()
        )
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def doctor() -> int:
    """Print the findings about this installation; 1 if something is broken."""
    from benchmarks.cli.doctor import examine

    findings = examine()
    for finding in findings:
        say(f"{finding.status:>7}  {finding.name}: {finding.sentence}")
    return 1 if any(f.status == "failed" for f in findings) else 0
