"""Records of studies, from which list, command and tests are derived."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.run.progress import Events
from zoo.errors import UnknownNameError, UsageError
from zoo.fields import FUNCTION, NAMES, NUMBER, TEXT, checked

__all__ = ["Rendered", "Rows", "Study", "Work"]

Rows = dict[str, Any]
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Work:
    """How one part of a study is to be measured.

    Attributes:
        quick: smaller budgets, for trying; never for a published page.
        jobs: processes at once; rows do not depend on it.
        out: a folder for this part alone. Its content persists until the next run, so that an
            interrupted run can resume.
        progress: progress callbacks.
    """

    quick: bool
    jobs: int
    out: Path
    progress: Events


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A page with its files.

    Attributes:
        text: the page in Markdown.
        files: figures and tables beside the page, by file name.
        parts: parts of other pages made from the same rows: path of the page from the root of the
            repository -> name of the part -> its content (`benchmarks.studies.pages`).
        package: data files of the package made from the rows, path from the root of the repository
            -> content; written with the page by `--write`.
    """

    text: str
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    parts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    package: Mapping[str, str] = field(default_factory=dict)


def _nothing_published(folder: Path) -> Rows:
    return {}


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study, which measures a page; defined in a `study.py` or a plug-in.

    The file is `benchmarks/studies/NAME/study.py`.

    Attributes:
        name: its name for users, and that of its folder.
        title: what it measures, in one line.
        page: the page it renders, from the root of the repository. A path that ends in `/` is a
            folder: the study has no page of its own and fills parts of existing pages.
        seconds: rough time of a full run.
        quick_seconds: rough time of a quick run.
        measure: `(part, work) -> rows` of that part, in plain JSON.
        render: `rows by part -> Rendered`, deterministic in the rows. Parts may be missing.
        read: `folder of the page -> rows by part`, as published, or none.
        parts: what can be measured separately, in order; a function if that depends on the files
            of the current folder.
        optional: parts that are skipped with a warning if their requirements are missing.
        needs: requirements of a run that are not installed with this package, in a few words.

    Raises:
        UsageError: a field of a wrong type, a name that is not a lower-case identifier, an empty
            line, or a page elsewhere.
    """

    name: str
    title: str
    page: str
    seconds: float
    quick_seconds: float
    measure: Callable[[str, Work], Any]
    render: Callable[[Mapping[str, Any]], Rendered]
    read: Callable[[Path], Rows] = _nothing_published
    parts: tuple[str, ...] | Callable[[], tuple[str, ...]] = ("table",)
    optional: tuple[str, ...] = ()
    needs: str = ""

    def __post_init__(self) -> None:
        """Validate the fields."""
        checked(self, name=TEXT, title=TEXT, page=TEXT, seconds=NUMBER, quick_seconds=NUMBER)
        checked(self, measure=FUNCTION, render=FUNCTION, read=FUNCTION, needs=TEXT)
        checked(self, parts=FUNCTION if callable(self.parts) else NAMES, optional=NAMES)
        names = () if callable(self.parts) else self.parts
        for kind, name in (("study", self.name), *(("part of a study", part) for part in names)):
            if not NAME.fullmatch(name):
                accepted = "[a-z][a-z0-9_]*, such as my_study"
                raise UsageError(f"A {kind} is called {name!r}; accepted: {accepted}.")
        if not self.title.strip() or "\n" in self.title:
            raise UsageError(f"Study {self.name!r} has the title {self.title!r}; write one line.")
        if not callable(self.parts) and not self.parts:
            cure = "leave them out where it has only one"
            raise UsageError(f"Study {self.name!r} has no parts; {cure}.")
        for name in () if callable(self.parts) else self.optional:
            if name not in names:
                raise UnknownNameError(f"optional part of {self.name}", name, names)
        path = Path(self.page)
        inside = not path.is_absolute() and ".." not in path.parts
        if not inside or not self.page.endswith((".md", "/")):
            wrong = f"Study {self.name!r} has the page {self.page!r}"
            accepted = "a .md file or a folder ending in /, from the root of the repository"
            raise UsageError(f"{wrong}; accepted: {accepted}.")

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the parts that can be measured here and now."""
        return self.parts() if callable(self.parts) else self.parts

    @property
    def file_name(self) -> str:
        """File name of the page beside the rows."""
        return f"{self.name}.md" if self.page.endswith("/") else Path(self.page).name
