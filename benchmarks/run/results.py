"""Scores of a run as a table: `results.csv` and the data frame, one row per score."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.metrics.metric import (
    BOUND,
    CELL_COLUMNS,
    COST,
    distance_columns,
    own_columns,
    own_distances,
)
from benchmarks.run.store import RunDir

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["figures_of", "results_frame", "score_columns", "score_rows"]


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

    Warns:
        RuntimeWarning: a damaged cell that is left out.
    """
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


def _joint(cell: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = cell.get("distances", ())
    return found


def score_rows(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one flat row per score of the cells."""
    rows = []
    for cell in sorted(cells, key=lambda c: (c["entry"], c["method"], c["seed"])):
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
