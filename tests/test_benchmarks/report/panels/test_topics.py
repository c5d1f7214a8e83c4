"""Topics read back as bars and pixels, aligned by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.report.panels import topics
from benchmarks.report.panels.topics import draw_topics, figures
from benchmarks.report.theme import light

KNOWN = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.05, 0.05, 0.2, 0.7]]).double()
SHARES = torch.tensor([0.8, 0.2]).double()
PIXELS = {"image_row": ("1", "2"), "image_column": ("1", "2")}


def posterior(method, order=(0, 1), number=30, topic=KNOWN, dims=("sample",)):
    lead = (number,) if len(dims) == 1 else (2, number // 2)
    draws = {
        "topic": topic[list(order)].expand(*lead, *topic.shape),
        "mixture": SHARES[list(order)].expand(*lead, 5, 2),
    }
    return SimpleNamespace(method=method, draws=draws, sample_dims=dims)


def report_of(rows, reference=None, kind="exact", coords=PIXELS):
    return SimpleNamespace(
        reference=SimpleNamespace(posterior=reference, kind=kind),
        comparisons=[SimpleNamespace(posterior=p) for p in rows],
        data=SimpleNamespace(coords=coords),
    )


def pixels(axis):
    return np.asarray(axis.collections[0].get_array()).reshape(-1)


def test_the_reference_is_first_and_all_rows_are_in_its_order():
    truth = posterior("exact", (1, 0), dims=("chain", "draw"))
    other = SimpleNamespace(method="flat", draws={}, sample_dims=("sample",))
    made = figures(report_of([posterior("one"), other, truth], truth))
    assert [words.split(":")[0] for _, words in made] == ["exact reference", "one"]
    for figure, words in made:
        left, right = figure.axes
        assert [a.get_title("left") for a in (left, right)] == ["1: 20 %", "2: 80 %"]
        assert pixels(left) == pytest.approx(KNOWN[1].numpy())
        assert pixels(right) == pytest.approx(KNOWN[0].numpy())
        assert words.endswith(
            ": mean topics, aligned over 30 draws (mean Hellinger distance 0.00; 0 same, 1"
            " disjoint)."
        )


def test_shares_follow_their_topics_where_draws_number_them_differently():
    """The shares are (0.9, 0.1) and, with exchanged numbers, (0.3, 0.7): means 0.8 and 0.2."""
    mixed = posterior("one", number=20)
    mixed.draws["topic"] = mixed.draws["topic"].clone()
    mixed.draws["topic"][10:] = KNOWN[[1, 0]]
    shares = torch.tensor([[0.9, 0.1]] * 10 + [[0.3, 0.7]] * 10).double()
    mixed.draws["mixture"] = shares[:, None].expand(20, 5, 2)
    ((figure, _),) = figures(report_of([mixed]))
    found = {
        round(float(pixels(a)[0]), 3): a.get_title("left").split(": ")[1] for a in figure.axes
    }
    assert found == {0.7: "80 %", 0.05: "20 %"}


def test_a_reference_without_topics_and_a_report_without_any_have_no_figure():
    bare = SimpleNamespace(method="nuts", draws={}, sample_dims=("sample",))
    assert figures(report_of([bare], bare)) == []
    assert len(figures(report_of([posterior("one")], bare))) == 1


def test_topics_that_change_between_draws_are_said_to():
    """The topics of half of the draws are disjoint from the medoid's: at distance 1."""
    far = posterior("one", topic=torch.eye(4).double()[:2], number=20)
    topic = far.draws["topic"].clone()
    topic[10:] = torch.eye(4).double()[2:]
    far.draws["topic"] = topic
    ((_, words),) = figures(report_of([far]))
    assert "mean Hellinger distance 0.50" in words
    assert "Such a large distance means that topics differ between draws," in words


def test_the_images_have_the_pixels_of_the_topic_from_the_top(monkeypatch):
    figure = draw_topics(KNOWN, SimpleNamespace(coords=PIXELS), ["a", "b"])
    left, right = figure.axes
    assert [a.get_title("left") for a in (left, right)] == ["1: a", "2: b"]
    assert pixels(right).tolist() == KNOWN[1].tolist()
    assert left.collections[0].get_clim() == pytest.approx((0.0, 0.7))
    assert left.yaxis_inverted()
    assert left.get_aspect() in ("equal", 1.0)
    assert not len(left.get_xticks())
    assert not len(left.get_yticks())
    assert not any(side.get_visible() for side in left.spines.values())
    assert figure.get_size_inches() * 72 == pytest.approx([240, 104])


