"""Tables of a run: one row per score (`results.csv`, data frame), one per cell (`costs.csv`)."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.metrics.metric import (
    BOUND,
    CELL_COLUMNS,
    CLOCK,
    COST,
    distance_columns,
    own_columns,
    own_distances,
)
from benchmarks.run.store import RunDir, finite
from zoo.fields import Kind, accepted
from zoo.types import Cost

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "costs_csv",
    "figures_of",
    "results_csv",
    "results_frame",
    "score_columns",
    "score_rows",
]

FOLDER = Kind(
    accepted="the folder of a run, written by `zoo compare` or by compare_program(out=...)",
    holds=lambda value: isinstance(value, str | os.PathLike),
)
COST_COLUMNS = ("entry", "method", "seed", "status", *(f.name for f in fields(Cost)))


def results_frame(path: str | Path) -> pd.DataFrame:
    """Read all scores of a run as a table with one row per score.

    A cell without scores is one row with empty columns.

    Args:
        path: a run directory; an unfinished run gives the cells that exist.

    Returns:
        columns `entry method seed status verdict truth quantity index label mean_error ...`
        (errors in sds of that truth), those of plug-in metrics, then the figures of the whole
        cell: `elbo` (nats), `pareto_k`, every joint distance with its standard error and noise
        floor (`c2st c2st_se c2st_floor`), `seconds`, `gradient_evaluations`.

    Raises:
        UsageError: no path, or no run there.

    Warns:
        RuntimeWarning: a damaged cell that is left out.
    """
    accepted("results_frame", path=(path, FOLDER))
    import pandas as pd

    run = RunDir.open(Path(path))
    cells = [c for c in (run.read(n, warn=_warn) for n in run.names()) if c is not None]
    return pd.DataFrame(score_rows(cells), columns=score_columns(cells))


def _warn(sentence: str) -> None:
    """Say which cell is missing from the table."""
    warnings.warn(f"Left out of the table: {sentence}", RuntimeWarning, stacklevel=4)


def score_columns(cells: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Return the columns of a table of scores: those of every run, then those of plug-ins."""
    own = own_columns()
    extra = dict.fromkeys(
        name for cell in cells for score in cell["scores"] for name in score.get("extra", ())
    )
    distances = dict.fromkeys([*own_distances(), *(d["name"] for c in cells for d in _joint(c))])
    return [
        *CELL_COLUMNS,
        "quantity",
        "index",
        "label",
        *own,
        "judged",
        *(name for name in extra if name not in own),
        *BOUND,
        *(column for name in distances for column in distance_columns(name)),
        *COST,
    ]


def figures_of(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a cell as a whole: bound in nats, weights, distances and cost."""
    elbo, weights, cost = (cell.get(name) or {} for name in ("elbo", "pareto_k", "cost"))
    bound = (elbo.get("value_nats"), elbo.get("se"), weights.get("value"))
    joint = {
        column: value
        for d in _joint(cell)
        for column, value in zip(
            distance_columns(d["name"]), (d["value"], d["se"], d["floor"]), strict=True
        )
    }
    return dict(zip(BOUND, bound, strict=True)) | joint | {name: cost.get(name) for name in COST}


def _in_order(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(cells, key=lambda c: (c["entry"], c["method"], c["seed"]))


def _joint(cell: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = cell.get("distances", ())
    return found


def score_rows(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one flat row per score of the cells."""
    rows = []
    for cell in _in_order(cells):
        head = {k: cell.get(k) for k in CELL_COLUMNS} | figures_of(cell)
        head["truth"] = cell.get("compared_with") or (cell.get("reference") or {}).get("kind")
        rows += [
            {
                **head,
                **score,
                **score.get("extra", {}),
                "index": ".".join(map(str, score["index"])),
            }
            for score in cell["scores"]
        ] or [head]
    return rows


def results_csv(cells: list[dict[str, Any]]) -> str:
    """Return the scores as CSV, one row per score; missing numbers are empty.

    Two runs of one command have the same bytes: what a clock measured is in `costs_csv`.
    """
    return _csv([c for c in score_columns(cells) if c not in CLOCK], score_rows(cells))


def costs_csv(cells: list[dict[str, Any]]) -> str:
    """Return what each cell cost as CSV, one row per cell; missing numbers are empty."""
    return _csv(
        COST_COLUMNS,
        [{k: c.get(k) for k in COST_COLUMNS} | (c.get("cost") or {}) for c in _in_order(cells)],
    )


def _csv(columns: Sequence[str], rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _inert(v) for k, v in finite(row).items()} for row in rows)
    return text.getvalue()


def _inert(value: Any) -> Any:
    """Return text that a spreadsheet would read as a formula behind a quote, else the value."""
    return (
        f"'{value}"
        if isinstance(value, str)
        and value[:1] in ("=", "+", "-", "@", "\t", "\r")
        and not _is_number(value)
        else value
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
