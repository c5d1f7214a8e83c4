"""From an existing Pyro model to a scorecard in one call: `compare_program`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from html import escape
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import zoo
from benchmarks.report import method_names, render_table
from benchmarks.report.overview import cells, tidy
from benchmarks.run.card_frame import card_frame
from benchmarks.run.execute import execute
from benchmarks.run.plan import TARGET_ACCEPT, make_plan
from benchmarks.run.progress import Console, Events, Quiet
from benchmarks.run.run_result import RunResult
from benchmarks.verdicts import verdict_of
from guides.types import FitConfig
from zoo.errors import UnknownNameError
from zoo.fields import FLAG, POSITIVE, SEED, Kind, accepted

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.types import Comparison

__all__ = ["Scorecard", "compare_program"]

GIVEN = Kind(
    accepted="a list such as ['mean_field', 'full_rank'], or 'all'",
    holds=lambda value: (
        value == "all"
        if isinstance(value, str)
        else isinstance(value, Sequence) and bool(value) and all(isinstance(f, str) for f in value)
    ),
)


@dataclass(frozen=True, kw_only=True)
class Scorecard:
    """Result of `compare_program`, shown as a table in a terminal and in a notebook.

    `result.report` holds the comparisons with their draws, `frame()` the scores as a table.
    """

    result: RunResult

    @property
    def comparisons(self) -> dict[str, Comparison]:
        """Comparisons by method."""
        rows = self.result.report.entries[0].comparisons
        return dict(zip(method_names(rows), rows, strict=True))

    @property
    def verdicts(self) -> dict[str, str]:
        """Verdicts by method."""
        return {method: c.verdict for method, c in self.comparisons.items()}

    def frame(self) -> pd.DataFrame:
        """Return one row per method and component: label, estimates, errors in reference sds.

        The columns are those of `results_frame`, and behind `label` the component in its natural
        units: `component` names it (the site where its logarithm was compared), `median`, `q05`
        and `q95` are the posterior median and 90 % interval under the method, `reference_median`,
        `reference_q05` and `reference_q95` those of the reference.
        """
        return card_frame(self.result.cells, self.result.report.entries[0])

    def __str__(self) -> str:
        return render_table(self.result.report)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the table for a notebook: escaped text, no scripts, no external requests."""
        entry = self.result.report.entries[0]
        shown = cells(entry)
        rows = []
        for method, c in self.comparisons.items():
            worst = c.worst()
            number = (
                ""
                if worst is None
                else (
                    f"{worst.label}: {worst.center} off by {worst.mean_error:+.2f} sd, sd ratio"
                    f" {worst.sd_ratio:.2f}"
                )
            )
            # Both colors are given, for a notebook may be light or dark.
            light = verdict_of(c.verdict).light
            style = f"background:{light.tint};color:{light.text};padding:1px 6px"
            columns = (
                f"<b>{escape(method)}</b>",
                f'<b style="{style}">{escape(shown[method].word)}</b>',
                escape(tidy(number)),
                escape(shown[method].sentence),
            )
            rows.append(
                "<tr>"
                + "".join(f'<td style="text-align:left">{cell}</td>' for cell in columns)
                + "</tr>"
            )
        head = "".join(
            f'<th style="text-align:left">{name}</th>'
            for name in ("method", "verdict", "worst component", "in words")
        )
        kind = entry.reference.kind + ("" if entry.reference.usable else " (not usable)")
        caption = (
            f"<caption>{escape(entry.entry.title)}; reference: {escape(kind)}; errors in reference"
            " sds</caption>"
        )
        return (
            f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        )


def compare_program(
    model: Callable[..., Any],
    data: Mapping[str, Any] | Sequence[Any],
    families: Sequence[str] | Literal["all"] = "all",
    *,
    nuts: bool = True,
    trust: bool = True,
    reweight: bool = False,
    seed: int = 0,
    quick: bool = False,
    restarts: int = 1,
    target_accept: float = TARGET_ACCEPT,
    jobs: int = 2,
    out: str | Path | None = None,
    progress: bool = True,
    events: Events | None = None,
    **options: Any,
) -> Scorecard:
    """Compare guide families, and NUTS, on an existing Pyro model.

    Args:
        model: a function or a `PyroModule`, unchanged.
        data: its arguments by name, or by position as a tuple.
        families: guide families, or `all`.
        nuts: also run NUTS, which is then the reference.
        trust: without NUTS, estimate the truth by tempered SMC and assess every fit.
        reweight: also compare the draws of every family reweighted (`benchmarks.reweight`).
        seed: seed of the inference.
        quick: smaller budgets, the same gates.
        restarts: independent starts per fit.
        target_accept: acceptance rate to which NUTS adapts its step size; more than 0.8 takes
            smaller steps, with fewer divergences.
        jobs: processes at once.
        out: folder for the run and its report; by default a temporary one that is removed.
        progress: print an estimate of the time and a line per finished method to stderr, which a
            notebook shows below its cell.
        events: progress callbacks of your own instead.
        **options: passed to `zoo.from_program`: `dims`, `coords`, `name`, `observed`, `guide`, ...

    Raises:
        UsageError: bad data, an unknown family, or a program that cannot be handled correctly,
            with the cure.
    """
    accepted(
        "compare_program",
        families=(families, GIVEN),
        nuts=(nuts, FLAG),
        trust=(trust, FLAG),
        reweight=(reweight, FLAG),
        quick=(quick, FLAG),
        progress=(progress, FLAG),
        seed=(seed, SEED),
        restarts=(restarts, POSITIVE),
        jobs=(jobs, POSITIVE),
    )
    known = {*signature(compare_program).parameters, *signature(zoo.from_program).parameters}
    for name in options:
        if name not in known - {"options"}:
            setting = name in FitConfig.__dataclass_fields__
            raise UnknownNameError(
                "argument of compare_program",
                name,
                known - {"options"},
                hint=f"Settings of a fit are given as training={{{name!r}: ...}}." * setting,
            )
    events = events or (Console() if progress else Quiet())
    entry = zoo.from_program(model, data, **options)
    chosen: Any = "all" if families == "all" else list(families)
    plan = make_plan(
        entries=[entry.key],
        guides=chosen,
        nuts=nuts,
        trust=trust,
        reweight=reweight,
        seeds=[seed],
        quick=quick,
        restarts=restarts,
        target_accept=target_accept,
    )
    place = tempfile.TemporaryDirectory(prefix="zoo-") if out is None else nullcontext(str(out))
    with place as folder:
        result = execute(
            plan,
            out=Path(folder) / "run" if out is None else Path(folder),
            jobs=jobs,
            entries=[entry],
            events=events,
            pages=out is not None,
        )
    return Scorecard(result=result)
