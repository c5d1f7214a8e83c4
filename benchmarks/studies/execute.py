"""Measuring a study part by part, rendering and publishing its rows.

A folder of a study holds `rows.json` (strict JSON: `{"schema": 1, "study", "quick", "rows": {part:
rows}}`), the rendered page with its pictures, and one folder per part for intermediate results.
The same call resumes; a part that is in `rows.json` is finished.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.run.progress import Events
from benchmarks.run.store import disk_errors, strict_json, write_atomic
from benchmarks.studies.pages import keep_notes, replace_part
from benchmarks.studies.record import Rendered, Rows, Study, Work
from zoo.errors import UnknownNameError, UsageError

__all__ = [
    "Stored",
    "check_target",
    "default_folder",
    "find_rows",
    "measure",
    "publish",
    "published",
    "write_page",
]

ROWS = "rows.json"
QUICK = "**A quick run with small budgets, to try the study: do not quote these numbers.**"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Rows of a study by part, whether from a quick run, and their source."""

    quick: bool
    rows: Rows
    source: Path


def default_folder(study: Study, quick: bool) -> Path:
    """Return the default folder of rows and page; quick runs have one of their own."""
    return Path("out/studies") / (f"{study.name}-quick" if quick else study.name)


def published(study: Study, root: Path = Path()) -> Rows:
    """Return the rows of the page in the repository; empty if none were published."""
    return study.read(_home(study, root))


def _home(study: Study, root: Path) -> Path:
    """Return the folder of the published page."""
    return root / study.page if study.page.endswith("/") else (root / study.page).parent


def find_rows(study: Study, folder: Path, root: Path = Path()) -> Stored:
    """Return the rows in a folder, or the published ones if it has none.

    Raises:
        UsageError: there are neither.
    """
    stored = _stored(study, folder)
    if stored is not None and stored.rows:
        return stored
    rows = published(study, root)
    if not rows:
        nowhere = f"no rows in {str(folder)!r} and none published"
        raise UsageError(f"Study {study.name} has {nowhere}; measure: zoo study {study.name}")
    return Stored(quick=False, rows=rows, source=root / study.page)


