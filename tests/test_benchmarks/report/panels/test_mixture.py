"""Figures of a mixture read back as shapes and colors, for class probabilities that are given."""

import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import linalg

from benchmarks.report.panels import mixture
from benchmarks.report.panels.mixture import chain_modes, clusters, figures, heat_map
from benchmarks.report.theme import light
from zoo.models.mixtures._classes import Classes


def one_hot(draws, data):
    return torch.nn.functional.one_hot(draws["z"], 2).double()


LABELS = Classes(responsibilities=one_hot)


def posterior_of(z, dims=("sample",), name="full_rank", **fields):
    return SimpleNamespace(
        draws={"z": torch.as_tensor(z)}, sample_dims=dims, method=name, seed=0, stats={}, **fields
    )


def comparison(posterior, errors=()):
    return SimpleNamespace(
        posterior=posterior, scores=[SimpleNamespace(mean_error=e) for e in errors]
    )


def report_of(comparisons=(), reference=None, kind="stored", classes=None, **train):
    """A report of an entry whose module has these classes."""
    module = ModuleType("mixture_of_the_test")
    if classes is not None:
        module.CLASSES = classes
    sys.modules[module.__name__] = module
    build = SimpleNamespace(__module__=module.__name__)
    train = {"y": torch.tensor([-1.0, 0.0, 1.0]).double(), **train}
    return SimpleNamespace(
        entry=SimpleNamespace(build=build, settings={"k": 2}, key="mine"),
        data=SimpleNamespace(train=train, observed=("y",)),
        reference=SimpleNamespace(posterior=reference, kind=kind),
        comparisons=list(comparisons),
    )


@pytest.fixture(autouse=True)
def forget():
    yield
    sys.modules.pop("mixture_of_the_test", None)


TOGETHER, APART = [[0, 0, 1]] * 4, [[0, 1, 1]] * 4


# --- which figures


def test_figures_need_classes_and_a_method():
    one = [comparison(posterior_of(TOGETHER))]
    assert figures(report_of(one, classes=None)) == []
    assert figures(report_of(one, classes="others")) == []
    assert figures(report_of([], classes=LABELS)) == []


def test_the_caption_names_the_method_the_truth_and_the_rows():
    one = [comparison(posterior_of(TOGETHER))]
    ((figure, words),) = figures(report_of(one, classes=LABELS))
    assert words == (
        "Chance that two rows share a class by full_rank; averaged over draws of class"
        " probabilities, rows in order, 3 shown."
    )
    assert len(figure.axes) == 1
    ((figure, words),) = figures(report_of(one, posterior_of(APART), classes=LABELS))
    assert words.startswith(
        "Chance that two rows share a class by full_rank, and their difference from the"
        " reference; averaged over"
    )
    assert len(figure.axes) == 2


def test_more_than_twelve_rows_are_in_order_of_the_first_axis():
    for rows, order in ((12, "rows in order"), (13, "first principal axis")):
        z = torch.zeros(4, rows, dtype=torch.long)
        y = torch.linspace(0, 1, rows).double()
        report = report_of([comparison(posterior_of(z))], classes=LABELS, y=y)
        ((_, words),) = figures(report)
        assert order in words
        assert ("rows in order," in words) == (rows == 12)
        assert f", {rows} shown." in words


def test_normal_classes_of_several_features_have_their_clusters_first():
    r = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]).double()
    classes = Classes(
        responsibilities=lambda draws, data: r.expand(len(draws["z"]), 4, 2),
        normals=lambda draws, basis: (
            torch.zeros(len(draws["z"]), 2, 2).double(),
            torch.eye(2).double().expand(len(draws["z"]), 2, 2, 2),
            None,
        ),
    )
    x = torch.tensor([[0.0, 1], [1, 0], [4, 3], [6, 4]]).double()
    more = {"x": x, "basis": torch.eye(2).double(), "y": x}
    report = report_of(classes=classes, **more)
    posterior = posterior_of(torch.zeros(5, 2), data=report.data)
    report.comparisons.append(comparison(posterior))
    first, second = figures(report)
    assert first[1].startswith("Classes of full_rank in the two directions that set them apart")
    assert "in one of 24 draws" in first[1]
    assert second[1].startswith("Chance that two rows")
    del report.data.train["basis"]
    assert len(figures(report)) == 1


# --- the method that is shown


