"""Where the figures of the posterior stand beside and below the forest plot, by its height."""

import pytest

from benchmarks.report.sections import draws


class Empty:
    names, marks, shown, report = (), {}, (), None


@pytest.fixture
def laid(monkeypatch):
    """Lay out figures that are numbers; return those beside, under and below the forest plot."""
    monkeypatch.setattr(draws, "fragment", lambda name, **parts: parts)
    monkeypatch.setattr(draws, "reference_words", lambda report: "words")

    def lay(height, number):
        wide = None if height is None else {"height": height / 1.3}
        monkeypatch.setattr(draws, "_forest", lambda view: wide)
        monkeypatch.setattr(draws, "_where", lambda view: list(range(number)))
        found = draws.html(Empty())
        return found and [found[name] for name in ("beside", "under", "below")]

    return lay


@pytest.mark.parametrize(
    ("height", "number", "beside", "under", "below"),
    [
        (480, 1, [0], [], []),
        (480, 2, [0, 1], [], []),  # a single one that remains joins those beside it
        (480, 3, [0], [], [1, 2]),
        (480 + 164, 3, [0], [], [1, 2]),
        (480 + 166, 3, [0, 1, 2], [], []),  # half of the height of a figure more: room for two
        (480 + 166, 4, [0, 1], [], [2, 3]),
        (480 + 330 + 166, 5, [0, 1, 2], [], [3, 4]),
        (480 - 164, 3, [0], [], [1, 2]),
        (480 - 166, 4, [0], [1], [2, 3]),  # as much less: room for one below it
        (480 - 166, 3, [0, 2], [1], []),
        (480 - 166, 2, [0], [1], []),
        (480, 0, [], [], []),
        (None, 1, [], [], [0]),
        (None, 3, [], [], [0, 1, 2]),
    ],
)
def test_figures_fill_the_room_that_the_forest_plot_leaves(
    laid, height, number, beside, under, below
):
    assert laid(height, number) == [beside, under, below]


def test_without_any_figure_there_is_no_section(laid):
    assert laid(None, 0) is None
