"""Every plotted array equals what the draws give: pictures are tested by their data."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.patches import StepPatch
from support import report_factory

from benchmarks.report import figures_cost, figures_fit, figures_nuts, figures_posterior
from benchmarks.report.components import make_view
from benchmarks.report.panels import mixture, topics
from benchmarks.report.theme import light
from benchmarks.types import PredictiveCheck

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


@pytest.fixture(scope="module")
def view():
    return make_view(report_factory.schools(np.random.default_rng(7)))


def lines(axis, color):
    """Return the lines of a color, in the order in which they were drawn."""
    return [line for line in axis.lines if line.get_color() == color]


def draws_of(view, name, key):
    """Return the draws of a component, from the posterior itself."""
    posterior = view.by_name[name].posterior
    return (
        posterior.draws[key[0]]
        .numpy()
        .reshape(-1, *posterior.draws[key[0]].shape[len(posterior.sample_dims) :])[
            (slice(None), *key[1])
        ]
    )


def truth_of(view, key):
    draws = view.report.reference.posterior.draws[key[0]].numpy()
    return draws.reshape(-1, *draws.shape[2:])[(slice(None), *key[1])]


# --- forest


def test_ends_of_the_forest_are_quantiles_in_reference_sds(view):
    figure, shown = figures_posterior.forest(view)
    (axis,) = figure.axes
    keys = view.order[:shown]
    assert shown >= 6
    heights = axis.get_yticks()
    for name in view.shown:
        outer, inner, *medians = lines(axis, view.marks[name].color)
        points = {}
        for line, levels in ((outer, (0, 4)), (inner, (1, 3))):
            ends = line.get_xdata().reshape(-1, 3)
            assert np.isnan(ends[:, 2]).all()
            points.update({levels[0]: ends[:, 0], levels[1]: ends[:, 1]})
        for row, key in enumerate(keys):
            p = truth_of(view, key)
            wanted = (np.quantile(draws_of(view, name, key), LEVELS) - p.mean()) / p.std()
            wanted = wanted.clip(-6, 6)
            for level, found in points.items():
                assert found[row] == pytest.approx(wanted[level], abs=1e-9), (name, key)
            middle = np.concatenate([m.get_xdata() for m in medians])
            assert np.isclose(middle, wanted[2], rtol=0.02, atol=1e-9).any()
            # each line is beside the label of its component
            at = outer.get_ydata().reshape(-1, 3)[row, 0]
            assert abs(heights - at).argmin() == row
    for text, key in zip(axis.get_yticklabels(), keys, strict=True):  # shortened in the middle
        first, _, last = text.get_text().replace("\n", "").replace(" ", "").partition("…")
        label = view.labels[key].replace(" ", "")
        assert label.startswith(first)
        assert label.endswith(last)


def test_bands_of_the_forest_are_quantiles_of_the_reference(view):
    figure, shown = figures_posterior.forest(view)
    (axis,) = figure.axes
    found = [c.get_paths()[0].get_extents() for c in axis.collections]
    for row, key in enumerate(view.order[:shown]):
        p = truth_of(view, key)
        wanted = (np.quantile(p, LEVELS) - p.mean()) / p.std()
        wide, narrow = found[2 * row : 2 * row + 2]
        assert (wide.x0, wide.x1) == pytest.approx((wanted[0], wanted[4]))
        assert (narrow.x0, narrow.x1) == pytest.approx((wanted[1], wanted[3]))


# --- marginals and the worst pair


def test_each_curve_is_the_density_of_its_own_method(view):
    key = view.order[0]
    figure, _ = figures_posterior.marginal(view, key)
    (axis,) = figure.axes
    means = {}
    for name in view.shown:
        (line,) = lines(axis, view.marks[name].color)
        grid, height = line.get_data()
        x = draws_of(view, name, key)
        inside = x[(x >= grid[0]) & (x <= grid[-1])]
        mass = height.sum() * (grid[1] - grid[0])
        assert mass == pytest.approx(len(inside) / len(x), abs=0.03)
        mean = (height * grid).sum() / height.sum()
        means[name] = mean
        assert mean == pytest.approx(inside.mean(), abs=0.05 * inside.std())
        spread = np.sqrt((height * (grid - mean) ** 2).sum() / height.sum())
        assert spread == pytest.approx(inside.std(), rel=0.1)
    assert np.diff(sorted(means.values())).min() > 1e-3  # all curves differ
    filled = axis.collections[0].get_paths()[0].vertices
    p = truth_of(view, key)
    top = filled[filled[:, 1] > 0]
    center = np.average(top[:, 0], weights=top[:, 1])
    assert center == pytest.approx(p.mean(), abs=0.05 * p.std())


def test_ellipses_hold_ninety_percent_of_a_normal(view):
    figure, words = figures_posterior.pair(view)
    (axis,) = figure.axes
    a, b = (
        next(k for k, text in view.labels.items() if text == label)
        for label in words.removeprefix("correlation of ").partition(":")[0].split(" and ")
    )
    for name in view.guides:
        ellipse = max(lines(axis, view.marks[name].color), key=lambda line: len(line.get_xdata()))
        x = np.stack([draws_of(view, name, k) for k in (a, b)])
        assert len(ellipse.get_xdata()) == 80
        z = np.stack(ellipse.get_data()) - x.mean(1, keepdims=True)
        squared = (z * np.linalg.solve(np.cov(x), z)).sum(0)
        assert squared == pytest.approx(np.full(80, -2 * np.log(0.1)), rel=1e-9)


# --- cost


@pytest.mark.parametrize("by", ["gradients", "seconds"])
def test_points_lie_at_cost_and_worst_error_of_their_cells(view, by):
    figure = figures_cost.cost(view, by)
    (axis,) = figure.axes
    assert axis.get_xlabel() == {"gradients": "gradient evaluations"}.get(by, by)
    seen = 0
    for name, comparison in view.by_name.items():
        if comparison.verdict == "fit_failed":
            continue
        (point,) = [m for m in lines(axis, view.marks[name].color) if len(m.get_xdata()) == 1]
        cost = comparison.posterior.cost
        worst = max(
            max(abs(s.mean_error), abs(np.log(s.sd_ratio))) for s in comparison.scores if s.judged
        )
        wanted = cost.gradient_evaluations if by == "gradients" else cost.seconds
        assert float(point.get_xdata()[0]) == wanted
        assert float(point.get_ydata()[0]) == pytest.approx(max(worst, 1e-3))
        (text,) = [t for t in axis.texts if t.get_text().split(",")[0] == name]
        assert text.xy[0] == wanted
        seen += 1
    assert seen == 5


# --- NUTS


def with_nuts(view, draws, **stats):
    """Return the view and NUTS chains whose component `mu` is given, `[chain, draw]`."""
    name = next(n for n in view.names if n.startswith("nuts"))
    old = view.by_name[name].posterior
    posterior = replace(
        old,
        draws={"mu": torch.as_tensor(draws)},
        entry=replace(old.entry, quantities={"mu": old.entry.quantities["mu"]}),
        stats={k: torch.as_tensor(v) for k, v in stats.items()},
    )
    return posterior


def test_rank_histograms_of_chains_that_are_apart_are_not_flat(view):
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((4, 500)) + np.array([0.0, 0.0, 0.0, 1.5])[:, None]
    figure, label = figures_nuts.ranks(view, with_nuts(view, draws))
    assert label == "mu"
    order = np.empty(draws.size)
    order[draws.ravel().argsort()] = np.arange(draws.size)
    shown = [p.get_data().values for p in figure.axes[0].patches if isinstance(p, StepPatch)]
    assert len(shown) == 4
    for chain, found in enumerate(shown):
        places = order.reshape(4, 500)[chain] // 100  # twenty bins of a hundred ranks
        wanted = np.bincount(places.astype(int), minlength=20) / 25
        assert found == pytest.approx(wanted)
    assert shown[3][-1] > 2.5
    assert shown[0][-1] < 0.7


def test_energy_is_drawn_around_its_mean_and_by_its_steps(view):
    """A walk with steps of sd 1 whose levels spread over ten nats."""
    rng = np.random.default_rng(1)
    walk = rng.standard_normal((4, 400)).cumsum(1) + np.array([0.0, 300.0, 0.0, -300.0])[:, None]
    figure = figures_nuts.energy(with_nuts(view, walk, energy=walk))
    (axis,) = figure.axes
    (line,) = lines(axis, light("nuts"))
    steps, level = np.diff(walk, axis=1), walk - walk.mean(1, keepdims=True)

    def width(x, y):
        return np.sqrt((y * x**2).sum() / y.sum())

    assert width(*line.get_data()) == pytest.approx(steps.std(), rel=0.1)
    assert steps.std() == pytest.approx(1.0, abs=0.1)
    filled = axis.collections[0].get_paths()[0].vertices
    assert width(*filled[filled[:, 1] > 0].T) == pytest.approx(level.std(), rel=0.15)


def test_divergent_draws_are_where_they_diverged(view):
    nuts = view.report.nuts
    figure, number = figures_nuts.divergences(view, nuts)
    (axis,) = figure.axes
    assert number == int(nuts.stats["diverging"].sum()) == 12
    (crosses,) = lines(axis, light("warn"))
    labels = [axis.get_xlabel(), axis.get_ylabel()]
    bad = nuts.stats["diverging"].reshape(-1).numpy()
    for data, label in zip(crosses.get_data(), labels, strict=True):
        key = next(k for k, text in view.labels.items() if text == label.replace("\n", ""))
        wanted = draws_of(view, "nuts", key)[bad]
        assert np.asarray(data) == pytest.approx(wanted)


def test_the_predictive_band_holds_ninety_percent_of_the_replicated(view):
    rng = np.random.default_rng(2)
    check = PredictiveCheck(
        label="y",
        observed=rng.normal(size=40),
        replicated={"mean_field": rng.normal(size=(200, 40)), "nuts": rng.normal(size=(250, 40))},
    )
    figure = figures_nuts.predictive(view, check)
    (axis,) = figure.axes
    band = axis.collections[0].get_paths()[0].vertices
    grid = np.unique(band[:, 0])[20:-20]
    low = np.array([band[band[:, 0] == g, 1].min() for g in grid])
    high = np.array([band[band[:, 0] == g, 1].max() for g in grid])
    share = (check.replicated["nuts"][:, None, :] <= grid[:, None]).mean(-1)
    assert low == pytest.approx(np.quantile(share, 0.05, axis=0))
    assert high == pytest.approx(np.quantile(share, 0.95, axis=0))
    for name, replicated in check.replicated.items():
        (line,) = lines(axis, view.marks[name].color)
        below = (replicated[:, None, :] <= line.get_xdata()[:, None]).mean((0, 2))
        assert line.get_ydata() == pytest.approx(below)
    (seen,) = lines(axis, light("ink"))
    assert seen.get_ydata() == pytest.approx((check.observed <= seen.get_xdata()[:, None]).mean(1))


# --- fits and weights


def test_losses_are_drawn_above_the_best_with_their_restarts(view):
    fits = view.report.summaries()
    figure = figures_fit.losses(view, fits)
    (axis,) = figure.axes
    finals = {n: np.median(f.losses[-len(f.losses) // 20 :]) for n, f in fits.items()}
    best = min(finals.values())
    for name, fit in fits.items():
        curve, end, *restarts = lines(axis, view.marks[name].color)
        assert float(end.get_xdata()[0]) == pytest.approx(len(fit.losses), rel=0.05)
        # the loss has a noise of 0.8 nats, its medians of some hundred steps about 0.1
        assert float(end.get_ydata()[0]) == pytest.approx(max(finals[name] - best, 0.1), abs=0.4)
        steps, gaps = curve.get_data()
        early = int(np.searchsorted(steps, 100))
        near = np.median(fit.losses[int(steps[early]) - 15 : int(steps[early]) + 15])
        assert gaps[early] == pytest.approx(near - best, rel=0.1)
        assert len(restarts) == len(fit.restarts)
        for mark, restart in zip(restarts, fit.restarts, strict=True):
            wanted = max(-restart.elbo.value_nats - best, 0.1)
            assert float(mark.get_ydata()[0]) == pytest.approx(wanted, abs=0.4)


def test_k_hats_and_reweighted_errors_are_those_of_their_rows(view):
    found = {n: c.pareto_k for n, c in view.by_name.items() if c.pareto_k is not None}
    (axis,) = figures_fit.pareto(view).axes
    assert [t.get_text() for t in axis.get_yticklabels()] == list(found)
    for row, (name, k) in enumerate(found.items()):
        (point,) = lines(axis, view.marks[name].color)
        assert point.get_xydata().tolist() == [[min(k.value, 2.0), row]]
    name = next(iter(found))
    errors = {"mu": (0.42, -0.11), "log_tau": (-0.3, 0.2)}
    changed = {
        **view.by_name,
        name: replace(view.by_name[name], pareto_k=replace(found[name], reweighted=errors)),
    }
    (axis,) = figures_fit.reweighting(replace(view, by_name={name: changed[name]})).axes
    assert [t.get_text() for t in axis.get_yticklabels()] == [f"{name}\nmu", f"{name}\nlog_tau"]
    drawn = lines(axis, view.marks[name].color)
    for row, pair in enumerate(errors.values()):
        line, raw, new = drawn[3 * row : 3 * row + 3]
        assert line.get_xydata().tolist() == [[pair[0], row], [pair[1], row]]
        assert raw.get_markerfacecolor() == light("paper")  # hollow: before
        assert float(raw.get_xdata()[0]) == pair[0]
        assert float(new.get_xdata()[0]) == pair[1]


def test_rows_of_two_seeds_are_named_and_every_method_has_one(view):
    name, old = next((n, c) for n, c in view.by_name.items() if c.pareto_k is not None)
    errors = {"mu": (0.42, -0.11), "log_tau": (-0.5, 0.2), "theta": (0.1, 0.0)}
    found = replace(old, pareto_k=replace(old.pareto_k, reweighted=errors))
    rows = {f"{name} s{i}": found for i in range(7)}
    marks = {n: view.marks[name] for n in rows}
    (axis,) = figures_fit.reweighting(replace(view, by_name=rows, marks=marks), most=4).axes
    assert [t.get_text() for t in axis.get_yticklabels()] == [f"{n}\nlog_tau" for n in rows]


# --- mixtures


def test_the_difference_of_two_known_matrices_is_drawn():
    """Classes by draw: the first two rows share a class in 80 % of draws, by the truth in 30 %."""
    first = torch.zeros(200, 3, dtype=torch.long)
    first[:, 2] = 1
    first[:40, 1] = 1
    module = SimpleNamespace(
        responsibilities=lambda draws, data: torch.nn.functional.one_hot(draws["z"], 2).double()
    )
    posterior = SimpleNamespace(draws={"z": first}, sample_dims=("sample",))
    data = SimpleNamespace(train={"y": torch.tensor([-1.0, 0.0, 1.0]).double()}, observed=("y",))
    truth = torch.tensor([[1.0, 0.3, 0.0], [0.3, 1.0, 0.2], [0.0, 0.2, 1.0]]).double()
    figure, rows = mixture.heat_map(
        SimpleNamespace(data=data), module, "full_rank", posterior, ("the truth", truth)
    )
    assert rows == 3
    left, right = figure.axes
    assert right.get_title() == "difference, at most 0.500"
    # six cells of the matrix are not zero; of the difference two, where it is 0.5
    cells = [p.get_extents() for c in right.collections for p in c.get_paths()]
    assert sorted((round(b.x0), round(b.y0)) for b in cells) == [(0, 1), (1, 0)]
    assert {c.get_alpha() for c in right.collections} == {1.0}
    assert all(tuple(c.get_facecolor()[0][:3]) != (1, 1, 1) for c in left.collections)
    one = [c for c in left.collections if c.get_alpha() == 1.0]
    covered = {
        (column, round(b.y0))
        for c in one
        for b in (p.get_extents() for p in c.get_paths())
        for column in range(round(b.x0), round(b.x1))
    }
    assert covered == {(0, 0), (1, 1), (2, 2)}


def test_rows_of_unsure_class_are_drawn_faint():
    """Six rows on a line: two of class one, two of class two, two between them."""
    share = torch.tensor([1.0, 0.95, 0.6, 0.45, 0.02, 0.0], dtype=torch.float64)
    x = torch.stack([torch.linspace(-3, 3, 6), torch.tensor([0.1, -0.2, 0.3, 0.0, 0.2, -0.1])], 1)
    x = x.double()
    module = SimpleNamespace(
        responsibilities=lambda draws, data: torch.stack([share, 1 - share], -1).expand(
            len(draws["loc"]), 6, 2
        ),
        normals=lambda draws, basis: (
            draws["loc"],
            torch.eye(2).double().expand(len(draws["loc"]), 2, 2, 2),
            None,
        ),
        permuted=lambda draws, order: draws,
    )
    loc = torch.tensor([[-2.0, 0.0], [2.0, 0.0]]).double().expand(40, 2, 2)
    posterior = SimpleNamespace(
        draws={"loc": loc},
        sample_dims=("sample",),
        data=SimpleNamespace(train={"x": x, "basis": torch.eye(2).double()}),
    )
    figure = mixture.clusters(posterior, module)
    (axis,) = figure.axes
    points = [line for line in axis.lines if line.get_linestyle() == "None"]
    found = {}
    for line in points:
        for place in np.stack(line.get_data(), -1).round(6).tolist():
            found[tuple(place)] = (line.get_color(), line.get_alpha())
    assert len(found) == 6
    alphas = sorted(alpha for _, alpha in found.values())
    assert alphas == [0.3, 0.3, 0.85, 0.85, 0.85, 0.85]
    assert len({color for color, _ in found.values()}) == 2


def topic_posterior(method, order, seed):
    """Draws around two topics of four pixels, with shares 0.8 and 0.2, in an order of labels."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.05, 0.05, 0.2, 0.7]]).double()
    noise = 0.01 * torch.rand(30, 2, 4, generator=generator).double()
    topic = known + noise
    shares = torch.tensor([0.8, 0.2]).double().expand(30, 5, 2)
    draws = {
        "topic": (topic / topic.sum(-1, keepdim=True))[:, order],
        "mixture": shares[..., order],
    }
    entry, data = SimpleNamespace(), SimpleNamespace()
    return SimpleNamespace(
        method=method, draws=draws, sample_dims=("sample",), entry=entry, data=data
    )


