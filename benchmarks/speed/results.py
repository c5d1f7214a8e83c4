"""Ratios from times, and bars from ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Bar", "Ratio", "bars", "ratios", "speeds"]

# seconds per eager SVI step; below it the time goes to handlers, not to arithmetic
EAGER_LIMIT = 3e-3
NUTS_BARS = {"pyro": 20.0, "numpyro": 4.0, "stan": 1.5, "pymc": 1.0}


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Speed of this project over a peer's for one measure of one entry.

    Median, smallest and largest over the pairs.
    """

    target: str
    measure: str
    peer: str
    median: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar: the requirement, the measurement, and whether it is met.

    None if it was not measured in this run.
    """

    name: str
    asked: str
    measured: str
    met: bool | None


def speeds(side: Mapping[str, Any], measure: str) -> list[float]:
    """Return work per second for each pair: steps, gradients, points, effective draws."""
    if measure == "nuts":
        return [
            row["ess_per_second"] if row["ess_per_second"] is not None else math.nan
            for row in side.get("nuts", ())
        ]
    if measure == "nuts_gradient":
        return [
            1 / row["seconds_per_gradient"]
            for row in side.get("nuts", ())
            if row["seconds_per_gradient"]
        ]
    return [1 / row["seconds"] for row in side.get("measures", {}).get(measure, ())]


def pair_ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratios of speeds pair by pair.

    Pairs without a figure on one side, or without usable draws of the peer, are omitted.
    """
    return [
        a / b
        for a, b in zip(ours, theirs, strict=False)
        if math.isfinite(a) and math.isfinite(b) and b > 0
    ]


def ratios(document: Mapping[str, Any], measures: Sequence[str]) -> list[Ratio]:
    """Return every ratio of a run, ordered by entry, measure, peer."""
    out = []
    for name, target in document["targets"].items():
        ours = target["sides"].get("ours", {})
        for measure in measures:
            for peer, side in target["sides"].items():
                values = (
                    []
                    if peer == "ours"
                    else pair_ratios(speeds(ours, measure), speeds(side, measure))
                )
                if values:
                    out.append(
                        Ratio(
                            target=name,
                            measure=measure,
                            peer=peer,
                            median=statistics.median(values),
                            low=min(values),
                            high=max(values),
                            pairs=len(values),
                        )
                    )
    return out


def bars(document: Mapping[str, Any]) -> list[Bar]:
    """Return every bar with what this run measured."""
    found = ratios(document, ("svi_mean_field", "svi_full_rank", "nuts", "nuts_gradient"))
    return [
        *_svi_bars(document, found),
        *_nuts_bars(found),
        *_command_bars(document),
        *_growth_bars(document),
    ]


def _svi_bars(document: Mapping[str, Any], found: Sequence[Ratio]) -> list[Bar]:
    out, unmeasured = (
        [],
        Bar(
            name="SVI steps/s over NumPyro",
            asked="median >= 2x, never < 1x",
            measured="not measured",
            met=None,
        ),
    )
    stock = [r for r in found if r.peer == "pyro" and r.measure.startswith("svi")]
    fast = [r for r in stock if 1 / _median_speed(document, r) < EAGER_LIMIT]
    for name, asked, rows in (
        ("SVI steps/s over stock Pyro, eager step < 3 ms", 20.0, fast),
        (
            "SVI steps/s over stock Pyro, eager step >= 3 ms",
            3.0,
            [r for r in stock if r not in fast],
        ),
    ):
        worst = min(rows, key=lambda r: r.median, default=None)
        text = "no such entry"
        if worst is not None:
            middle = statistics.median(r.median for r in rows)
            text = (
                f"median {middle:.1f}x of {len(rows)}, worst {worst.median:.1f}x ({worst.target},"
                f" {_family(worst)})"
            )
        out.append(
            Bar(
                name=name,
                asked=f">= {asked:g}x each",
                measured=text,
                met=None if worst is None else worst.median >= asked,
            )
        )
    jax = [r for r in found if r.peer == "numpyro" and r.measure.startswith("svi")]
    out.append(
        _median_bar(unmeasured.name, unmeasured.asked, jax, 2.0, 1.0) if jax else unmeasured
    )
    return out


