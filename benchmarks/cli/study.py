"""`zoo study`: list, measure, render and publish the studies behind docs/results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.cli.console import print_json, print_table
from benchmarks.run.progress import Console
from benchmarks.studies.registry import STUDIES, load
from zoo.errors import UsageError

__all__ = ["study"]

COLUMNS = ["name", "title", "page", "takes", "quick", "parts", "needs"]


def _list(as_json: bool) -> None:
    """Print every study, including broken plug-ins."""
    rows = [_listed(name) for name in STUDIES]
    if as_json:
        print_json({"schema": 1, "studies": rows})
        return
    print_table(COLUMNS, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> list[str]:
    title = row["title"] if row["error"] is None else f"BROKEN: {row['error']}"
    times = (_time(row["seconds"]), _time(row["quick_seconds"]))
    return [row["name"], title, row["page"] or "", *times, _parts(row["parts"]), row["needs"]]


def _listed(name: str) -> dict[str, Any]:
    empty: dict[str, Any] = dict.fromkeys(("title", "page", "seconds", "quick_seconds"))
    try:
        found = load(name)
    except UsageError as error:
        return {"name": name, **empty, "parts": [], "needs": "", "error": str(error)}
    values = {key: getattr(found, key) for key in empty}
    parts = list(found.part_names)
    return {"name": name, **values, "parts": parts, "needs": found.needs, "error": None}


def _parts(names: list[str]) -> str:
    if len(names) < 2:
        return ""
    return ", ".join(names) if len(names) <= 5 else f"{len(names)}, {names[0]} first"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def study(
    name: str | None,
    *,
    quick: bool,
    part: str | None,
    jobs: int,
    out: Path | None,
    render: bool,
    write: bool,
    as_json: bool,
) -> None:
    """Measure a study, or take stored rows, then render it, and publish it if requested.

    Without a name, list the studies.

    Raises:
        UnknownNameError: no such study or part.
        UsageError: flags that exclude each other, or a folder with other content.
    """
    if name is None:
        given = {"--quick": quick, "--part": part, "--out": out, "--render": render}
        flags = [flag for flag, value in {**given, "--write": write}.items() if value]
        if flags:
            got = f"zoo study got {', '.join(flags)} without a name"
            raise UsageError(f"{got}; give one of those that `zoo study` lists.")
        _list(as_json)
        return
    found, events = load(name), Console()
    if render and part is not None:
        whole = "rendering takes all rows: leave out one of them."
        raise UsageError(f"zoo study got --render with --part; {whole}")
    from benchmarks.studies import execute

    folder = execute.default_folder(found, quick) if out is None else out
    if write:
        execute.check_target(found, quick)
    if render:
        stored = execute.find_rows(found, folder)
        # a later measurement starts in its own folder
        if out is None and stored.source.parent != folder:
            folder = folder.with_name(f"{found.name}-published")
        events.say(f"{found.name}: rows of {stored.source}")
    else:
        stored = execute.measure(found, folder, quick=quick, part=part, jobs=jobs, events=events)
    page = execute.write_page(found, stored, folder)
    written = execute.publish(found, stored) if write else []
    if as_json:
        pages = [str(path) for path in (page, *written)]
        what = {"schema": 1, "study": found.name, "quick": stored.quick}
        print_json({**what, "rows": stored.rows, "written": pages})
        return
    for path in (page, *written):
        print(path)
