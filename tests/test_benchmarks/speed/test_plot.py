"""The figure of a run, read back as points, lines and labels."""

import pytest
from matplotlib.figure import Figure

from benchmarks.speed.plot import draw


@pytest.fixture
def shown(monkeypatch):
    """Draw a document and return its axes."""
    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: kept.append((path, figure)))

    def show(document, path):
        draw(document, path)
        assert kept[-1][0] == path
        return kept[-1][1].axes

    return show


def side(seconds=(), ess=()):
    return {
        "measures": {"svi_mean_field": [{"seconds": s} for s in seconds]},
        "nuts": [{"ess_per_second": e} for e in ess],
    }


DOCUMENT = {
    "targets": {
        "linear": {"sides": {"ours": side([1.0, 1.0, 1.0], [12.0]), "pyro": side([2, 8, 4], [4])}},
        "radon": {
            "sides": {"ours": side([1.0], [9.0]), "pyro": side([3.0]), "stan": side((), [3])}
        },
    },
    "growth": [
        {"rows": 10, "gradient": 1e-6, "svi_mean_field": 5e-6},
        {"rows": 100, "gradient": 2e-6},
    ],
}


def test_ratios_lie_on_the_line_of_their_entry_with_their_range(shown, tmp_path):
    """The four peers of an entry are 0.12 apart around its tick."""
    svi, nuts, _ = shown(DOCUMENT, tmp_path / "bench.svg")
    (box,) = svi.containers
    assert box.get_label() == "pyro"
    line, _, (bars,) = box.lines
    assert line.get_xdata().tolist() == pytest.approx([4.0, 3.0])
    assert line.get_ydata().tolist() == pytest.approx([-0.18, 0.82])
    ends = [segment[:, 0].tolist() for segment in bars.get_segments()]
    assert ends == [pytest.approx([2.0, 8.0]), pytest.approx([3.0, 3.0])]
    assert [c.get_label() for c in nuts.containers] == ["pyro", "stan"]
    assert nuts.containers[0].lines[0].get_ydata().tolist() == pytest.approx([-0.18])
    assert nuts.containers[1].lines[0].get_xdata().tolist() == pytest.approx([3.0])
    assert nuts.containers[1].lines[0].get_ydata().tolist() == pytest.approx([1.06])


def test_bars_are_dotted_and_equal_speed_is_gray(shown, tmp_path):
    svi, nuts, _ = shown(DOCUMENT, tmp_path / "bench.svg")
    for axis, asked in ((svi, [20.0]), (nuts, [20.0, 1.5])):
        upright = [line for line in axis.lines if list(line.get_ydata()) == [0, 1]]
        assert [u.get_xdata()[0] for u in upright if u.get_linestyle() == ":"] == asked
        assert [u.get_xdata()[0] for u in upright if u.get_color() == "0.5"] == [1.0]
        assert axis.get_xscale() == "log"
        assert axis.yaxis_inverted()
        assert [t.get_text() for t in axis.get_yticklabels()] == ["linear", "radon"]
        assert axis.get_yticks().tolist() == [0, 1]
        assert axis.get_xlabel() == "our speed over theirs (dotted: the bar)"
    assert svi.get_title() == "SVI steps/s, mean field"
    assert nuts.get_title() == "NUTS smallest bulk ESS/s"
    assert [t.get_text() for t in nuts.get_legend().get_texts()] == ["pyro", "stan"]


def test_growth_is_in_microseconds_on_logarithmic_axes(shown, tmp_path):
    axis = shown(DOCUMENT, tmp_path / "bench.svg")[2]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert axis.get_title() == "Growth with the data"
    lines = {line.get_label(): line.get_xydata().ravel().tolist() for line in axis.lines}
    assert lines == {
        "gradient on all rows": pytest.approx([10, 1, 100, 2]),
        "SVI step on 100 rows": pytest.approx([10, 5]),
    }
    assert axis.get_legend() is not None
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("rows", "microseconds")


def test_without_growth_the_third_panel_is_empty(shown, tmp_path):
    axis = shown({**DOCUMENT, "growth": []}, tmp_path / "bench.svg")[2]
    assert not axis.lines
    assert axis.get_legend() is None
