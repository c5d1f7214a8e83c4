"""The picture of the packages, drawn from the imports, and the table of their purposes.

`make pictures` writes `docs/images/architecture.svg` and the table in `docs/architecture.md`; a
test compares both with the sources. Imports inside functions count. Within `zoo`, `guides` or
`benchmarks` an arrow is omitted if a chain of others implies it.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from site_tools import pictures as p
from site_tools.pages import DOCS, ROOT

__all__ = ["PAGE", "PICTURE", "draw", "graph", "with_table"]

ROOMS = ("benchmarks", "guides", "zoo")
PICTURE, PAGE = DOCS / "images" / "architecture.svg", DOCS / "architecture.md"
BEGIN, END = "<!-- packages:begin -->", "<!-- packages:end -->"
Graph = dict[str, set[str]]


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(tree: ast.AST) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def members(room: str) -> dict[str, Path]:
    """Return the packages and modules of a room: name -> file with the docstring."""
    found = {f"{room}.{path.parent.name}": path for path in (ROOT / room).glob("*/__init__.py")}
    found |= {
        f"{room}.{path.stem}": path
        for path in (ROOT / room).glob("*.py")
        if path.stem not in ("__init__", "__main__")
    }
    return dict(sorted(found.items()))


def graph() -> Graph:
    """Return the members that each member imports, as `zoo.density -> {zoo.compiler, ...}`.

    Imports from other packages are included.
    """
    files = [
        path
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if path.stem != "__main__"
    ]
    edges: Graph = {name: set() for room in ROOMS for name in members(room)}
    for path in files:
        own = ".".join(_module(path).split(".")[:2])
        if own not in edges:
            continue  # the package of a room itself offers names of all its members
        for name in _imported(ast.parse(path.read_text(encoding="utf-8"))):
            used = ".".join(name.split(".")[:2])
            if used in edges and used != own:
                edges[own].add(used)
    return edges


def _reduced(edges: Mapping[str, set[str]]) -> Graph:
    """Return the graph without arrows that a chain of others implies."""
    below: Graph = {}

    def reach(node: str) -> set[str]:
        if node not in below:
            below[node] = set().union(*({t} | reach(t) for t in edges[node]))
        return below[node]

    return {
        n: {t for t in out if not any(t in reach(other) for other in out - {t})}
        for n, out in edges.items()
    }


@dataclass
class _Layout:
    """Members of a room in rows, with bends where an arrow passes a row.

    `places` are the centers of boxes.
    """

    edges: Graph
    rows: list[list[str]] = field(default_factory=list)
    chains: list[list[str]] = field(default_factory=list)
    places: dict[str, float] = field(default_factory=dict)

    def width(self, node: str) -> float:
        """Return the width of a box, or of the lane of a passing arrow."""
        return 12.0 if node.startswith("|") else 6.5 * len(node) + 16


def _levels(edges: Graph) -> dict[str, int]:
    """Return the row of each member, 0 lowest.

    It is as low as its imports allow, but close to its users if it has more of them.
    """
    level: dict[str, int] = {}

    def depth(node: str) -> int:
        if node not in level:
            level[node] = 1 + max((depth(t) for t in edges[node]), default=-1)
        return level[node]

    users = {n: [m for m in edges if n in edges[m]] for n in edges}
    for node in sorted(edges, key=lambda n: (-depth(n), n)):
        if len(users[node]) > len(edges[node]):
            level[node] = min(level[m] for m in users[node]) - 1
    return level


def _laid_out(edges: Graph, width: float) -> _Layout:
    out, level = _Layout(edges), _levels(edges)
    out.rows = [
        sorted(n for n in edges if level[n] == row) for row in range(max(level.values()), -1, -1)
    ]
    top = max(level.values())
    for node in sorted(edges):
        for target in sorted(edges[node]):
            bends = [
                f"|{node}>{target}@{row}" for row in range(level[node] - 1, level[target], -1)
            ]
            for bend in bends:
                out.rows[top - int(bend.rpartition("@")[2])].append(bend)
            out.chains.append([node, *bends, target])
    links = [(a, b) for chain in out.chains for a, b in pairwise(chain)]
    near = {
        n: [b for a, b in links if a == n] + [a for a, b in links if b == n]
        for row in out.rows
        for n in row
    }
    best, fewest = [list(row) for row in out.rows], _crossings(out.rows, links)
    for sweep in range(24):
        order = range(len(out.rows)) if sweep % 2 == 0 else range(len(out.rows) - 1, -1, -1)
        for i in order:
            at = {
                n: k / max(1, len(row) - 1) if len(row) > 1 else 0.5
                for row in out.rows
                for k, n in enumerate(row)
            }
            beside = set(
                out.rows[i - 1]
                if sweep % 2 == 0 and i
                else out.rows[i + 1]
                if sweep % 2 and i + 1 < len(out.rows)
                else ()
            )
            middle = {n: [at[m] for m in near[n] if m in beside] or [at[n]] for n in out.rows[i]}
            out.rows[i].sort(key=lambda n: sum(middle[n]) / len(middle[n]))
        crossed = _crossings(out.rows, links)
        if crossed < fewest:
            best, fewest = [list(row) for row in out.rows], crossed
    out.rows = best
    _place(out, near, width)
    return out


def _crossings(rows: list[list[str]], links: list[tuple[str, str]]) -> int:
    at = {n: (i, k) for i, row in enumerate(rows) for k, n in enumerate(row)}
    number = 0
    for i in range(len(rows)):
        ends = sorted((at[a][1], at[b][1]) for a, b in links if at[a][0] == i)
        number += sum(
            x[0] < y[0] and x[1] > y[1] for k, x in enumerate(ends) for y in ends[k + 1 :]
        )
    return number


def _place(out: _Layout, near: Mapping[str, list[str]], width: float) -> None:
    """Move every box toward its neighbors, as far as its row allows."""
    gap = 9.0
    for row in out.rows:
        taken = sum(map(out.width, row)) + gap * (len(row) - 1)
        x = (width - taken) / 2
        for node in row:
            out.places[node] = x + out.width(node) / 2
            x += out.width(node) + gap
    for sweep in range(60):
        for row in out.rows if sweep % 2 else out.rows[::-1]:
            wanted = [
                sum(out.places[m] for m in near[n]) / len(near[n]) if near[n] else width / 2
                for n in row
            ]
            apart = [(out.width(a) + out.width(b)) / 2 + gap for a, b in pairwise(row)]
            right, left = list(wanted), list(wanted)
            for i, distance in enumerate(apart):
                right[i + 1] = max(right[i + 1], right[i] + distance)
            for i in range(len(apart) - 1, -1, -1):
                left[i] = min(left[i], left[i + 1] - apart[i])
            found = [(a + b) / 2 for a, b in zip(right, left, strict=True)]
            low = min(x - out.width(n) / 2 for x, n in zip(found, row, strict=True)) - gap
            high = max(x + out.width(n) / 2 for x, n in zip(found, row, strict=True)) - width + gap
            shift = -low if low < 0 else -high if high > 0 else 0.0
            out.places.update(zip(row, (x + shift for x in found), strict=True))
    ends = [(x - out.width(n) / 2, x + out.width(n) / 2) for n, x in out.places.items()]
    middle = (min(a for a, _ in ends) + max(b for _, b in ends)) / 2
    out.places = {n: x + width / 2 - middle for n, x in out.places.items()}


ROW, BOX, PANEL, LEFT = 41.0, 24.0, 350.0, 0.0


def about(path: Path) -> str:
    """Return the first sentence of the docstring of a member."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", first)[0]


