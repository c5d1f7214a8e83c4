"""Pictures as SVG text: boxes, arrows and words, in colors of the page or the system.

Primitives have fixed sizes, so that the same input gives the same bytes on every machine and a
test can compare a picture with the file in the repository. Pictures are 368 units wide with type
of 11 and 12, the natural size on a phone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

__all__ = ["WIDTH", "arrow", "box", "document", "panel", "text", "wrapped"]

WIDTH = 368
LIGHT = {
    "ink": "#1b2733",
    "soft": "#5b6875",
    "line": "#8493a1",
    "paper": "#ffffff",
    "fill": "#eaf1f7",
    "panel": "#f7f9fb",
    "strong": "#0b5a8a",
}
DARK = {
    "ink": "#e6ebf0",
    "soft": "#a3b0bc",
    "line": "#74828f",
    "paper": "#14181e",
    "fill": "#253341",
    "panel": "#1b2129",
    "strong": "#7cc4f2",
}
FONT = "font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif"


def _colors(colors: dict[str, str]) -> str:
    return ";".join(f"--z-{name}:{value}" for name, value in colors.items())


def document(parts: Iterable[str], height: float, label: str) -> str:
    """Return the SVG file of a picture.

    Args:
        parts: results of the functions of this module.
        height: in units; the width is `WIDTH`.
        label: one sentence as a text alternative.
    """
    light, dark = _colors(LIGHT), _colors(DARK)
    style = (
        f".zoo-picture{{{light};{FONT}}}"
        f"@media (prefers-color-scheme:dark){{.zoo-picture{{{dark}}}}}"
        f'html[data-theme="light"] .zoo-picture{{{light}}}html[data-theme="dark"]'
        f" .zoo-picture{{{dark}}}"
        ".zoo-picture text{fill:var(--z-ink);font-size:12px}.zoo-picture"
        " .soft{fill:var(--z-soft);font-size:11px}"
        ".zoo-picture .head{font-weight:600;font-size:14px}.zoo-picture"
        " .strong{fill:var(--z-strong);font-size:11px}"
        ".zoo-picture rect{fill:var(--z-fill);stroke:var(--z-line)}.zoo-picture"
        " .module{fill:var(--z-paper);stroke-dasharray:3 2}"
        ".zoo-picture .panel{fill:var(--z-panel);stroke:none}.zoo-picture"
        " .sheet{fill:var(--z-paper);stroke:none}"
        ".zoo-picture path{fill:none;stroke:var(--z-line);stroke-width:1.2}.zoo-picture"
        " .tip{fill:var(--z-line);stroke:none}"
        ".zoo-picture .check{stroke:var(--z-strong);stroke-dasharray:4 3}.zoo-picture"
        " .check-tip{fill:var(--z-strong);stroke:none}"
    )
    body = "\n".join(parts)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg"'
        f' class="zoo-picture" role="img" viewBox="0 0 {WIDTH}'
        f' {_n(height)}">\n<title>{escape(label)}</title>\n<style>{style}</style>\n<rect'
        f' class="sheet" width="{WIDTH}" height="{_n(height)}"/>\n{body}\n</svg>\n'
    )


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """Return one line of text with its baseline at y."""
    chosen = f' class="{kind}"' if kind else ""
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"{chosen}>{escape(words)}</text>'


def wrapped(words: str, columns: int) -> list[str]:
    """Return the lines of a text, of at most `columns` characters each."""
    return textwrap.wrap(words, columns)


def panel(x: float, y: float, width: float, height: float) -> str:
    """Return the background of a group of boxes."""
    return (
        f'<rect class="panel" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
        ' rx="8"/>'
    )


def box(
    x: float,
    y: float,
    width: float,
    height: float,
    lines: Sequence[str],
    *,
    kind: str = "",
    about: str = "",
    soft: int = 9,
) -> str:
    """Return a box with centered lines.

    Args:
        x: its left edge.
        y: its upper edge.
        width: its width.
        height: its height.
        lines: its text.
        kind: `module` for a dashed box.
        about: its tooltip.
        soft: index of the first line in small print.
    """
    first = y + height / 2 + 4.3 - 7.5 * (len(lines) - 1)
    words = [
        text(x + width / 2, first + 15 * i, line, "soft" if i >= soft else "", "middle")
        for i, line in enumerate(lines)
    ]
    chosen = f' class="{kind}"' if kind else ""
    title = f"<title>{escape(about)}</title>" if about else ""
    rect = (
        f'<rect{chosen} x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" rx="4"/>'
    )
    return f"<g>{title}{rect}{''.join(words)}</g>"


def arrow(points: Sequence[tuple[float, float]], kind: str = "", *, straight: bool = False) -> str:
    """Return an arrow through points, with its tip at the last.

    It is curved with vertical tangents unless `straight`.
    """
    (x, y), *rest = points
    steps, tip = [f"M{_n(x)} {_n(y)}"], "tip" if not kind else f"{kind}-tip"
    for a, b in rest:
        half = (y + b) / 2
        steps.append(
            f"L{_n(a)} {_n(b)}"
            if straight
            else f"C{_n(x)} {_n(half)} {_n(a)} {_n(half)} {_n(a)} {_n(b)}"
        )
        x, y = a, b
    before = points[-2]
    if straight and before[1] == y:  # a horizontal tip
        way = 1 if x > before[0] else -1
        head = f"M{_n(x)} {_n(y)}l{-6 * way} -3.2v6.4z"
    else:
        head = f"M{_n(x)} {_n(y)}l-3.2 -6h6.4z"
    chosen = f' class="{kind}"' if kind else ""
    return f'<path{chosen} d="{"".join(steps)}"/><path class="{tip}" d="{head}"/>'
