"""What a metric says of itself: one frozen record, from which tables and glossary are derived."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from benchmarks.members import Members
from benchmarks.types import Score
from zoo.errors import UsageError

if TYPE_CHECKING:
    from benchmarks.metrics.components import Array, Side

__all__ = [
    "GROUP",
    "METRICS",
    "JointDistance",
    "Measure",
    "Metric",
    "component_metrics",
    "failure",
    "joint_distances_known",
    "own_columns",
]

GROUP = "posterior_zoo.metrics"  # entry points: `my_metric = "my_package.my_module:METRIC"`
FIELDS = frozenset(f.name for f in dataclasses.fields(Score))
RESERVED = FIELDS | {"entry", "method", "seed", "status", "verdict"}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What a metric and a distance have in common.

    Attributes:
        name: what it is called; the stem of its file.
        term: the head of its column.
        definition: what it is, a phrase without a full stop.
        unit: its unit.
        good: what a good value is.
        blind: what it cannot tell.
        order: where its column stands; those of ours have 10, 20, ...

    Raises:
        UsageError: a name that is no identifier, or a field that says nothing.
    """

    name: str
    term: str
    definition: str
    unit: str
    good: str
    blind: str
    order: float = 1000.0

    def __post_init__(self) -> None:
        """Refuse a record that would fail later and elsewhere."""
        if not self.name.isidentifier():
            raise UsageError(
                f"A metric is called {self.name!r}; accepted: letters, digits and _, such as"
                " my_metric."
            )
        empty = [
            n
            for n in ("term", "definition", "unit", "good", "blind")
            if not getattr(self, n).strip()
        ]
        if empty:
            raise UsageError(
                f"The metric {self.name!r} says nothing in {', '.join(empty)}; write a few words"
                " in each."
            )


@dataclass(frozen=True, kw_only=True)
class Metric(Measure):
    """A metric of one component at a time.

    A file in `benchmarks/metrics/marginal/`, or a plug-in, registers itself by one record.

    Attributes:
        columns: names of its values in files; `x_se` is the standard error of `x`.
        compute: `(method, reference) -> {column: [component]}` on two sides, errors in reference
            sds; metrics of ours may return more fields of `Score`, which the verdict needs.
        signed: whether a positive value is written with its sign.
        percent: whether a share is shown as a percentage.

    Raises:
        UsageError: no column, a column that is no identifier, or an error without its value.
    """

    columns: tuple[str, ...]
    compute: Callable[[Side, Side], Mapping[str, Array]]
    signed: bool = False
    percent: bool = False

    def __post_init__(self) -> None:
        """Refuse columns that no table could hold."""
        super().__post_init__()
        if (
            not self.columns
            or not all(c.isidentifier() for c in self.columns)
            or len(set(self.columns)) < len(self.columns)
        ):
            raise UsageError(
                f"The metric {self.name!r} has columns {self.columns}; accepted: different names"
                " of letters, digits and _."
            )
        alone = [
            c
            for c in self.columns
            if c.endswith("_se") and c.removesuffix("_se") not in self.columns
        ]
        if alone:
            raise UsageError(
                f"The metric {self.name!r} has {alone[0]!r} without"
                f" {alone[0].removesuffix('_se')!r}; name the value too."
            )

    @property
    def values(self) -> tuple[str, ...]:
        """The columns that are no standard errors."""
        return tuple(c for c in self.columns if not c.endswith("_se"))


@dataclass(frozen=True, kw_only=True)
class JointDistance(Measure):
    """A distance between all judged components jointly.

    A file in `benchmarks/metrics/joint/`, or a plug-in, registers itself by one record.

    Attributes:
        measure: `(first, second, seed) -> (value, standard error or None)` on two sets of draws
            `[draw, component]` of equal size; its noise floor is the same between two halves of
            the reference's chains.
        line: `(value, se, floor, floor_se) -> line` above which it is a finding. Only distances
            of ours have one, so that a verdict means the same everywhere.
    """

    measure: Callable[[Array, Array, int], tuple[float, float | None]]
    line: Callable[[float, float, float, float], float] | None = None


METRICS: Members[Measure] = Members(
    Measure,
    noun="metric",
    group=GROUP,
    folders=("metrics.marginal", "metrics.joint"),
    attribute="METRIC",
    accepted="Metric or JointDistance",
)
M = TypeVar("M", bound=Measure)


def _of(kind: type[M]) -> list[M]:
    return sorted(
        (m for m in METRICS.usable()[0] if isinstance(m, kind)),
        key=lambda m: (m.name in METRICS.plugins, m.order, m.name),
    )


def component_metrics() -> tuple[list[Metric], list[str]]:
    """Return the metrics of components, ours first, and a sentence for each unusable plug-in."""
    found, broken, taken = [], list(METRICS.usable()[1]), set(RESERVED)
    for metric in _of(Metric):
        if metric.name in METRICS.plugins:
            twice = [c for c in metric.columns if c in taken]
            if twice:
                broken.append(
                    f"The metric {metric.name!r} has the column {twice[0]!r}, which is taken; give"
                    " it another name."
                )
                continue
            taken |= set(metric.columns)
        found.append(metric)
    return found, broken


def joint_distances_known() -> tuple[list[JointDistance], list[str]]:
    """Return the joint distances, ours first, and a sentence for each unusable plug-in."""
    found, broken = [], []
    for distance in _of(JointDistance):
        if distance.name in METRICS.plugins and distance.line is not None:
            broken.append(
                f"The distance {distance.name!r} has a line; only distances of ours decide a"
                " verdict: leave line out."
            )
        else:
            found.append(distance)
    return found, broken


def own_columns() -> tuple[str, ...]:
    """Return the columns of our metrics in the order of the files."""
    return tuple(
        c for m in component_metrics()[0] if m.name not in METRICS.plugins for c in m.columns
    )


def failure(noun: str, name: str, error: Exception) -> str:
    """Return the note on a plug-in that failed on these draws."""
    line = (str(error).splitlines() or [""])[0]
    return f"The {noun} {name} is left out, it failed: {type(error).__name__}: {line}"
