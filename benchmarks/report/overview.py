"""Overview shared by all formats of a report: sentences, columns, and verdict table."""

from __future__ import annotations

import re
from typing import NamedTuple

from benchmarks.comparison.sentences import entry_sentence
from benchmarks.report.inputs import EntryReport, ReportInput
from benchmarks.report.numbers import count, plain
from benchmarks.report.theme import in_order
from benchmarks.report.words import headline, row_word
from benchmarks.types import Comparison, has_draws
from benchmarks.verdicts import VERDICTS

__all__ = [
    "Cell",
    "cells",
    "columns",
    "reference_words",
    "sentence",
    "tally",
    "tidy",
    "trained_by",
]


class Cell(NamedTuple):
    """One cell of the verdict table: code, word, deciding component and size, whole sentence."""

    verdict: str
    word: str
    where: str
    number: str
    note: str
    sentence: str


def columns(run: ReportInput) -> list[str]:
    """Return the rows of the run in the order of `in_order`."""
    return in_order(name for entry in run.entries for name in entry.named())


def cells(entry: EntryReport) -> dict[str, Cell]:
    """Return the cell of every method that was run on the entry."""
    return {name: _cell(c) for name, c in entry.named().items()}


def _cell(comparison: Comparison) -> Cell:
    note = ""
    if comparison.mcmc is not None and comparison.mcmc.divergences:
        n = comparison.mcmc.divergences
        note = f"{n} divergence{'s' if n > 1 else ''}"
    if comparison.mcmc is not None and not comparison.mcmc.passed:
        failed = [k for k, ok in comparison.mcmc.gates.items() if not ok and k != "divergences"]
        note = "; ".join(
            filter(None, [note, f"gate failed: {', '.join(failed)}" if failed else ""])
        )
    word = row_word(
        comparison.method,
        comparison.verdict,
        comparison.status,
        drawn=has_draws(comparison.posterior),
        chains=comparison.mcmc is not None,
        reference=comparison.reference.posterior is not None,
    )
    where, number = headline(comparison)
    if word == "error":
        number = ""
    return Cell(comparison.verdict, word, where, number, note, tidy(comparison.sentence))


def sentence(entry: EntryReport) -> str:
    """Return one sentence to act on: the given one, the composed one, or the verdicts in words.

    The notices of the entry qualify it.
    """
    text = entry.sentence or str(entry_sentence(entry.comparisons))
    text = text.removeprefix(f"{entry.entry.key}: ")
    notices = (*trained_by(entry), *entry.entry.notices)
    return " ".join([tidy(text), *(f"Note: {tidy(n)}" for n in notices)])


def trained_by(entry: EntryReport) -> tuple[str, ...]:
    """Say which row trained the weights that every other one holds fixed, if some are trained."""
    first = next((c for c in entry.comparisons if c.method != "nuts"), None)
    if not entry.entry.learns or first is None or first.fit is None:
        return ()
    bound = "" if first.fit.elbo is None else f" in {first.fit.cost.steps:,} steps"
    return (
        f"{first.method} trained the weights of the program{bound} ({first.fit.stop.status});"
        " every row holds them fixed.",
    )


def tidy(text: str) -> str:
    """Typeset a sentence made for the terminal: `±`, a minus sign, `×`."""
    text = re.sub(r"(?<= )\+/?-(?= )", "±", text)
    text = re.sub(r"(?<=\d)x(?= )|(?<= )x(?=\d)", "×", text)
    return re.sub(r"(?<![\w.)\]])-(?=\d)", "−", text)


def reference_words(entry: EntryReport) -> tuple[str, str, str]:
    """Return the reference's kind, a phrase on its state, and `good`, `bad` or `none`."""
    reference = entry.reference
    if reference.kind == "none":
        return "none", tidy(reference.reason) or "no truth is known", "none"
    if not reference.usable:
        return (
            reference.kind,
            f"unusable: {tidy(reference.reason)}" if reference.reason else "unusable",
            "bad",
        )
    details = []
    if reference.ess_min is not None:
        details.append(f"ESS {count(reference.ess_min)}")
    if reference.rhat_max is not None:
        details.append(f"R-hat {plain(reference.rhat_max, 4)}")
    if reference.kind in ("analytic", "exact"):
        details.append(
            "closed form" if reference.kind == "analytic" else "by quadrature or enumeration"
        )
    return reference.kind, ", ".join(details) or "usable", "good"


def tally(run: ReportInput) -> list[tuple[str, str, int]]:
    """Count the cells per verdict: (code, word, count), in the order of `VERDICTS`."""
    found = [(cell.verdict, cell.word) for entry in run.entries for cell in cells(entry).values()]
    order = list(VERDICTS)
    return [
        (*pair, found.count(pair))
        for pair in sorted(dict.fromkeys(found), key=lambda p: order.index(p[0]))
    ]