def test_the_guide_with_the_smallest_worst_error_is_shown():
    rows = [
        comparison(posterior_of(TOGETHER, name="mean_field"), (-0.5, 0.1, math.nan)),
        comparison(posterior_of(TOGETHER, name="full_rank"), (0.3, -0.4)),
        comparison(posterior_of(TOGETHER, name="low_rank"), ()),
        comparison(posterior_of(TOGETHER, name="nuts"), (0.0,)),
    ]
    assert mixture._best(report_of(rows))[0] == "full_rank"
    rows[1].posterior.draws = {}
    assert mixture._best(report_of(rows))[0] == "mean_field"
    only = mixture._best(report_of(rows[3:]))
    assert (only[0], only[1]) == ("nuts", rows[3].posterior)
    assert mixture._best(report_of([])) is None


# --- the chains


def chains(*groups, draws=40):
    """Chains that group three rows one way or the other."""
    return torch.tensor([[g] * draws for g in groups])


def chained(*groups, name="nuts", **options):
    entry = SimpleNamespace(key="mine")
    z = chains(*groups, **options)
    return posterior_of(z, ("chain", "draw"), name, entry=entry, sample_shape=z.shape[:2])


def test_chains_of_the_reference_and_of_nuts_are_told_apart():
    alike, split = chained([0, 0, 1], [1, 1, 0]), chained([0, 0, 1], [0, 1, 1], [0, 0, 1])
    report = report_of([comparison(split)], alike)
    first, second = chain_modes(report, LABELS)
    assert first == (
        "The reference: all 2 chains group the rows alike (largest difference 0.000)."
    )
    # two of six pairs of rows differ, each twice: sqrt(4 / 9)
    assert second.startswith(
        "nuts: the chains are in 2 modes, mode 1: chains 1, 3 (mean log density 0.0); mode 2:"
        " chain 2 (mean log density 0.0); their co-clustering differs by at least 0.67."
    )


def test_only_chains_of_nuts_or_a_stored_reference_are_looked_at():
    other = comparison(chained([0, 0, 1], [0, 0, 1], name="short_chains"))
    flat = comparison(posterior_of(TOGETHER, name="nuts"))
    empty = comparison(chained([0, 0, 1], [0, 0, 1]))
    empty.posterior.draws = {}
    same = chained([0, 0, 1], [0, 0, 1])
    assert chain_modes(report_of([other, flat, empty], same, kind="nuts"), LABELS) == []
    assert len(chain_modes(report_of([other, flat, empty], same), LABELS)) == 1


def test_long_chains_are_thinned_to_about_250_draws():
    sizes = []

    def counted(draws, data):
        sizes.append(tuple(draws["z"].shape))
        return one_hot(draws, data)

    for draws in (499, 500, 750):
        long = chained([0, 0, 1], [0, 0, 1], draws=draws)
        chain_modes(report_of([], long), Classes(responsibilities=counted))
    assert sizes == [(2, 499, 3), (2, 250, 3), (2, 250, 3)]


# --- draws, rows and the truth


def test_draws_are_spaced_evenly_over_all_chains():
    posterior = posterior_of(torch.arange(12).reshape(2, 6), ("chain", "draw"))
    assert mixture._draws(posterior, 4)["z"].tolist() == [0, 3, 7, 11]
    assert mixture._draws(posterior, 50)["z"].tolist() == list(range(12))


def test_rows_are_ordered_along_their_first_principal_axis_and_thinned():
    y = torch.tensor([[3.0, 0.1], [-2.0, 0.2], [1.0, -0.3], [9.0, 0.0]]).double()
    report = report_of(y=y)
    assert mixture._order(report).tolist() in ([1, 2, 0, 3], [3, 0, 2, 1])
    many = report_of(y=torch.arange(1000.0).double())
    order = mixture._order(many)
    assert len(order) == 240
    assert sorted((int(order[0]), int(order[-1]))) == [0, 999]
    assert sorted(mixture._order(report_of()).tolist()) == [0, 1, 2]


def test_the_truth_is_the_exact_sum_else_the_draws_of_the_reference():
    matrix = torch.eye(3).double()
    exact = Classes(
        responsibilities=one_hot, co_clustering=lambda data, *, k: k * matrix if data else None
    )
    name, value = mixture._truth(report_of(), exact)
    assert name == "the exact sum over labelings"
    assert torch.equal(value, 2 * matrix)
    assert mixture._truth(report_of(), LABELS) is None
    half = posterior_of([[0, 0, 1], [0, 1, 1]])
    name, value = mixture._truth(report_of(reference=half), LABELS)
    assert name == "the reference"
    assert value.tolist() == [[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]]


# --- heat maps


