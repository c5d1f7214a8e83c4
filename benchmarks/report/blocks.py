"""Building blocks of sections: figures, paragraphs and tables, as HTML and as Markdown."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from markupsafe import Markup
from markupsafe import escape as html_escape

from benchmarks.report.inputs import EntryReport
from benchmarks.report.svg import inline_svg
from benchmarks.report.theme import family_in
from benchmarks.report.words import definition

__all__ = [
    "Picture",
    "anchor",
    "environment",
    "escape",
    "fragment",
    "gallery",
    "markdown_table",
    "paragraph",
    "parts",
    "picture",
    "pictures_of",
    "table",
]

Picture = dict[str, Any]


def anchor(report: EntryReport) -> str:
    """Return an id for an entry that is safe in a link; distinct keys give distinct ids."""
    return "e-" + re.sub(r"[^A-Za-z0-9_-]", lambda m: f".{ord(m.group()):x}.", report.entry.key)


def picture(
    figure: Any, name: str, alt: str, title: str = "", caption: str = ""
) -> Picture | None:
    """Return a figure for the page, None if there is nothing to draw.

    Args:
        figure: a matplotlib figure in the colors of `benchmarks.report.theme`, or None.
        name: makes the ids inside it unique on the page; must begin with `anchor(report)`.
        alt: text alternative that says what the figure shows.
        title: a line above it.
        caption: text below it.
    """
    if figure is None:
        return None
    height = float(figure.get_figheight() * 72)
    return {
        "svg": inline_svg(figure, re.sub(r"[^A-Za-z0-9_-]", "", name), alt),
        "title": title,
        "caption": caption.replace(" %", "\u00a0%"),
        "height": height,
    }


def pictures_of(report: EntryReport, section: str, figures: Iterable[Any]) -> list[Picture]:
    """Return figures, or pairs of a figure and its caption, as pictures of a section."""
    pairs = [item if isinstance(item, tuple) else (item, "") for item in figures]
    made = [
        picture(
            figure,
            f"{anchor(report)}-{section}{i}",
            str(caption) or f"Extra figure {i + 1} of {report.entry.key}.",
            "",
            str(caption),
        )
        for i, (figure, caption) in enumerate(pairs)
    ]
    return [p for p in made if p is not None]


@functools.cache
def environment() -> Any:
    """Return the environment of the templates in this folder; text is escaped by default."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("benchmarks.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["code"] = _code
    made.filters["pieces"] = lambda text: re.findall(r"[^_/\[,]*[_/\[,]?", str(text))[:-1]
    made.globals["define"] = definition
    return made


def _code(text: str) -> Markup:
    """Set text in backticks as code, after escaping everything."""
    return Markup(re.sub(r"`+([^`]+)`+", r"<code>\1</code>", str(html_escape(text))))


def parts(names: Sequence[str], most: int = 6) -> list[list[int]]:
    """Split the positions of columns into parts of at most `most`, alike in size.

    A page of 1,280 pixels, or of paper, shows so many columns beside each other. Rows of one
    family, its seeds and reweighted ones, stay together unless they are more.
    """
    places = enumerate(names)
    families = [
        [i for i, _ in found]
        for _, found in groupby(places, key=lambda place: family_in(place[1].split(" ")[0]))
    ]
    cut = [f[i : i + most] for f in families for i in range(0, len(f), most)]
    number = len(_filled(cut, most))
    sizes = range(max(map(len, cut), default=1), most + 1)
    return next(found for size in sizes if len(found := _filled(cut, size)) == number)


def _filled(groups: Sequence[list[int]], size: int) -> list[list[int]]:
    """Fill parts of at most `size` with whole groups; there is at least one part."""
    found: list[list[int]] = [[]]
    for group in groups:
        if found[-1] and len(found[-1]) + len(group) > size:
            found.append([])
        found[-1] = [*found[-1], *group]
    return found


def fragment(template: str, **values: Any) -> Markup:
    """Render one template of `benchmarks/report`, such as `sections/story.jinja`."""
    return Markup(environment().get_template(template).render(**values))


def paragraph(text: str, *, title: str = "") -> Markup:
    """Return a paragraph, under a heading if a title is given."""
    head = Markup("<h3>{}</h3>").format(title) if title else Markup("")
    return head + Markup('<p class="note">{}</p>').format(text)


def gallery(title: str, pictures: Sequence[Picture]) -> Markup | None:
    """Return pictures side by side under a heading, None without pictures."""
    return fragment("sections/gallery.jinja", title=title, pictures=pictures) if pictures else None


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "") -> Markup:
    """Return a table with row names in its first column, under a heading if a title is given."""
    return fragment("sections/table.jinja", title=title, heads=heads, rows=rows)


def escape(text: object) -> str:
    """Escape text for a Markdown table: no markup, no HTML, no mention, one line."""
    flat = (
        " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )
    return re.sub(r"([\\|*_`\[\]~#$])", r"\\\1", flat).replace("@", "&#64;")


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table in Markdown; heads and cells are escaped."""
    lines = ["| " + " | ".join(map(escape, heads)) + " |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(escape, row)) + " |" for row in rows)])
