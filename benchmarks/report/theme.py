"""Colors, marks and matplotlib settings of the report.

Every color is a role with a light and a dark value. Figures are drawn in the light palette;
`benchmarks.report.svg` replaces each of these exact values by a CSS variable, so that one figure
serves both color schemes. Hues follow the color-blind-safe order blue, orange, green, purple,
rose, olive; beyond these, methods differ by their own markers and dashes. Labels have the colors
of their methods, so each has a contrast of at least 4.5 : 1 to the paper, to the soft band and to
the fill of the reference, which is therefore pale and has an outline.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from benchmarks.types import base_of
from benchmarks.verdicts import VERDICTS, Colors
from guides.registry import FAMILIES

__all__ = [
    "OUTLINED",
    "ROLES",
    "Mark",
    "canvas",
    "family_in",
    "in_order",
    "marks",
    "slot_of",
    "style",
    "verdict_css",
]

ROLES: dict[str, tuple[str, str]] = {  # role -> (light, dark)
    "ink": ("#22262d", "#e7e9ed"),
    "muted": ("#5c636f", "#a5adb8"),
    "line": ("#d4d7dd", "#3a404a"),
    "paper": ("#fefefd", "#191c21"),
    "ref": ("#dcdfe4", "#3b414b"),
    "ref-soft": ("#eef0f3", "#2a2f36"),
    "ref-line": ("#828a96", "#8b94a1"),
    "warn": ("#c4102d", "#ff8a8a"),
    "nuts": ("#3a3f47", "#d8dbe0"),
    "m1": ("#1e5fc2", "#76aeff"),
    "m2": ("#a24701", "#ff9d4d"),
    "m3": ("#027056", "#41c9a2"),
    "m4": ("#7f45bb", "#c29bff"),
    "m5": ("#b32c61", "#ff86b0"),
    "m6": ("#746101", "#d9c24f"),
    "m7": ("#026b86", "#55cdea"),
    "m8": ("#6f3410", "#cfa389"),
    "m9": ("#595ca2", "#acb1f2"),
    "m10": ("#506b04", "#b5d266"),
    "m11": ("#093300", "#6cbf5f"),
    "m12": ("#61037e", "#feb4f7"),
    "m13": ("#095717", "#4bfeb1"),
    "m14": ("#40143d", "#f284ea"),
}
# how a region of the reference is drawn: pale, for text may lie on it, with an outline to be seen
OUTLINED: dict[str, Any] = {
    "facecolor": ROLES["ref"][0],
    "edgecolor": ROLES["ref-line"][0],
    "linewidth": 0.8,
}
# the last three are stars of four, six and three points
MARKERS: tuple[Any, ...] = (
    *("o", "s", "^", "D", "v", "P", "p", "*", "d", "h", "8"),
    *((4, 1, 0), (6, 1, 0), (3, 1, 0)),
)
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (2, 1.2)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (3.5, 1.2)),
    (0, (1, 1)),
    (0, (8, 1.5)),
    (0, (4, 1, 1, 1, 1, 1)),
    (0, (8, 2, 2, 2)),
    (0, (2, 2.5)),
    (0, (10, 2, 1, 2)),
    (0, (3, 1, 1, 1)),
    (0, (1, 2.5)),
    (0, (6, 1, 2, 1, 2, 1)),
)
REWEIGHTED = 7  # markers between a row and its reweighted one


class Mark(NamedTuple):
    """How one method is drawn everywhere in the report."""

    role: str
    color: str
    marker: Any
    dash: Any


def light(role: str) -> str:
    """Return the light value of a role, in which figures are drawn."""
    return ROLES[role][0]


def slot_of(method: str) -> int | None:
    """Return the slot that a family, or the one a method reweights, requests; else None."""
    family = family_in(method)
    return FAMILIES[family].slot if family in FAMILIES else None


def family_in(method: str) -> str:
    """Return the method whose color a method has: the family that it reweights, or itself."""
    return method if method in FAMILIES else base_of(method)


def in_order(names: Iterable[str]) -> list[str]:
    """Return rows in the order of every table: families by their slots, others, NUTS last.

    Reweighted rows follow those of their family.
    """
    methods = {name: _method(name) for name in dict.fromkeys(names)}
    families = list(dict.fromkeys(map(family_in, methods.values())))

    def place(name: str) -> tuple[bool, int, int, bool]:
        method, family = methods[name], family_in(methods[name])
        slot = slot_of(method)
        last = len(MARKERS) if slot is None else slot
        return method == "nuts", last, families.index(family), method != family

    return sorted(methods, key=place)


def marks(names: Sequence[str]) -> dict[str, Mark]:
    """Assign a mark to every method.

    A family with a requested slot always has the same mark; others get the next free slot. Rows
    of several seeds (`mean_field s0`, `mean_field s1`) have the color of their method, and markers
    and dashes of their own; so have reweighted rows (`mean_field_reweighted`).
    """
    chosen: dict[str, Mark] = {}
    slots: dict[str, int] = {}
    seeds: dict[str, int] = {}
    asked = {slot for f in FAMILIES if (slot := slot_of(f)) is not None}
    taken = {slot for n in names if (slot := slot_of(_method(n))) is not None}
    # slots of absent families come last
    order = [*(i for i in range(len(MARKERS)) if i not in asked), *sorted(asked)]
    free = [i for i in order if i not in taken]
    for name in names:
        method = _method(name)
        number = seeds[method] = seeds.get(method, -1) + 1  # of the row among those of its method
        if method == "nuts":
            place = number % len(MARKERS)
            marker = MARKERS[-place] if place else "X"
            chosen[name] = Mark("nuts", light("nuts"), marker, DASHES[place])
            continue
        family = family_in(method)
        if family not in slots:
            own = slot_of(family)
            slots[family] = own if own is not None else free.pop(0) if len(free) > 1 else free[0]
        slot, apart = slots[family], REWEIGHTED if family != method else 0
        role, place = f"m{slot + 1}", (slot + apart + 3 * number) % len(MARKERS)
        chosen[name] = Mark(role, light(role), MARKERS[place], DASHES[place])
    return chosen


def _method(name: str) -> str:
    """Return the method of a row, without the seed that tells rows of one method apart."""
    return re.sub(r" s\d+$", "", name)


@contextmanager
def style() -> Iterator[None]:
    """Apply the report's matplotlib settings within the block.

    They are deterministic and disable math parsing.
    """
    import matplotlib as mpl

    muted, ink, rule = light("muted"), light("ink"), light("line")
    settings: dict[str, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": 11.0,
        "axes.labelsize": 11.0,
        "axes.titlesize": 11.5,
        "xtick.labelsize": 10.5,
        "ytick.labelsize": 10.5,
        "text.parse_math": False,
        "text.color": ink,
        "axes.labelcolor": muted,
        "axes.edgecolor": light("ref-line"),
        "axes.titlecolor": ink,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titleweight": "normal",
        "xtick.color": muted,
        "ytick.color": muted,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "grid.color": rule,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "figure.dpi": 72,
        "lines.linewidth": 1.6,
        "lines.solid_capstyle": "round",
        "lines.scale_dashes": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "posterior-zoo",
        "path.simplify": True,
        "path.simplify_threshold": 0.4,
        "axes.unicode_minus": True,
        "axes.formatter.use_mathtext": False,
        "axes.formatter.limits": (-4, 5),
    }
    with mpl.rc_context(settings):
        yield


def canvas(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Any, Any]:
    """Return a figure of a size in CSS pixels and its axes, without pyplot's global state."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    FigureCanvasSVG(figure)
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=3 / 72, h_pad=3 / 72)
    return figure, figure.subplots(rows, columns, **options)


def verdict_css() -> str:
    """Return the CSS of all roles and verdicts.

    The light values, the dark ones under a media query, and one class per verdict.
    """
    names = [f"v-{v}-{part}" for v in VERDICTS for part in Colors._fields]
    values = [c for v in VERDICTS.values() for c in zip(v.light, v.dark, strict=True)]
    pairs = [*((f"c-{r}", p) for r, p in ROLES.items()), *zip(names, values, strict=True)]
    day = ";".join(f"--{n}:{p[0]}" for n, p in pairs)
    night = ";".join(f"--{n}:{p[1]}" for n, p in pairs)
    cells = "".join(
        f".v-{v}{{--tint:var(--v-{v}-tint);--text:var(--v-{v}-text);--bar:var(--v-{v}-bar)}}"
        for v in VERDICTS
    )
    return f":root{{{day}}}@media (prefers-color-scheme:dark){{:root{{{night}}}}}{cells}"