def _stored(study: Study, folder: Path) -> Stored | None:
    """Return the rows in a folder of this study, None if the folder is new.

    Raises:
        UsageError: the folder has other content.
    """
    path = folder / ROWS
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            other = "holds something else than a study; give a new or an empty folder."
            raise UsageError(f"--out {str(folder)!r} {other}")
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        name, quick, rows = found["study"], bool(found["quick"]), dict(found["rows"])
    except (ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        cure = f"is no file of rows ({why}); give another folder."
        raise UsageError(f"{str(path)!r} {cure}") from error
    if name != study.name:
        held = f"holds the study {name!r}, not {study.name!r}"
        raise UsageError(f"--out {str(folder)!r} {held}; give another folder.")
    return Stored(quick=quick, rows=rows, source=path)


def measure(
    study: Study,
    folder: Path,
    *,
    quick: bool = False,
    part: str | None = None,
    jobs: int = 2,
    events: Events | None = None,
    root: Path = Path(),
) -> Stored:
    """Measure what is missing, or one part again, and return the rows of all parts.

    Args:
        study: what to measure.
        folder: folder of `rows.json`; existing rows are kept.
        quick: smaller budgets.
        part: measure this part again; other parts stay as they are in the folder or, if the folder
            is new, as published.
        jobs: processes at once.
        events: progress callbacks.
        root: root of the repository.

    Raises:
        UsageError: an unknown part, a folder with other content, or a missing requirement of the
            study.
    """
    events = events or Events()
    names = _chosen(study, part)
    stored = _stored(study, folder)
    if stored is None:
        rows = published(study, root) if part is not None and not quick else {}
        stored = Stored(quick=quick, rows=rows, source=folder / ROWS)
    if stored.quick != quick:
        kind, other = ("quick", "full") if stored.quick else ("full", "quick")
        held = f"holds a {kind} run of {study.name}, not a {other} one"
        raise UsageError(f"--out {str(folder)!r} {held}; give another folder.")
    rows = {name: found for name, found in stored.rows.items() if name != part}
    _save(study, folder, quick, rows)  # from here on the folder is marked as one of this study
    if part is not None and (folder / part).is_dir():
        shutil.rmtree(folder / part)  # intermediate results of an earlier measurement
    for name in names:
        if name in rows:
            events.say(f"{study.name}: {name} is there")
            continue
        events.say(f"{study.name}: {name}")
        work = Work(quick=quick, jobs=jobs, out=folder / name, progress=events)
        try:
            rows[name] = _measured(study, name, work)
        except UsageError as error:
            if name == part or name not in study.optional:
                raise
            events.warn(f"{study.name}: {name} is left out: {error}")
            continue
        rows = {n: rows[n] for n in (*study.part_names, *rows) if n in rows}
        _save(study, folder, quick, rows)
    return replace(stored, rows=rows, source=folder / ROWS)


def _chosen(study: Study, part: str | None) -> tuple[str, ...]:
    names = study.part_names
    if not names:
        cure = f"run it in the root of the repository, which has {study.page}."
        raise UsageError(f"Study {study.name} finds nothing to measure here; {cure}")
    if part is None:
        return names
    if part not in names:
        raise UnknownNameError(f"part of the study {study.name}", part, names)
    return (part,)


def _measured(study: Study, part: str, work: Work) -> object:
    from benchmarks.workers import one_thread

    with disk_errors(work.out):
        work.out.mkdir(parents=True, exist_ok=True)
    with one_thread():
        return json.loads(strict_json(study.measure(part, work)))  # as it will be read back


def _save(study: Study, folder: Path, quick: bool, rows: Rows) -> None:
    document = {"schema": 1, "study": study.name, "quick": quick, "rows": rows}
    write_atomic(folder / ROWS, strict_json(document) + "\n")


def write_page(study: Study, stored: Stored, folder: Path, root: Path = Path()) -> Path:
    """Render rows into a folder and return the page.

    A full run keeps the notes of the published page.
    """
    made, page = study.render(stored.rows), folder / study.file_name
    if stored.quick:
        title, _, rest = made.text.partition("\n")
        _write(replace(made, text=f"{title}\n\n{QUICK}\n{rest}"), page, page)
    else:
        _write(made, page, root / study.page)
    return page


def _write(made: Rendered, page: Path, old: Path) -> None:
    for name, content in made.files.items():
        write_atomic(page.parent / name, content)
    write_atomic(page, keep_notes(made.text, old))


def check_target(study: Study, quick: bool, root: Path = Path()) -> None:
    """Refuse, before measuring, what could not be published.

    Raises:
        UsageError: a quick run, or the folder of the page does not exist here.
    """
    if quick:
        full = "a published page needs a full run: leave out one of them."
        raise UsageError(f"zoo study got --quick with --write; {full}")
    folder = _home(study, root)
    if not folder.is_dir():
        cure = f"needs the folder {str(folder)!r}; run it in the root of the repository."
        raise UsageError(f"--write of {study.name} {cure}")


def publish(study: Study, stored: Stored, root: Path = Path()) -> list[Path]:
    """Write page, files and parts of other pages into the repository; return their paths.

    Raises:
        UsageError: see `check_target`; rows of a quick run; a published part that is missing here.
    """
    check_target(study, stored.quick, root)
    lost = [name for name in published(study, root) if name not in stored.rows]
    if lost:
        drop = f"--write would drop {', '.join(lost)} from {study.page}"
        raise UsageError(f"{drop}; measure them too: zoo study {study.name}")
    made, written = study.render(stored.rows), []
    if not study.page.endswith("/"):
        _write(made, root / study.page, root / study.page)
        written += [root / study.page, *((root / study.page).parent / name for name in made.files)]
    for page, parts in made.parts.items():
        for name, inside in parts.items():
            replace_part(root / page, name, inside)
        written.append(root / page)
    for path, content in made.package.items():
        write_atomic(root / path, content)
        written.append(root / path)
    return written