def cells(axis):
    """Opacity and color of every cell that is drawn, by its column and row."""
    found = {}
    for collection in axis.collections:
        for path in collection.get_paths():
            box = path.get_extents()
            for column in range(round(box.x0), round(box.x1)):
                color = tuple(collection.get_facecolor()[0][:3])
                found[column, round(box.y0)] = (round(collection.get_alpha(), 6), color)
    return found


def rgb(role):
    return tuple(int(light(role)[k : k + 2], 16) / 255 for k in (1, 3, 5))


def test_shared_classes_are_bands_of_an_eighth_each():
    """Rows 1 and 2 share a class in half of the draws: band 4 of 0 to 7, opacity 4 / 7."""
    figure, rows = heat_map(
        report_of(), LABELS, "guide", posterior_of([[0, 0, 1], [0, 1, 1]]), None
    )
    (axis,) = figure.axes
    assert rows == 3
    assert axis.get_title() == "guide: chance of a shared class"
    half = round(4 / 7, 6)
    found = cells(axis)
    assert {place: alpha for place, (alpha, _) in found.items()} == {
        **{(i, i): 1.0 for i in range(3)},
        **dict.fromkeys([(0, 1), (1, 0), (1, 2), (2, 1)], half),
    }
    assert all(color == pytest.approx(rgb("m1")) for _, color in found.values())
    assert axis.get_xlim() == (0, 3)
    assert axis.get_ylim() == (3, 0)
    assert axis.get_aspect() in ("equal", 1.0)
    assert not len(axis.get_xticks())
    assert not len(axis.get_yticks())


def test_a_difference_has_one_color_for_more_and_another_for_less():
    """The method has 1 and 0 where the truth has 0.5: differences of +0.5 and -0.5."""
    truth = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 1.0]]).double()
    figure, _ = heat_map(
        report_of(), LABELS, "guide", posterior_of(TOGETHER), ("the truth", truth)
    )
    axis = figure.axes[1]
    assert axis.get_title() == "difference, at most 0.500"
    found = cells(axis)
    corner = [(0, 1), (1, 0)]
    assert set(found) == {*corner, (1, 2), (2, 1)}
    order = mixture._order(report_of()).tolist()
    more = {(order.index(0), order.index(1)), (order.index(1), order.index(0))}
    for place, (alpha, color) in found.items():
        assert alpha == 1.0
        assert color == pytest.approx(rgb("m1" if place in more else "m2"))


def test_the_smallest_reach_of_a_difference_is_two_percent():
    """A difference of 0.01 of a reach of 0.02 is half of the scale, no full color."""
    truth = torch.tensor([[1.0, 0.99, 0.0], [0.99, 1.0, 0.0], [0.0, 0.0, 1.0]]).double()
    figure, _ = heat_map(report_of(), LABELS, "guide", posterior_of(TOGETHER), ("t", truth))
    alphas = {alpha for alpha, _ in cells(figure.axes[1]).values()}
    assert alphas == {round(2 * 6 / 7 - 1, 6)} or alphas == {round(2 * 5 / 7 - 1, 6)}


@pytest.mark.parametrize(
    ("share", "role", "alpha"),
    [(0.0, "m2", 1.0), (1.0, "m1", 1.0), (0.75, "m1", 0.5), (0.25, "m2", 0.5), (0.5, "m2", 0.0)],
)
def test_a_scale_of_three_is_clear_in_its_middle(share, role, alpha):
    color, opacity = mixture._mix(("m2", "paper", "m1"), share)
    assert (color, opacity) == (light(role), alpha)
    assert mixture._mix(("m2", "paper", "m1"), 0.6) == (light("m1"), 0.0)
    assert mixture._mix(("m2", "paper", "m1"), 0.61)[1] == pytest.approx(0.22)
    assert mixture._mix(("paper", "m3"), share) == (light("m3"), share)


def test_runs_of_equal_bands_are_one_rectangle_each():
    calls = []
    axis = SimpleNamespace(broken_barh=lambda *a, **k: calls.append((a, k)))
    band = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [2, 1, 1, 1]])
    mixture._blocks(axis, band, [("a", 0.5), ("b", 1.0), ("c", 0.0)])
    assert calls == [
        (([(2, 1)], (0, 1)), {"color": "a", "alpha": 0.5, "linewidth": 0}),
        (([(0, 4)], (1, 1)), {"color": "a", "alpha": 0.5, "linewidth": 0}),
        (([(0, 2), (3, 1)], (0, 1)), {"color": "b", "alpha": 1.0, "linewidth": 0}),
        (([(1, 3)], (2, 1)), {"color": "b", "alpha": 1.0, "linewidth": 0}),
    ]


