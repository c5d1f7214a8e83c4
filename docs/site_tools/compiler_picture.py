"""The picture of the compiler: from a tensor function to machine code.

It shows the two checks and the path that skips the compiler.
"""

from __future__ import annotations

from site_tools import pictures as p
from site_tools.pages import DOCS

__all__ = ["PICTURE", "draw"]

PICTURE = DOCS / "images" / "compiler.svg"
LEFT, WIDE, HIGH, STEP = 28.0, 234.0, 42.0, 62.0
STAGES = (
    ("tensor function of a program", "log density and gradient, or SVI step"),
    ("trace", "one flat graph, gradients inside"),
    ("passes and folding", "less work; constants computed once"),
    ("vectorize (batches only)", "the same graph for 64 points"),
    ("key", "SHA-256 of code, shapes, processor"),
    ("Inductor", "C++ sources only; vector loads bounded"),
    ("standalone library", "kernels and body as one C function"),
    ("load", "pointers in, pointers out"),
)
# Stages: the first check follows FIRST_CHECK; a cached library skips from KEY to LOAD.
FIRST_CHECK, KEY, LOAD = 3, 4, 7


def draw() -> str:
    """Return the picture as SVG."""
    parts, top, middle = [], 8.0, LEFT + WIDE / 2
    at = [top + STEP * i for i in range(len(STAGES) + 1)]
    for i, lines in enumerate(STAGES):
        parts.append(p.box(LEFT, at[i], WIDE, HIGH, lines, soft=1))
        if i:
            parts.append(p.arrow([(middle, at[i - 1] + HIGH), (middle, at[i])]))
    half = (WIDE - 12) / 2
    for x, lines in (
        (LEFT, ("zoo_gradient", "NUTS, one point")),
        (LEFT + half + 12, ("zoo_steps", "many SVI steps")),
    ):
        parts.append(p.arrow([(middle, at[LOAD] + HIGH), (x + half / 2, at[-1])]))
        parts.append(p.box(x, at[-1], half, HIGH, lines, soft=1))
    lane = LEFT - 9
    parts.append(
        p.arrow(
            [
                (LEFT, at[KEY] + 21),
                (lane, at[KEY] + 21),
                (lane, at[LOAD] + 21),
                (LEFT, at[LOAD] + 21),
            ],
            straight=True,
        )
    )
    y = (at[KEY] + at[LOAD]) / 2 + 21
    parts.append(
        f'<g transform="rotate(-90 {lane - 4:g}'
        f' {y:g})">{p.text(lane - 4, y, "found on disk", "soft", "middle")}</g>'
    )
    right, width = LEFT + WIDE + 33, 72.0
    low, high = at[FIRST_CHECK] + HIGH - 14, at[-1] + HIGH
    words = (
        "the eager",
        "function",
        "",
        "the truth of",
        "each check,",
        "what runs",
        "where one",
        "fails",
    )
    parts.append(p.box(right, low, width, high - low, words, soft=3))
    for y in (at[FIRST_CHECK] + HIGH + (STEP - HIGH) / 2, at[LOAD] + HIGH + (STEP - HIGH) / 2):
        parts.append(p.arrow([(right, y), (middle + 2, y)], "check", straight=True))
        parts.append(p.text(right - 5, y - 5, "check", "strong", "end"))
    parts.append(
        p.arrow(
            [(LEFT + WIDE, at[0] + 21), (right + width / 2, at[0] + 21), (right + width / 2, low)],
            straight=True,
        )
    )
    label = (
        "A tensor function is traced, simplified, compiled into a library and checked twice"
        " against the eager function."
    )
    return p.document(parts, high + 8, label)


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(PICTURE)
