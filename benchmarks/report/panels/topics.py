"""Topics as figures: the `panel` of topic models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.report.panels import panel
from benchmarks.report.section import ReportSection
from benchmarks.report.theme import canvas, light, style
from zoo.models.topics._topics import align

if TYPE_CHECKING:
    from benchmarks.report.inputs import EntryReport
    from zoo.types import Data, Posterior

__all__ = ["SECTION", "draw_topics", "figures"]

DRAWS = 200  # evenly spaced draws that are aligned
CLEAR = 0.2  # largest mean Hellinger distance at which aligned topics are comparable


def figures(report: EntryReport) -> list[tuple[Any, str]]:
    """Return one figure of mean topics for the reference and one per method.

    Draws are aligned to one of them. The topics of all rows are then put into the order of the
    first row, so that columns can be compared.
    """
    rows: dict[str, tuple[Tensor, Tensor]] = {}
    if report.reference.posterior is not None and "topic" in report.reference.posterior.draws:
        rows[f"{report.reference.kind} reference"] = _flat(report.reference.posterior)
    for comparison in report.comparisons:
        if (
            "topic" in comparison.posterior.draws
            and comparison.posterior is not report.reference.posterior
        ):
            rows[comparison.posterior.method] = _flat(comparison.posterior)
    made: list[tuple[Any, str]] = []
    first: tuple[Tensor, Tensor] | None = None
    for name, (topic, mixture) in rows.items():
        found = align(topic, topic[_medoid(topic)])
        mean = found.topics.mean(0)
        share = mixture.mean(1).gather(1, found.order).mean(0)  # [topic]
        if first is None:
            first = (mean, share)
        else:
            order = align(mean[None], first[0]).order[0]
            mean, share = mean[order], share[order]
        cost = float(found.cost.mean())
        said = (
            ""
            if cost <= CLEAR
            else (
                " Such a large distance means that topics differ between draws,"
                " which blurs their mean."
            )
        )
        text = (
            f"{name}: mean topics, aligned over {len(topic)} draws (mean Hellinger distance"
            f" {cost:.2f}; 0 same, 1 disjoint).{said}"
        )
        made.append(
            (draw_topics(mean, report.data, [f"{100 * float(s):.0f} %" for s in share]), text)
        )
    return made


def draw_topics(mean: Tensor, data: Data, titles: list[str]) -> Any:
    """Draw topics `[topic, word]`: as images if the words are pixels, else as bars."""
    shape = (len(data.coords.get("image_row", ())), len(data.coords.get("image_column", ())))
    image = shape[0] * shape[1] == mean.shape[1]
    number = len(mean)
    columns = min(number, 10)
    rows = -(-number // columns)
    with style():
        figure, axes = canvas(
            max(240, 92 * columns), (104 if image else 150) * rows, rows, columns, squeeze=False
        )
        for k, axis in enumerate(axes.reshape(-1)):
            if k >= number:
                axis.set_axis_off()
                continue
            (
                _image(axis, mean[k].reshape(shape).numpy())
                if image
                else _bars(axis, mean[k].numpy(), data, named=k % columns == 0)
            )
            axis.set_title(f"{k + 1}: {titles[k]}")
    return figure


def _image(axis: Any, values: np.ndarray[Any, Any]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    scale = LinearSegmentedColormap.from_list("topic", [light("ref-soft"), light("m1")])
    axis.pcolormesh(
        values,
        cmap=scale,
        vmin=0,
        vmax=float(values.max()),
        edgecolors=light("paper"),
        linewidth=0.6,
    )
    axis.invert_yaxis()
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)


def _bars(axis: Any, values: np.ndarray[Any, Any], data: Data, *, named: bool) -> None:
    words = list(data.coords.get("word", range(len(values))))
    order = np.arange(len(values)) if len(values) <= 10 else np.argsort(-values)[:10]
    axis.barh(np.arange(len(order)), values[order], color=light("m1"), height=0.7)
    axis.set_yticks(
        np.arange(len(order)),
        [str(words[i]) for i in order] if named or len(values) > 10 else [""] * len(order),
    )
    axis.invert_yaxis()
    axis.set_xlim(0, max(0.5, float(values.max())))


def _flat(posterior: Posterior) -> tuple[Tensor, Tensor]:
    """Return at most `DRAWS` evenly spaced draws of topics and mixtures."""
    dims = len(posterior.sample_dims)
    topic, mixture = (posterior.draws[n].flatten(0, dims - 1) for n in ("topic", "mixture"))
    keep = torch.linspace(0, len(topic) - 1, min(DRAWS, len(topic))).long()
    return topic[keep].double(), mixture[keep].double()


def _medoid(topic: Tensor) -> int:
    """Return the draw whose topics are closest to those of a few others, never an outlier."""
    few = topic[:: max(1, len(topic) // 12)][:12]
    costs = torch.stack([align(few, t).cost.mean() for t in few])
    return int(costs.argmin()) * max(1, len(topic) // 12)


SECTION = ReportSection(
    name="topics",
    about="topics as pictures",
    order=85,
    tags=frozenset({"topics"}),
    html=panel(figures),
)
