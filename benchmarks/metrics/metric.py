"""Records of metrics: the definitions from which tables and glossary are derived."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from benchmarks.types import Score
from zoo.errors import UsageError
from zoo.fields import FLAG, FUNCTION, NAMES, NUMBER, TEXT, checked
from zoo.registry.members import Members

if TYPE_CHECKING:
    from benchmarks.metrics.components import Array, Side

__all__ = [
    "GROUP",
    "METRICS",
    "JointDistance",
    "Measure",
    "Metric",
    "component_metrics",
    "distance_columns",
    "failure",
    "joint_distances_known",
    "own_columns",
    "own_distances",
]

GROUP = "posterior_zoo.metrics"  # entry point: `my_metric = "my_package.my_module:METRIC"`
FIELDS = frozenset(f.name for f in dataclasses.fields(Score))
CELL_COLUMNS = ("entry", "method", "seed", "status", "verdict", "truth")
# figures of a whole cell, repeated in each of its rows, before and after the joint distances
BOUND = ("elbo", "elbo_se", "pareto_k")
COST = ("seconds", "compile_seconds", "gradient_evaluations")
CLOCK = ("seconds", "compile_seconds")  # differ between two runs of one command
# of a component in the units of its quantity, in the data frame of a scorecard
NATURAL = (
    "component",
    *("q05", "median", "q95"),
    *("reference_q05", "reference_median", "reference_q95"),
)
RESERVED = FIELDS | {*CELL_COLUMNS, *BOUND, *COST, *NATURAL}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Fields shared by metrics and distances.

    Attributes:
        name: its name, and the stem of its file.
        term: heading of its column.
        definition: what it measures, a phrase without a full stop.
        unit: its unit.
        good: which values are good.
        blind: what it cannot tell.
        order: position of its column; built-in metrics have 10, 20, ...

    Raises:
        UsageError: a field of a wrong type, a name that is not an identifier, or an empty field.
    """

    name: str
    term: str
    definition: str
    unit: str
    good: str
    blind: str
    order: float = 1000.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        checked(self, name=TEXT, term=TEXT, definition=TEXT, unit=TEXT, good=TEXT, blind=TEXT)
        checked(self, order=NUMBER)
        if not self.name.isidentifier():
            raise UsageError(
                f"A metric is called {self.name!r}; accepted: letters, digits and _ (my_metric)."
            )
        empty = [
            n
            for n in ("term", "definition", "unit", "good", "blind")
            if not getattr(self, n).strip()
        ]
        if empty:
            raise UsageError(
                f"The metric {self.name!r} says nothing in {', '.join(empty)}; write a few words."
            )


@dataclass(frozen=True, kw_only=True)
class Metric(Measure):
    """A metric of one component at a time.

    Registered by a record in a file of `benchmarks/metrics/marginal/`, or by a plug-in.

    Attributes:
        columns: names of its values in files; `x_se` is the standard error of `x`.
        compute: `(method, reference) -> {column: [component]}` on two sides, errors in reference
            sds; built-in metrics may return more fields of `Score`, for the verdict. Columns that
            are no fields of `Score` are stored in its `extra`.
        signed: whether a positive value is shown with its sign.
        percent: whether a fraction is shown as a percentage.

    Raises:
        UsageError: no column, a column that is not an identifier, or an error without its value.
    """

    columns: tuple[str, ...]
    compute: Callable[[Side, Side], Mapping[str, Array]]
    signed: bool = False
    percent: bool = False

    def __post_init__(self) -> None:
        """Validate the columns."""
        super().__post_init__()
        checked(self, columns=NAMES, compute=FUNCTION, signed=FLAG, percent=FLAG)
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
        """The columns that are not standard errors."""
        return tuple(c for c in self.columns if not c.endswith("_se"))


@dataclass(frozen=True, kw_only=True)
class JointDistance(Measure):
    """A distance between all judged components jointly.

    Registered by a record in a file of `benchmarks/metrics/joint/`, or by a plug-in.

    Attributes:
        measure: `(first, second, seed) -> (value, standard error or None)` on two sets of draws
            `[draw, component]` of equal size; its noise floor is the same between two halves of
            the reference's chains.
        line: `(value, se, floor, floor_se) -> threshold` above which the distance is a finding.
            Only built-in distances have one, so that a verdict means the same everywhere.
    """

    measure: Callable[[Array, Array, int], tuple[float, float | None]]
    line: Callable[[float, float, float, float], float] | None = None

    def __post_init__(self) -> None:
        """Validate the functions."""
        super().__post_init__()
        checked(self, measure=FUNCTION, line=FUNCTION | None)


METRICS: Members[Measure] = Members(
    Measure,
    noun="metric",
    group=GROUP,
    folders=("benchmarks.metrics.marginal", "benchmarks.metrics.joint"),
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
    """Return the metrics of components, built-in first, and a sentence per unusable plug-in."""
    found, broken, taken = [], list(METRICS.usable()[1]), set(RESERVED)
    taken |= {c for distance in own_distances() for c in distance_columns(distance)}
    for metric in _of(Metric):
        twice = [c for c in metric.columns if c in taken]
        if twice and metric.name in METRICS.plugins:
            broken.append(
                f"The metric {metric.name!r} has the column {twice[0]!r}, which is taken; give it"
                " another name."
            )
            continue
        taken |= set(metric.columns)
        found.append(metric)
    return found, broken


def joint_distances_known() -> tuple[list[JointDistance], list[str]]:
    """Return the joint distances, built-in first, and a sentence per unusable plug-in."""
    found, broken, taken = [], [], set(RESERVED)
    taken |= {c for metric in component_metrics()[0] for c in metric.columns}
    for distance in _of(JointDistance):
        columns = distance_columns(distance.name)
        twice = [c for c in columns if c in taken]
        if distance.name in METRICS.plugins and distance.line is not None:
            broken.append(
                f"The distance {distance.name!r} has a threshold; only built-in distances decide a"
                " verdict: leave out line."
            )
        elif distance.name in METRICS.plugins and twice:
            broken.append(
                f"The distance {distance.name!r} has the column {twice[0]!r}, which is taken; give"
                " it another name."
            )
        else:
            taken |= set(columns)
            found.append(distance)
    return found, broken


def own_columns() -> tuple[str, ...]:
    """Return the columns of the built-in metrics, in the order of the files."""
    return tuple(
        c for m in component_metrics()[0] if m.name not in METRICS.plugins for c in m.columns
    )


def own_distances() -> tuple[str, ...]:
    """Return the names of the built-in joint distances, in the order of the files."""
    return tuple(d.name for d in _of(JointDistance) if d.name not in METRICS.plugins)


def distance_columns(name: str) -> tuple[str, str, str]:
    """Return the columns of a joint distance: value, standard error and noise floor."""
    return name, f"{name}_se", f"{name}_floor"


def failure(noun: str, name: str, error: Exception) -> str:
    """Return the note on a plug-in that raised an error on these draws."""
    line = (str(error).splitlines() or [""])[0]
    return f"The {noun} {name} is left out, it failed: {type(error).__name__}: {line}"
