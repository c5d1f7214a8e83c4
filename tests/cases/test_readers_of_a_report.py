"""What readers of a report met: overflow, shared colors, cut labels, pale text, missing values."""

import csv
import io
import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from support import report_factory
from torch.distributions import constraints

from benchmarks.report import render_html, render_markdown, render_table
from benchmarks.report.components import make_view
from benchmarks.report.figures_posterior import forest, shortened, two_lines
from benchmarks.report.keys import key
from benchmarks.report.overview import cells
from benchmarks.report.sections.estimates import estimates
from benchmarks.report.theme import OUTLINED, ROLES, marks, style
from benchmarks.run.execute import execute
from benchmarks.run.plan import make_plan
from benchmarks.run.results import costs_csv, figures_of, results_csv, results_frame
from benchmarks.verdicts import VERDICTS
from zoo.quantities import of_site

TWELVE = [
    *("mean_field", "full_rank", "low_rank", "laplace", "amortized", "flow", "block_full_rank"),
    *("amortized_full", "amortized_flow", "dirichlet", "class_network", "my_own_guide"),
]
COLORS = [role for role in ROLES if re.fullmatch(r"m\d+", role)]


@pytest.fixture(scope="module")
def run():
    return report_factory.make_run()


@pytest.fixture(scope="module")
def page():
    return report_factory.page()


# -- colors --------------------------------------------------------------------------------------


def luminance(color):
    parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#d4610a", "#fefefd") == pytest.approx(3.77, abs=0.01)  # the orange it was


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("role", [*COLORS, "nuts", "ink", "muted", "warn"])
def test_text_of_every_color_is_legible(role, scheme):
    """4.5 : 1, on the page, on the band behind many labels and on the reference (WCAG 2.2, 1.4.3).

    On the gray of the reference it was 3.4 in the light scheme and 2.9 in the dark one.
    """
    for ground in ("paper", "ref-soft", "ref"):
        assert contrast(ROLES[role][scheme], ROLES[ground][scheme]) >= 4.5, ground


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_the_pale_reference_has_an_outline_that_is_seen(scheme):
    """3 : 1 of what is no text (WCAG 2.2, 1.4.11); the fill alone is paler than that."""
    assert contrast(ROLES["ref-line"][scheme], ROLES["paper"][scheme]) >= 3
    assert OUTLINED["edgecolor"] == ROLES["ref-line"][0]
    assert OUTLINED["facecolor"] == ROLES["ref"][0]


@pytest.mark.parametrize("word", VERDICTS)
def test_text_of_every_verdict_is_legible(word):
    for colors in (VERDICTS[word].light, VERDICTS[word].dark):
        assert contrast(colors.tint, colors.text) >= 4.5


def test_fourteen_methods_and_nuts_are_drawn_differently():
    found = marks([*TWELVE, "one_more", "another", "nuts"])
    assert len({m.color for m in found.values()}) == 15
    assert len({str(m.marker) for m in found.values()}) == 15
    assert len({str(key(m)) for m in found.values()}) == 15
    for scheme in (0, 1):
        rgb = {
            r: np.array([int(ROLES[r][scheme][i : i + 2], 16) for i in (1, 3, 5)]) for r in COLORS
        }
        nearest = min(np.abs(a - b).sum() for a, b in itertools.combinations(rgb.values(), 2))
        assert nearest >= 40  # of 765; distinct hues or lightness, besides marker and dash


# -- width ---------------------------------------------------------------------------------------


def with_methods(run, names):
    entries = []
    for e in run.entries:
        base = [c for c in e.comparisons if c.method != "nuts"]
        made = [
            replace(c, posterior=replace(c.posterior, method=name))
            for c, name in zip(itertools.cycle(base), names, strict=False)
        ]
        nuts = [c for c in e.comparisons if c.method == "nuts"]
        entries.append(replace(e, comparisons=[*made, *nuts], fits={}))
    return replace(run, entries=entries)


@pytest.mark.usefixtures("undrawn")
def test_twelve_families_stand_in_tables_of_at_most_six_columns(run):
    page = render_html(with_methods(run, TWELVE))
    for kind, extra in (("heat", 2), ("numbers facing", 1), ("numbers estimates", 1)):
        tables = re.findall(rf'<table class="{kind}">.*?</table>', page, re.S)
        heads = [re.findall(r'<th scope="col">(.*?)(?=<th|</thead)', t, re.S) for t in tables]
        assert heads
        assert max(map(len, heads)) <= 6 + extra
    heat = re.findall(r'<table class="heat">.*?</table>', page, re.S)
    shown = [
        re.sub("<wbr>", "", m)
        for t in heat
        for m in re.findall(r"</svg><span>(.*?)</span>", t.partition("</thead>")[0])
    ]
    assert sorted(shown) == sorted([*TWELVE, "nuts"])
    assert all(t.count('class="ref ') == t.count('<th scope="row">') for t in heat)