# --- clusters


def scatter(x, r):
    """Within and between covariances of rows by class probabilities, from their definitions."""
    weight = r.sum(0)
    center = (r.T @ x) / weight[:, None]
    within = sum(
        r[i, k] * np.outer(x[i] - center[k], x[i] - center[k])
        for i in range(len(x))
        for k in range(r.shape[1])
    ) / len(x)
    between = sum(weight[k] * np.outer(center[k], center[k]) for k in range(r.shape[1])) / len(x)
    return within, between


@pytest.mark.parametrize("classes", [2, 3])
def test_the_plane_is_that_of_the_discriminants(classes):
    """The generalized eigenvectors of B v = lambda W v with W-norm one, largest first."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((30, 3)) * [1.0, 2.0, 0.5]
    r = rng.dirichlet(np.full(classes, 0.5), 30)
    plane = mixture._plane(torch.as_tensor(x), torch.as_tensor(r)).numpy()
    within, between = scatter(x, r)
    vectors = linalg.eigh(between, within)[1]
    assert plane.T @ within @ plane == pytest.approx(np.eye(2), abs=1e-9)
    assert abs(plane[:, 0] @ within @ vectors[:, -1]) == pytest.approx(1.0)
    if classes == 3:
        assert abs(plane[:, 1] @ within @ vectors[:, -2]) == pytest.approx(1.0)
    else:
        main = np.linalg.eigh(within)[1][:, -1]
        rest = main - plane[:, 0] * (plane[:, 0] @ within @ main)
        unit = rest / math.sqrt(rest @ within @ rest)
        assert abs(plane[:, 1] @ within @ unit) == pytest.approx(1.0)


def test_ellipses_are_ninety_percent_regions_in_the_plane_of_the_points(monkeypatch):
    """A root 2 I of the precision is a standard deviation of 1/2: the radius is sqrt(4.605) / 2.

    The plane is replaced by the axes.
    """
    monkeypatch.setattr(mixture, "_plane", lambda x, mean: torch.eye(2).double())
    r = torch.tensor([[1.0, 0], [0.95, 0.05], [0.9, 0.1], [0.0, 1]]).double()
    loc = torch.tensor([[1.0, 2.0], [-3.0, 4.0]]).double()
    classes = Classes(
        responsibilities=lambda draws, data: r.expand(len(draws["z"]), 4, 2),
        normals=lambda draws, basis: (
            loc.expand(len(draws["z"]), 2, 2),
            2 * torch.eye(2).double().expand(len(draws["z"]), 2, 2, 2),
            None,
        ),
    )
    x = torch.tensor([[0.0, 1], [1, 0], [4, 3], [6, 4]]).double()
    train = {"x": x, "basis": torch.eye(2).double()}
    posterior = posterior_of(torch.zeros(60, 2), data=SimpleNamespace(train=train))
    figure = clusters(posterior, classes)
    (axis,) = figure.axes
    points = [line for line in axis.lines if line.get_linestyle() == "None"]
    found = {
        tuple(p): (line.get_color(), line.get_alpha(), line.get_marker())
        for line in points
        for p in line.get_xydata().tolist()
    }
    first, second = light("m1"), light("m2")
    assert found == {
        (0, 1): (first, 0.85, "o"),
        (1, 0): (first, 0.85, "o"),
        (4, 3): (first, 0.3, "o"),  # 0.9 is not yet sure
        (6, 4): (second, 0.85, "s"),
    }
    ellipses = [line for line in axis.lines if line.get_linestyle() != "None"]
    assert len(ellipses) == 2 * 24
    for k, color in ((0, first), (1, second)):
        own = [e for e in ellipses if e.get_color() == color]
        assert len(own) == 24
        away = own[0].get_xydata() - loc[k].numpy()
        assert np.linalg.norm(away, axis=1) == pytest.approx(math.sqrt(4.605) / 2)
        assert away.max(0) == pytest.approx([math.sqrt(4.605) / 2] * 2, rel=0.01)
    assert axis.get_xlabel() == "first discriminant of the classes"
    assert axis.get_ylabel() == "second direction"


def test_draws_get_one_numbering_of_the_classes():
    z = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    swapped = torch.tensor([[[0.9, 0.1], [0.2, 0.8]]] * 3).double()
    swapped[1] = swapped[1].flip(-1)
    classes = Classes(responsibilities=lambda draws, data: swapped)
    found = mixture._one_labeling({"loc": z}, classes, None)["loc"]
    assert len({tuple(row) for row in found.tolist()}) == 1