def draw() -> str:
    """Return the picture of the current imports as SVG."""
    edges, parts, y, ends = graph(), [], 4.0, {}
    for room in ROOMS:
        own = {
            n.partition(".")[2]: {t.partition(".")[2] for t in out if t.startswith(f"{room}.")}
            for n, out in edges.items()
            if n.startswith(f"{room}.")
        }
        head = p.wrapped(about(ROOT / room / "__init__.py"), 58)
        layout = _laid_out(_reduced(own), PANEL)
        top = y + 34 + 14 * len(head)
        height = top - y + ROW * (len(layout.rows) - 1) + BOX + 14
        parts += [p.panel(LEFT, y, PANEL, height), p.text(LEFT + 12, y + 21, room, "head")]
        parts += [p.text(LEFT + 12, y + 38 + 14 * i, line, "soft") for i, line in enumerate(head)]
        parts += _room(room, layout, top)
        ends[room] = (y, y + height)
        y += height + 26
    for upper, lower in pairwise(ROOMS):
        if any(
            t.startswith(f"{lower}.")
            for n, out in edges.items()
            if n.startswith(f"{upper}.")
            for t in out
        ):
            parts.append(
                p.arrow([(LEFT + PANEL / 2, ends[upper][1]), (LEFT + PANEL / 2, ends[lower][0])])
            )
            parts.append(p.text(LEFT + PANEL / 2 + 8, ends[upper][1] + 17, "imports", "soft"))
    start, end = ends[ROOMS[0]][0] + 20, ends[ROOMS[-1]][0] + 20
    parts.append(
        p.arrow(
            [
                (LEFT + PANEL, start),
                (LEFT + PANEL + 11, start),
                (LEFT + PANEL + 11, end),
                (LEFT + PANEL, end),
            ],
            straight=True,
        )
    )
    y -= 8
    parts.append(p.box(LEFT + 8, y - 11, 58, 17, ["package"]))
    parts.append(p.box(LEFT + 74, y - 11, 54, 17, ["module"], kind="module"))
    parts.append(p.text(LEFT + 138, y + 2, "arrows: imports; implied ones left out", "soft"))
    return p.document(
        parts,
        y + 14,
        "Rooms and packages of the posterior zoo with their imports, drawn from the sources.",
    )


