"""Figures of a run: ratios with the bars, and growth with the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.speed.results import NUTS_BARS, ratios

__all__ = ["draw"]

PANELS = (
    ("svi_mean_field", "SVI steps/s, mean field", {"pyro": 20.0, "numpyro": 2.0}),
    ("nuts", "NUTS smallest bulk ESS/s", NUTS_BARS),
)
MARKS = {
    "pyro": ("o", "#0072b2"),
    "numpyro": ("s", "#d55e00"),
    "stan": ("^", "#009e73"),
    "pymc": ("D", "#cc79a7"),
}


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Write the figures as SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    names = list(document["targets"])
    found = ratios(document, [p[0] for p in PANELS])
    for axis, (measure, title, asked) in zip(axes, PANELS, strict=False):
        for shift, (peer, (mark, color)) in enumerate(MARKS.items()):
            rows = [r for r in found if r.measure == measure and r.peer == peer]
            if not rows:
                continue
            y = [names.index(r.target) + 0.12 * (shift - 1.5) for r in rows]
            spread = [[r.median - r.low for r in rows], [r.high - r.median for r in rows]]
            axis.errorbar(
                [r.median for r in rows],
                y,
                xerr=spread,
                fmt=mark,
                color=color,
                markersize=5,
                label=peer,
            )
            axis.axvline(asked[peer], color=color, linestyle=":", linewidth=1)
        axis.axvline(1.0, color="0.5", linewidth=1)
        axis.set(
            xscale="log",
            title=title,
            xlabel="our speed over theirs (dotted: the bar)",
            yticks=range(len(names)),
            yticklabels=names,
        )
        axis.invert_yaxis()
        # below the axes, since points lie everywhere
        axis.legend(
            fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncol=4, frameon=False
        )
    for key, label, mark in (
        ("gradient", "gradient on all rows", "o-"),
        ("svi_mean_field", "SVI step on 100 rows", "s-"),
    ):
        rows_ = [(r["rows"], 1e6 * r[key]) for r in document.get("growth", ()) if key in r]
        if rows_:
            axes[2].plot(*zip(*rows_, strict=True), mark, label=label)
    axes[2].set(
        xscale="log",
        yscale="log",
        title="Growth with the data",
        xlabel="rows",
        ylabel="microseconds",
    )
    if document.get("growth"):
        axes[2].legend(fontsize=8)
    figure.savefig(path)
    plt.close(figure)
