"""Swatch of a method: its line and marker in its color, as in every figure."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from benchmarks.report import theme

__all__ = ["key"]


def _star(points: int, inner: float) -> str:
    """Return a star around the middle of the swatch; a regular polygon if `inner` is 1."""
    corners = [
        (4.6 if i % 2 == 0 else 4.6 * inner, math.pi * i / points - math.pi / 2)
        for i in range(2 * points)
        if inner < 1 or i % 2 == 0
    ]
    text = "L".join(f"{15 + r * math.cos(a):.1f} {6 + r * math.sin(a):.1f}" for r, a in corners)
    return f'<path d="M{text}z"/>'


SHAPES: dict[Any, str] = {
    "o": '<circle cx="15" cy="6" r="3.6"/>',
    "s": '<path d="M11.6 2.6h6.8v6.8h-6.8z"/>',
    "^": '<path d="M15 1.8l4.2 7.6h-8.4z"/>',
    "D": '<path d="M15 1.4l4.6 4.6-4.6 4.6-4.6-4.6z"/>',
    "v": '<path d="M15 10.2l4.2-7.6h-8.4z"/>',
    "P": '<path d="M13.4 1.6h3.2v2.8h2.8v3.2h-2.8v2.8h-3.2v-2.8h-2.8v-3.2h2.8z"/>',
    "p": '<path d="M15 1.6l4.2 3.1-1.6 4.9h-5.2l-1.6-4.9z"/>',
    "*": '<path d="M15 .8l1.4 3.4 3.7.3-2.8 2.4.9 3.6-3.2-1.9-3.2 1.9.9-3.6-2.8-2.4 3.7-.3z"/>',
    "d": '<path d="M15 1l2.9 5-2.9 5-2.9-5z"/>',
    "h": '<path d="M15 1.6l3.8 2.2v4.4l-3.8 2.2-3.8-2.2v-4.4z"/>',
    "8": _star(8, 1.0),
    (4, 1, 0): _star(4, 0.4),
    (6, 1, 0): _star(6, 0.5),
    (3, 1, 0): _star(3, 0.35),
    "X": (
        '<path d="M12.6 1.8l2.4 2.3 2.4-2.3 1.9 1.9-2.4 2.3 2.4 2.3-1.9 1.9-2.4-2.3-2.4'
        ' 2.3-1.9-1.9 2.4-2.3-2.4-2.3z"/>'
    ),
}


def key(mark: theme.Mark) -> Markup:
    """Return the swatch of a method as inline SVG."""
    dash = (
        "" if mark.dash == "-" else f' stroke-dasharray="{" ".join(str(v) for v in mark.dash[1])}"'
    )
    color = f"var(--c-{mark.role})"
    return Markup(
        '<svg class="key" viewBox="0 0 30 12" aria-hidden="true"><path d="M1 6h28"'
        f' style="stroke:{color};fill:none" stroke-width="1.7"{dash}/><g'
        f' style="fill:{color};stroke:var(--c-paper)"'
        f' stroke-width=".8">{SHAPES[mark.marker]}</g></svg>'
    )
