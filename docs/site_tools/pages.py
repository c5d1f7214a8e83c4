"""Navigation of the site, and parts of pages that are generated when it is built.

A page requests such a part by a comment at the end of a line, which may continue on others. The
part replaces that line; where the repository is browsed, the comment is invisible and the rest of
the line is shown:

    The files of this folder. <!-- site: NAME ARGUMENT ... -->

* `contents [PAGE ...]`: a hidden table of contents of these pages, by default of those the page
  links to.
* `list GLOB`: links to all matching pages, by file name, and their table of contents.
* `summaries GLOB`: the same with the first sentence of each page.
* `models`: the gallery of models by kind, from the cards and the pages of `docs/models`.
* `file PATH`: the text of a Markdown file of the repository without its title.
* `commands`: the command line, from the typer app.
* `names MODULE`: the public names of a module, from its `__all__`.
* `objects NAME ...`: these, by their full names.

Sphinx is not needed here: the tests read the navigation too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

__all__ = ["DOCS", "ROOT", "children", "expand", "reachable", "summary", "title"]

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
MARK = re.compile(r"^.*<!-- site: (\w+)\s*([^<>]*?)\s*-->$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+\.md)(?:#[^)]*)?\)")


def expand(text: str, page: Path) -> str:
    """Return the text of a page with its marks replaced by their content."""
    return MARK.sub(lambda mark: MAKERS[mark[1]](page, mark[2].split()), text)


def title(page: Path) -> str:
    """Return the first heading of a page without code marks."""
    found = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].replace("`", "") if found else page.stem


def summary(page: Path) -> str:
    """Return the first sentence of the first paragraph of a page, links as plain text.

    It is empty if the page begins with a table.
    """
    for part in page.read_text(encoding="utf-8").split("\n\n"):
        plain = part.strip()
        if plain and not plain.startswith(("#", "<!--", "```", "|", "!", "*", "-")):
            words = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", " ".join(plain.split()))
            return re.split(r"(?<=[.?!]) (?=[A-Z`])", words)[0]
    return ""


def children(page: Path) -> list[Path]:
    """Return the pages that the tables of contents of a page name, in order."""
    text, found = page.read_text(encoding="utf-8"), []
    for mark in MARK.finditer(text):
        if mark[1] in CHILDREN:
            found += CHILDREN[mark[1]](page, mark[2].split())
    return found


def reachable(start: Path) -> Iterator[Path]:
    """Yield a page and all below it in the navigation, as often as they are named."""
    yield start
    for page in children(start):
        yield from reachable(page)


def _linked(page: Path, names: Sequence[str]) -> list[Path]:
    text = page.read_text(encoding="utf-8")
    targets = [f"{name}.md" for name in names] or list(dict.fromkeys(LINK.findall(text)))
    return [(page.parent / target).resolve() for target in targets]


def _matching(page: Path, globs: Sequence[str]) -> list[Path]:
    found = {p for glob in globs for p in page.parent.glob(glob)}
    return sorted(p.resolve() for p in found if p.resolve() != page.resolve())


def _models(page: Path, _: Sequence[str]) -> list[Path]:
    return _matching(page, ["*.md"])


CHILDREN: dict[str, Callable[[Path, Sequence[str]], list[Path]]] = {
    "contents": _linked,
    "list": _matching,
    "summaries": _matching,
    "models": _models,
}


def _toctree(page: Path, pages: Sequence[Path]) -> str:
    names = [p.relative_to(page.parent.resolve()).with_suffix("").as_posix() for p in pages]
    return "\n".join(["```{toctree}", ":hidden:", "", *names, "```"])


def _contents(page: Path, names: Sequence[str]) -> str:
    return _toctree(page, _linked(page, names))


def _link(page: Path, target: Path, text: str = "") -> str:
    return f"[{text or title(target)}]({target.relative_to(page.parent.resolve()).as_posix()})"


def _list(page: Path, globs: Sequence[str]) -> str:
    pages = _matching(page, globs)
    return "\n".join([*(f"* {_link(page, p)}" for p in pages), "", _toctree(page, pages)])


def _summaries(page: Path, globs: Sequence[str]) -> str:
    pages = _matching(page, globs)
    rows = [f"| {_link(page, p)} | {summary(p)} |" for p in pages]
    return "\n".join(["| page | about |", "|---|---|", *rows, "", _toctree(page, pages)])


def _gallery(page: Path, _: Sequence[str]) -> str:
    """Return tables of entries, one per folder of `zoo/models`, linked to their pages."""
    from zoo.registry import catalog

    kinds: dict[str, list[str]] = {}
    for info in catalog():
        kind = info.target.split(".")[2]
        own = page.parent / f"{info.name}.md"
        if info.source != "zoo" or (kind == "posteriordb" and not own.exists()):
            continue  # the entries of posteriordb share one page
        name = _link(page, own.resolve(), f"`{info.name}`") if own.exists() else f"`{info.name}`"
        kinds.setdefault(kind, []).append(f"| {name} | {info.title} | {info.reference} |")
    parts = []
    for kind, rows in sorted(kinds.items()):
        about = (
            ast.get_docstring(
                ast.parse(
                    (ROOT / "zoo" / "models" / kind / "__init__.py").read_text(encoding="utf-8")
                )
            )
            or ""
        )
        heading = kind.replace("_", " ").capitalize()
        parts += [
            f"## {heading}",
            "",
            about.partition("\n")[0],
            "",
            "| entry | what it is | reference |",
            "|---|---|---|",
            *rows,
            "",
        ]
    return "\n".join([*parts, _toctree(page, _models(page, ()))])


def _file(page: Path, names: Sequence[str]) -> str:
    """Return the text of a file of the repository below its title, with links from `docs`."""
    text = (ROOT / names[0]).read_text(encoding="utf-8")
    body = re.sub(r"\A# .*\n+", "", text)
    return re.sub(r"\]\(docs/", "](", body)


def _commands(page: Path, _: Sequence[str]) -> str:
    from site_tools.commands import markdown

    return markdown()


def _names(page: Path, rooms: Sequence[str]) -> str:
    from site_tools.names import markdown

    return markdown(rooms[0])


def _objects(page: Path, names: Sequence[str]) -> str:
    from site_tools.names import one_by_one

    return one_by_one(names)


MAKERS: dict[str, Callable[[Path, Sequence[str]], str]] = {
    "contents": _contents,
    "list": _list,
    "summaries": _summaries,
    "models": _gallery,
    "file": _file,
    "commands": _commands,
    "names": _names,
    "objects": _objects,
}