def bars(axis):
    return [round(p.get_width(), 6) for p in axis.patches]


def test_few_words_are_in_order_and_named_at_the_left_of_each_row():
    data = SimpleNamespace(coords={"word": ("tax", "war", "law", "oil")})
    figure = draw_topics(KNOWN, data, ["a", "b"])
    left, right = figure.axes
    assert bars(left) == [0.7, 0.1, 0.1, 0.1]
    assert bars(right) == [0.05, 0.05, 0.2, 0.7]
    assert [t.get_text() for t in left.get_yticklabels()] == ["tax", "war", "law", "oil"]
    assert [t.get_text() for t in right.get_yticklabels()] == [""] * 4
    assert left.get_xlim() == pytest.approx((0, 0.7))
    assert left.yaxis_inverted()
    assert left.patches[0].get_facecolor()[:3] == pytest.approx(
        tuple(int(light("m1")[k : k + 2], 16) / 255 for k in (1, 3, 5))
    )
    assert figure.get_size_inches() * 72 == pytest.approx([240, 150])


def test_of_many_words_the_ten_largest_are_named_everywhere():
    values = torch.tensor([*range(1, 12)]).double() / 66
    figure = draw_topics(
        torch.stack([values, values.flip(0)]), SimpleNamespace(coords={}), ["a", "b"]
    )
    left, right = figure.axes
    names = [t.get_text() for t in left.get_yticklabels()]
    assert names == [str(k) for k in range(10, 0, -1)]
    assert [t.get_text() for t in right.get_yticklabels()] == [str(k) for k in range(10)]
    assert bars(left) == [round(k / 66, 6) for k in range(11, 1, -1)]
    assert left.get_xlim() == (0, 0.5)
    ten = draw_topics(values[None, :10], SimpleNamespace(coords={}), ["a"]).axes[0]
    assert bars(ten) == [round(k / 66, 6) for k in range(1, 11)]


def test_ten_topics_stand_in_a_row_and_the_rest_of_the_last_is_empty():
    data = SimpleNamespace(coords=PIXELS)
    figure = draw_topics(KNOWN[:1].expand(11, 4), data, ["t"] * 11)
    assert [a.axison for a in figure.axes] == [True] * 11 + [False] * 9
    assert figure.get_size_inches() * 72 == pytest.approx([920, 208])
    assert len(draw_topics(KNOWN[:1].expand(10, 4), data, ["t"] * 10).axes) == 10


def test_at_most_two_hundred_draws_are_aligned():
    many = posterior("one", number=10)
    many.draws["topic"] = torch.arange(600.0).reshape(2, 300, 1, 1)
    many.draws["mixture"] = torch.zeros(2, 300, 5, 1)
    many.sample_dims = ("chain", "draw")
    topic, mixture = topics._flat(many)
    assert topic.shape == (200, 1, 1)
    assert (float(topic[0]), float(topic[-1])) == (0.0, 599.0)
    assert mixture.shape == (200, 5, 1)
    assert topic.dtype == mixture.dtype == torch.float64


@pytest.mark.parametrize(("number", "step"), [(6, 1), (12, 1), (24, 2)])
def test_the_medoid_is_a_draw_among_the_majority(number, step):
    """Every twelfth part of the draws is looked at; the first two are outliers."""
    topic = KNOWN.expand(number, 2, 4).clone()
    topic[: 2 * step] = torch.eye(4).double()[1:3]
    topic[3 * step] = torch.tensor([[0.69, 0.11, 0.1, 0.1], [0.06, 0.05, 0.2, 0.69]]).double()
    found = topics._medoid(topic)
    assert found == 2 * step


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (3, 2), (1, 6)])
def test_images_need_not_be_square(rows, columns):
    mean = torch.arange(6.0)[None] / 15
    coords = {"image_row": range(rows), "image_column": range(columns)}
    figure = draw_topics(mean, SimpleNamespace(coords=coords), ["a"])
    (axis,) = figure.axes
    assert np.asarray(pixels(axis)).reshape(-1).tolist() == pytest.approx(mean[0].tolist())
    assert figure.get_size_inches()[1] * 72 == pytest.approx(104)