def _family(ratio: Ratio) -> str:
    return ratio.measure.removeprefix("svi_").replace("_", " ")


def _median_speed(document: Mapping[str, Any], ratio: Ratio) -> float:
    return statistics.median(
        speeds(document["targets"][ratio.target]["sides"][ratio.peer], ratio.measure)
    )


def _median_bar(name: str, asked: str, rows: Sequence[Ratio], middle: float, least: float) -> Bar:
    median, worst = statistics.median(r.median for r in rows), min(rows, key=lambda r: r.median)
    text = f"median {median:.2g}x of {len(rows)}, worst {worst.median:.2g}x ({worst.target})"
    return Bar(
        name=name, asked=asked, measured=text, met=median >= middle and worst.median >= least
    )


def _nuts_bars(found: Sequence[Ratio]) -> list[Bar]:
    out = []
    for peer, middle in NUTS_BARS.items():
        rows = [r for r in found if r.peer == peer and r.measure == "nuts"]
        name, asked = (
            f"NUTS minimum bulk ESS/s over {peer}",
            f"median >= {middle:g}x, never < 0.7x",
        )
        out.append(
            _median_bar(name, asked, rows, middle, 0.7)
            if rows
            else Bar(name=name, asked=asked, measured="not measured", met=None)
        )
    rows = [r for r in found if r.peer == "stan" and r.measure == "nuts_gradient"]
    over = [1 / r.median for r in rows]
    text = (
        f"median {statistics.median(over):.2f}, worst {max(over):.2f}" if over else "not measured"
    )
    met = statistics.median(over) <= 1.5 if over else None
    out.append(
        Bar(
            name="time per gradient within NUTS over Stan's",
            asked="median <= 1.5",
            measured=text,
            met=met,
        )
    )
    return out


def _command_bars(document: Mapping[str, Any]) -> list[Bar]:
    done = document.get("commands", {})
    limits = (
        ("zoo compare eight_schools, empty cache", "compare_cold", 60.0),
        ("zoo compare eight_schools, warm", "compare_warm", 15.0),
        ("make report, empty cache", "report_cold", 180.0),
        ("make report, warm", "report_warm", 180.0),
    )
    gain = done.get("chains_gain")
    chains = Bar(
        name="four chains on two cores over one chain",
        asked=">= 1.8x throughput",
        measured="not measured" if gain is None else f"{gain:.2f}x",
        met=None if gain is None else gain >= 1.8,
    )
    return [chains] + [
        Bar(
            name=name,
            asked=f"<= {limit:g} s",
            measured=_seconds(done, key),
            met=done[key] <= limit if key in done else None,
        )
        for name, key, limit in limits
    ]


def _seconds(done: Mapping[str, float], key: str) -> str:
    """Return the seconds of a command; warm ones include the second run, which still compiled."""
    if key not in done:
        return "not measured"
    second = done.get(key.replace("_warm", "_second")) if key.endswith("_warm") else None
    return f"{done[key]:.1f} s" + ("" if second is None else f" (second run {second:.1f} s)")


def _growth_bars(document: Mapping[str, Any]) -> list[Bar]:
    rows = document.get("growth", ())
    gradient = [(r["rows"], r["gradient"]) for r in rows if "gradient" in r]
    steps = [r["svi_mean_field"] for r in rows if "svi_mean_field" in r]
    first = Bar(
        name="growth of the gradient with the rows",
        asked="linear: exponent <= 1.1",
        measured="not measured",
        met=None,
    )
    second = Bar(
        name="growth of a minibatch SVI step",
        asked="none: largest over smallest <= 1.3",
        measured="not measured",
        met=None,
    )
    if len(gradient) > 1:
        (n, a), (m, b) = gradient[-2:]
        power = math.log(b / a) / math.log(m / n)
        first = Bar(
            name=first.name,
            asked=first.asked,
            measured=f"exponent {power:.2f} from {n:,} to {m:,} rows",
            met=power <= 1.1,
        )
    if len(steps) > 1:
        spread = max(steps) / min(steps)
        second = Bar(
            name=second.name, asked=second.asked, measured=f"{spread:.2f}", met=spread <= 1.3
        )
    return [first, second]
