"""What a cell says is what its sentence says, and a width counts as much as a mean."""

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
from matplotlib.text import Text

from benchmarks.comparison.verdict import decide
from benchmarks.report.figures_cost import LINE, _word, cost_points
from benchmarks.report.figures_cost import cost as draw_costs
from benchmarks.report.theme import marks
from benchmarks.report.words import headline
from benchmarks.types import Score


def score(**fields):
    base = {
        "quantity": "x",
        "index": (),
        "label": "x",
        "mean_error": 0.0,
        "mean_error_se": 0.01,
        "sd_ratio": 1.0,
        "sd_ratio_se": 0.01,
        "wasserstein": 0.0,
        "q05_error": 0.0,
        "q50_error": 0.0,
        "q95_error": 0.0,
        "coverage50": 0.5,
        "coverage90": 0.9,
        "coverage50_se": 0.01,
        "coverage90_se": 0.01,
    }
    return Score(**{**base, **fields})


@dataclasses.dataclass
class Shown:
    verdict: str
    reasons: tuple
    scores: tuple
    status: str = "ok"
    mcmc: object = None
    pareto_k: object = None
    trust: tuple = ()
    correlations: dict = dataclasses.field(default_factory=dict)
    distances: tuple = ()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"coverage50": 0.78, "aligned50": 0.78, "coverage90": 0.88}, "50 % cover 78 %"),
        ({"coverage90": 0.81, "aligned90": 0.81}, "90 % cover 81 %"),
        (
            {"sd_ratio": 0.9, "mean_error": 0.2, "coverage90": 0.7, "aligned90": 0.75},
            "90 % cover 75 % aligned",
        ),
    ],
)
def test_the_cell_names_the_interval_of_its_sentence(fields, words):
    found = score(**fields)
    verdict, reasons = decide([found])
    assert verdict == "wrong_shape"
    label, text = headline(Shown(verdict, reasons, (found,)))
    assert (label, text) == ("x", words)
    number = words.split()[3]
    assert f"holds {number}" in reasons[0].sentence


def test_a_width_lies_as_high_as_a_mean_in_the_picture_of_costs():
    """Too narrow by a factor 0.32 was drawn among the noise."""
    shown = Shown("too_narrow", (), (score(sd_ratio=0.32, sd_ratio_se=0.01, mean_error=0.02),))
    cost = dataclasses.make_dataclass("Cost", ["gradient_evaluations", "seconds"])(100, 1.0)
    shown.posterior = dataclasses.make_dataclass("Draws", ["cost"])(cost)
    view = dataclasses.make_dataclass("View", ["by_name"])({"mean_field": shown})
    (x, y, se) = cost_points(view, "gradients")["mean_field"]
    assert (x, y) == (100.0, pytest.approx(1.139, abs=0.001))
    assert se == pytest.approx(0.01 / 0.32)


def test_a_point_tells_what_its_height_does_not_show():
    """A fit that is wrong in a correlation alone lies below the line of 0.15."""
    shown = {"mean_field": Shown("wrong_shape", (), ()), "full_rank": Shown("agrees", (), ())}
    view = dataclasses.make_dataclass("View", ["by_name"])(shown)
    words = [_word(view, "mean_field", set()), _word(view, "full_rank", {"full_rank"})]
    assert words == ["mean_field, shape", "full_rank, eager"]
    assert _word(view, "mean_field", {"mean_field"}) == "mean_field, eager, shape"


@pytest.mark.parametrize("number", [8, 9, 14])
def test_labels_of_many_points_stand_in_a_column_and_do_not_touch(number):
    names = [f"family_{i}" for i in range(number)]
    shown = {}
    for i, name in enumerate(names):
        one = Shown("agrees", (), (score(mean_error=0.2 + 0.001 * i, sd_ratio=1.0),))
        cost = SimpleNamespace(gradient_evaluations=1000 + i, seconds=1.0)
        one.posterior = SimpleNamespace(cost=cost)
        shown[name] = one
    view = SimpleNamespace(
        by_name=shown, marks=marks(names), report=SimpleNamespace(summaries=lambda: {})
    )
    figure = draw_costs(view, "gradients")
    figure.canvas.draw()
    (axis,) = figure.axes
    labels = {  # without their lines
        t.get_text(): Text.get_window_extent(t) for t in axis.texts if "family" in t.get_text()
    }
    assert sorted(labels) == sorted(names)
    boxes = sorted(labels.values(), key=lambda box: box.y0)
    assert all(a.y0 + 0.8 * a.height <= b.y0 for a, b in itertools.pairwise(boxes))
    steps = [b.y0 - a.y0 for a, b in itertools.pairwise(boxes)]
    assert min(steps) > 0.97 * LINE * figure.dpi / 72  # the axes are as tall as the column
    ends = {round(box.x1) for box in boxes}
    assert (len(ends) == 1) == (number > 8)  # right edges of a column
    inside = axis.get_window_extent()
    assert all(inside.y0 <= box.y0 and box.y1 <= inside.y1 for box in boxes)