def _room(room: str, layout: _Layout, top: float) -> list[str]:
    heights = {node: top + ROW * i for i, row in enumerate(layout.rows) for node in row}
    files, parts = members(room), []
    for chain in layout.chains:
        points = [(LEFT + layout.places[chain[0]], heights[chain[0]] + BOX)]
        for bend in chain[1:-1]:
            points += [
                (LEFT + layout.places[bend], heights[bend]),
                (LEFT + layout.places[bend], heights[bend] + BOX),
            ]
        parts.append(p.arrow([*points, (LEFT + layout.places[chain[-1]], heights[chain[-1]])]))
    for node in (n for row in layout.rows for n in row if not n.startswith("|")):
        path, width = files[f"{room}.{node}"], layout.width(node)
        kind = "" if path.name == "__init__.py" else "module"
        where = (LEFT + layout.places[node] - width / 2, heights[node])
        parts.append(p.box(*where, width, BOX, [node], kind=kind, about=about(path)))
    return parts


def table() -> str:
    """Return the Markdown tables of packages and members, from their docstrings."""
    parts = []
    for room in ROOMS:
        parts += [
            f"### {room}",
            "",
            textwrap.fill(about(ROOT / room / "__init__.py"), 98),
            "",
            "| | what it holds |",
            "|---|---|",
        ]
        rows = sorted(members(room).items(), key=lambda item: item[1].name != "__init__.py")
        parts += [
            f"| `{name}` | {about(path).replace('|', chr(92) + '|')} |" for name, path in rows
        ]
        parts.append("")
    return "\n".join(parts)


def with_table(text: str) -> str:
    """Return the text of the page with the current table between its marks."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PICTURE, PAGE)
