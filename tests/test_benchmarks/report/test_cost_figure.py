"""The figure of error against cost: the ranges of its axes and their ticks."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.report import figures_cost


class Axis:
    """An axis that keeps its ticks."""

    def set_xticks(self, ticks, labels=None, minor=False):
        if not minor:
            self.x = dict(zip(labels, ticks, strict=True))

    set_yticks = set_xticks


@pytest.mark.parametrize(
    ("limits", "labels"),
    [
        ((1, 2.2), ["1", "1.5", "2"]),
        ((0.09, 0.31), ["0.1", "0.15", "0.2", "0.3"]),
        ((1, 25), ["1", "3", "10"]),
        ((1, 11), ["1", "2", "5", "10"]),
        ((90, 40_000), ["100", "1k", "10k"]),
        ((1, 1e5), ["1", "10", "100", "1k", "10k", "100k"]),
        ((1, 1e6), ["1", "100", "10k", "1M"]),  # of more than six every second
    ],
)
def test_ticks_are_decades_with_what_has_room_between_them(limits, labels):
    axis = Axis()
    figures_cost.log_axis(axis, limits, None)
    assert list(axis.x) == labels


def score(value, se=0.01):
    return SimpleNamespace(
        judged=True, mean_error=value, mean_error_se=se, log_sd_ratio=0.0, log_sd_ratio_se=se
    )


def limits_of(monkeypatch, **methods):
    """Return the limits of both axes, of methods with `(gradients, error)`."""
    seen = {}
    axis = SimpleNamespace(
        **{
            name: lambda *given, **options: None
            for name in ("axhspan", "annotate", "axhline", "plot", "grid")
        },
        set=lambda **given: seen.update(given),
    )
    monkeypatch.setattr(figures_cost, "canvas", lambda *size: (seen.update(size=size), axis))
    monkeypatch.setattr(figures_cost, "log_axis", lambda *given: None)
    for name in ("_direct_labels", "_labels_in_a_column"):
        monkeypatch.setattr(figures_cost, name, lambda *given, name=name: seen.update(labels=name))
    comparisons = {
        name: SimpleNamespace(
            posterior=SimpleNamespace(
                cost=SimpleNamespace(gradient_evaluations=gradients, seconds=1.0)
            ),
            scores=[score(error)],
            verdict="agrees",
        )
        for name, (gradients, error) in methods.items()
    }
    mark = SimpleNamespace(color="black", marker="o")
    view = SimpleNamespace(by_name=comparisons, marks=dict.fromkeys(comparisons, mark))
    figures_cost.cost(view, "gradients")
    return seen


def test_the_axes_hold_all_points_with_room_for_their_labels(monkeypatch):
    seen = limits_of(monkeypatch, a=(100, 0.02), b=(10_000, 0.5))
    assert np.log10(seen["xlim"]) == pytest.approx([2 - 0.24, 4 + 0.84])
    assert seen["ylim"] == pytest.approx((0.01, 1.1))
    assert seen["labels"] == "_direct_labels"


def test_a_single_method_stands_in_a_decade_and_the_line_is_always_shown(monkeypatch):
    seen = limits_of(monkeypatch, a=(100, 0.12))
    assert np.log10(seen["xlim"]) == pytest.approx([2 - 0.12, 2 + 0.42])
    assert seen["ylim"] == pytest.approx((0.015, 0.33))  # half of the noise, 0.15 * 2.2
    tiny = limits_of(monkeypatch, a=(100, 1e-9))
    assert tiny["ylim"][0] == 1e-3


@pytest.mark.parametrize(("number", "labels"), [(8, "_direct_labels"), (9, "_labels_in_a_column")])
def test_labels_of_more_than_eight_methods_stand_in_a_column(monkeypatch, number, labels):
    seen = limits_of(monkeypatch, **{f"m{i}": (100, 0.1 + i) for i in range(number)})
    assert seen["labels"] == labels
    assert seen["size"] == ((280, 220.0) if number == 8 else (400, 220.0))