# -- labels --------------------------------------------------------------------------------------

LONG = [
    f"coefficient_of_{name}_in_the_first_layer[0]"
    for name in ("rainfall", "rainstorm", "raindrops_of_april")
]


def test_shortened_labels_never_coincide():
    found = shortened(LONG, 22)
    assert set(found) == set(LONG)
    assert len(set(found.values())) == 3
    assert all(text.endswith("[0]") for text in found.values())
    assert shortened(["theta[0]", "theta[1]"]) == {x: x for x in ("theta[0]", "theta[1]")}
    assert max(map(len, shortened([f"{'x' * 40}[{i}]" for i in range(9)]).values())) == 22


def test_the_forest_plot_names_every_row_differently(run):
    view = make_view(run.entries[0])
    keys = [k for k in view.order if k in view.reference]
    labels = {k: f"a_long_name_{'m' * i}_that_ends_alike" for i, k in enumerate(keys)}
    with style():
        figure, shown = forest(replace(view, labels=labels))
    ticks = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert len(ticks) == shown > 5
    assert len(set(ticks)) == shown


def test_a_long_label_is_broken_once_and_keeps_its_text():
    text = "coefficient_of_rainfall_in_the_first_layer[0]"
    assert two_lines(text).replace("\n", "") == text
    assert max(map(len, two_lines(text).split("\n"))) < 30
    assert two_lines("theta[0]") == "theta[0]"


# -- values --------------------------------------------------------------------------------------


def test_every_figure_says_its_values(page):
    """A text alternative has the numbers the figure shows, not only its subject."""
    found = re.findall(r'<svg role="img" aria-label="([^"]*)"', page)
    assert len(found) > 20
    bare = [t for t in found if not re.search(r"\d", t.partition(": ")[2] or t.partition(". ")[2])]
    assert [t for t in bare if not t.startswith(("Scatter", "Extra"))] == []
    assert sum(t.startswith("Scatter") and " draws marked" in t for t in found) >= 1


def test_the_values_in_a_text_alternative_are_those_of_the_draws(run, page):
    (text,) = re.findall(r'aria-label="(Density of log_tau under each method: [^"]*)"', page)
    entry = run.entries[0]
    draws = {"reference": entry.reference.posterior.draws["log_tau"].numpy().ravel()}
    draws |= {
        c.method: c.posterior.draws["log_tau"].numpy().ravel()
        for c in entry.comparisons
        if c.verdict != "fit_failed"
    }
    said = {
        name: [float(v.replace("−", "-").replace(",", "")) for v in numbers]
        for name, *numbers in re.findall(r"(\w+) (\S+) \[(\S+), (\S+)\]", text)
    }
    assert set(said) == set(draws)
    for name, values in draws.items():
        expected = np.quantile(values, (0.5, 0.05, 0.95))
        assert said[name] == pytest.approx(expected, rel=0.01, abs=0.001)


def test_every_scroller_can_be_reached_and_is_named(page):
    scrollers = re.findall(r'<(?:div class="scroll"|pre class="process")([^>]*)>', page)
    assert len(scrollers) > 8
    for attributes in scrollers:
        assert 'tabindex="0" role="region"' in attributes
        assert re.search(r'aria-label="[^"]{3,}"', attributes)


def test_estimates_are_in_natural_units(run):
    """A positive site that is compared on its logarithm is shown itself, by exact quantiles."""
    entry = run.entries[0]
    ((label, quantity),) = of_site("tau", constraints.positive, (), ()).items()
    assert label == "log tau"
    comparisons = [
        replace(c, posterior=_with_tau(c.posterior, label, quantity)) for c in entry.comparisons
    ]
    truth = replace(
        entry.reference, posterior=_with_tau(entry.reference.posterior, label, quantity)
    )
    changed = replace(
        entry, entry=comparisons[0].posterior.entry, comparisons=comparisons, reference=truth
    )
    columns, rows, left = estimates(make_view(changed))
    assert (columns[0], left) == ("reference", 0)
    row = next(r for r in rows if r.label == "tau")
    tau = truth.posterior.draws["tau"].numpy().ravel()
    assert row.quantiles["reference"] == pytest.approx(
        np.quantile(tau, (0.05, 0.5, 0.95)), rel=1e-3
    )
    mine = comparisons[0].posterior.draws["tau"].numpy().ravel()
    assert row.quantiles["mean_field"] == pytest.approx(
        np.quantile(mine, (0.05, 0.5, 0.95)), rel=1e-3
    )
    # where the site is not among the draws, the logarithm is shown as such
    plain = {r.label: r for r in estimates(make_view(entry))[1]}
    assert "tau" not in plain
    assert plain["log_tau"].quantiles["reference"][1] == pytest.approx(
        np.median(truth.posterior.draws["log_tau"].numpy()), rel=1e-6
    )
    text = row.text("reference")
    assert re.fullmatch(r"\d+\.\d+ \[\d+\.\d+,\s\d+\.\d+\]", text)
    assert text in render_html(replace(run, entries=[changed]))
    flat = " ".join(text.split()).replace("[", r"\[").replace("]", r"\]")
    assert flat in render_markdown(replace(run, entries=[changed]))