def test_topics_of_all_methods_stand_in_one_order_with_their_shares():
    rows = [topic_posterior("one", [0, 1], 0), topic_posterior("other", [1, 0], 1)]
    report = SimpleNamespace(
        reference=SimpleNamespace(posterior=None, kind="none"),
        comparisons=[SimpleNamespace(posterior=p) for p in rows],
        data=SimpleNamespace(coords={"image_row": ("1", "2"), "image_column": ("1", "2")}),
    )
    (first, said), (second, again) = topics.figures(report)
    assert said.startswith("one: mean topics, aligned over 30 draws")
    assert again.startswith("other: ")
    for figure in (first, second):
        left, right = figure.axes
        assert [a.get_title("left") for a in (left, right)] == ["1: 80 %", "2: 20 %"]
        values = [np.asarray(a.collections[0].get_array()).reshape(-1) for a in (left, right)]
        assert [int(v.argmax()) for v in values] == [0, 3]
        assert values[0][0] == pytest.approx(0.7, abs=0.02)
    many = topics.draw_topics(torch.eye(12).double(), report.data, [f"{k} %" for k in range(12)])
    assert [a.get_title("left") for a in many.axes[:12]] == [f"{k + 1}: {k} %" for k in range(12)]
    assert len(many.axes) == 20  # two rows of ten; the last eight are empty
    assert [a.axison for a in many.axes] == [True] * 12 + [False] * 8