def _with_tau(posterior, label, quantity):
    entry = replace(posterior.entry, quantities={label: quantity, **posterior.entry.quantities})
    if "log_tau" not in posterior.draws:
        return replace(posterior, entry=entry)
    draws = {**posterior.draws, "tau": posterior.draws["log_tau"].exp()}
    return replace(posterior, entry=entry, draws=draws)


def test_the_table_of_scores_has_the_figures_of_its_cells(tmp_path):
    plan = make_plan(entries=["coin"], guides=["mean_field"], nuts=False, quick=True)
    result = execute(plan, out=tmp_path / "run", jobs=1)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "run" / "results.csv").read_text())))
    assert results_csv(result.cells) == (tmp_path / "run" / "results.csv").read_text()
    (path,) = (tmp_path / "run" / "cells").glob("*/cell.json")
    cell = json.loads(path.read_text())
    joint = {d["name"]: d for d in cell["distances"]}
    expected = {
        "elbo": cell["elbo"]["value_nats"],
        "elbo_se": cell["elbo"]["se"],
        "pareto_k": cell["pareto_k"]["value"],
        "c2st": joint["c2st"]["value"],
        "c2st_se": joint["c2st"]["se"],
        "c2st_floor": joint["c2st"]["floor"],
        "sliced_wasserstein": joint["sliced_wasserstein"]["value"],
        "sliced_wasserstein_se": None,
        "sliced_wasserstein_floor": joint["sliced_wasserstein"]["floor"],
        "seconds": cell["cost"]["seconds"],
        "compile_seconds": cell["cost"]["compile_seconds"],
        "gradient_evaluations": cell["cost"]["gradient_evaluations"],
    }
    assert set(expected) == set(figures_of(cell))
    clock = {"seconds", "compile_seconds"}
    for row in rows:
        assert not clock & set(row)  # two runs of one command have the same bytes
        for name in set(expected) - clock:
            assert (float(row[name]) if row[name] else None) == expected[name], name
    frame = results_frame(tmp_path / "run")
    for name in ("elbo", "seconds", "compile_seconds", "gradient_evaluations"):
        assert list(frame[name]) == [expected[name]] * len(rows)


def test_costs_stand_apart_from_results(tmp_path):
    """`results.csv` is the same for each run of a command; what a clock says is in `costs.csv`."""
    plan = make_plan(entries=["coin"], guides=["laplace", "mean_field"], nuts=False, quick=True)
    runs = [execute(plan, out=tmp_path / name, jobs=1) for name in ("first", "second")]
    first, second = ((tmp_path / n / "results.csv").read_bytes() for n in ("first", "second"))
    assert first == second
    text = (tmp_path / "first" / "costs.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [r["method"] for r in rows] == ["laplace", "mean_field"]
    for row in rows:
        (path,) = (tmp_path / "first" / "cells").glob(f"*--{row['method']}--*/cell.json")
        cell = json.loads(path.read_text())
        assert list(row) == ["entry", "method", "seed", "status", *cell["cost"]]
        assert (row["entry"], row["seed"], row["status"]) == ("coin", "0", cell["status"])
        assert {k: float(row[k]) for k in cell["cost"]} == cell["cost"]
        assert cell["cost"]["seconds"] > 0
    failed = dict(runs[0].cells[0], cost=None, status="killed", method="=nuts")
    (row,) = csv.DictReader(io.StringIO(costs_csv([failed])))
    assert (row["method"], row["status"], row["seconds"]) == ("'=nuts", "killed", "")


# -- terminal ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_printing_cuts_no_column(run, width):
    """With 100 columns, `kn` and `my_model on these da` were left of the reference's sentence."""
    reason = "No reference is known for my_model on these data; run NUTS on it."
    entries = [
        replace(e, reference=replace(e.reference, reason=reason))
        if e.entry.name == "my_model"
        else e
        for e in run.entries
    ]
    text = render_table(replace(run, entries=entries), width)
    assert max(map(len, text.splitlines())) <= width
    assert reason in " ".join(text.split())
    head = next(line for line in text.splitlines() if line.startswith("entry"))
    assert head.split()[-1] == "reference"
    start = head.index("reference")
    shown = [line[start:].strip() for line in text.splitlines() if len(line) > start]
    assert {"stored", "analytic", "none"} <= set(shown)
    for entry in run.entries:
        assert width < 100 or entry.entry.key in text
        for cell in cells(entry).values():
            assert all(word in text for word in cell.word.split())
