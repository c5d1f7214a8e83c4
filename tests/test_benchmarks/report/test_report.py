"""The report: escaped, self-contained, deterministic, bounded in size, with all findings."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import report_factory

from benchmarks.metrics.numbers import value_with_error
from benchmarks.report import (
    FitSummary,
    ReportInput,
    figures_fit,
    render_html,
    render_markdown,
    render_table,
)
from benchmarks.report import panels as panels_folder
from benchmarks.report.components import make_view, worst_pair
from benchmarks.report.figures_cost import noise_floor, spread, uncompiled
from benchmarks.report.keys import key
from benchmarks.report.numbers import duration, plain, short_count, with_error
from benchmarks.report.overview import cells, columns, reference_words, tidy
from benchmarks.report.section import SECTIONS, sections_of
from benchmarks.report.sections.story import story
from benchmarks.report.theme import ROLES, marks
from benchmarks.report.words import headline
from benchmarks.verdicts import VERDICTS
from zoo.registry import catalog
from zoo.types import Posterior

FACTORY = vars(report_factory)


@pytest.fixture(scope="module")
def run():
    torch.set_num_threads(1)
    return FACTORY["make_run"]()


@pytest.fixture(scope="module")
def page():
    return FACTORY["page"]()


def only(run, name, **changes):
    entry = next(e for e in run.entries if e.entry.name == name)
    return ReportInput(entries=[replace(entry, **changes)], meta=run.meta)


# --- the page as a document


def test_nothing_is_fetched_and_nothing_runs(page):
    assert "default-src 'none'" in page
    assert not re.search(
        r"<script|javascript:|\son\w+=|@import|<link[^>]+href=\"(?!data:)|src=\"(?!data:)|url\((?!#)",
        page,
    )


def test_text_of_others_is_escaped(page):
    assert '<script>alert("x")' not in page
    assert page.count("&lt;script&gt;alert(") >= 3  # a title, a component's label, the machine


def test_links_and_ids_are_sound(page):
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert targets <= set(ids)


def test_figures_have_text_and_follow_the_color_scheme(page):
    figures = re.findall(r'<svg role="img".*?</svg>', page, re.S)
    assert len(figures) > 30
    assert all(re.match(r'<svg role="img" aria-label="[^"]{15,}"', f) for f in figures)
    stray = {c for f in figures for c in re.findall(r"#[0-9a-f]{6}\b", f)}
    assert stray <= {"#000000", "#ffffff"}, stray  # every color is a role with a dark value
    assert "prefers-color-scheme:dark" in page
    assert all(f"--c-{role}:" in page for role in ROLES)


def test_size_stays_below_two_megabytes_for_ten_entries(page):
    sections = [s.encode() for s in re.findall(r'<section class="entry".*?</section>', page, re.S)]
    rest = len(page.encode()) - sum(map(len, sections))
    assert 10 * max(map(len, sections)) + 2.5 * rest < 2_000_000


def test_same_input_gives_the_same_bytes(run, page):
    small = only(run, "my_model")
    assert render_html(small) == render_html(small)
    assert render_html(run, jobs=2) == page
    assert render_markdown(small) == render_markdown(small)


def test_every_column_head_is_defined(page):
    heads = set(re.findall(r'class="term" href="#(d-\w+)" title="([^"]+)"', page))
    assert {
        "d-mean_error",
        "d-sd_ratio",
        "d-khat",
        "d-coverage90",
        "d-reference",
        "d-distance",
    } <= {h for h, _ in heads}
    assert all("Unit: " in title and "Good: " in title for _, title in heads)


def test_a_run_without_entries_renders():
    empty = ReportInput(entries=[])
    assert "<main>" in render_html(empty)
    assert render_markdown(empty).startswith("# ")
    assert render_table(empty)


# --- what it says


def test_verdicts_are_in_the_table_as_word_number_and_color(run, page):
    table = page[page.index('<table class="heat">') : page.index("</table>")]
    for entry in run.entries:
        for cell in cells(entry).values():
            assert f'class="v v-{cell.verdict}"' in table
            assert f"<b>{cell.word}</b>" in table
            assert cell.number in table
    assert table.count('class="v none"') == len(run.entries) * len(columns(run)) - sum(
        len(e.comparisons) for e in run.entries
    )
    assert "12 divergences" in table


def test_another_verdict_changes_the_page(run):
    entry = next(e for e in run.entries if e.entry.name == "my_model")
    changed = [replace(entry.comparisons[0], verdict="too_wide"), *entry.comparisons[1:]]
    word = VERDICTS["too_wide"].shown
    assert f"<b>{word}</b>" not in render_html(only(run, "my_model"))
    assert f"<b>{word}</b>" in render_html(only(run, "my_model", comparisons=changed))
    assert word in render_table(only(run, "my_model", comparisons=changed))
    assert f"**{word}**" in render_markdown(only(run, "my_model", comparisons=changed))


def test_headline_names_the_component_that_decided(run):
    schools = run.entries[0]
    assert headline(schools.comparisons[0])[0] == "log_tau"
    assert headline(schools.comparisons[0])[1].startswith("sd ×0.4")
    assert headline(schools.comparisons[1])[1].startswith("mean +0.")
    assert headline(schools.comparisons[3]) == ("", "init failed")


def test_marks_are_stable_and_distinct():
    first, more = marks(["mean_field", "nuts"]), marks(["mine", "laplace", "mean_field", "nuts"])
    assert first["mean_field"] == more["mean_field"]
    assert len({(m.color, m.marker) for m in more.values()}) == 4
    deep = [
        "mean_field",
        "full_rank",
        "low_rank",
        "laplace",
        "amortized",
        "dirichlet",
        "amortized_full",
        "amortized_flow",
    ]
    deep += ["block_full_rank", "flow"]  # one report of the four deep entries
    found = marks(deep).values()
    for name in ("role", "color", "marker", "dash"):
        assert len({str(getattr(m, name)) for m in found}) == len(deep)
    assert all(str(key(m)).startswith("<svg") for m in found)
    assert len(marks([f"mine {i}" for i in range(14)])) == 14  # more would repeat


def test_rows_of_several_seeds_have_the_color_of_their_method():
    """A method lost its color when seeds were added, and two rows of NUTS looked the same."""
    methods = ["mean_field", "mine", "nuts"]
    alone = marks(methods)
    found = marks([f"{m} s{seed}" for seed in (0, 3, 7) for m in methods])
    for method in methods:
        rows = [found[f"{method} s{seed}"] for seed in (0, 3, 7)]
        assert {row.color for row in rows} == {alone[method].color}
        assert rows[0] == alone[method]
        assert len({str(row.marker) for row in rows}) == len({str(row.dash) for row in rows}) == 3
    many = [f"{m} s{seed}" for seed in range(40) for m in methods]
    assert list(marks(many)) == many  # looks repeat, nothing fails


def test_sentences_of_the_terminal_are_typeset():
    assert (
        tidy("mean off by -0.31 +- 0.02 sd, sd x0.42 or 0.42x it; a-1, z[-1], 2x3")
        == "mean off by −0.31 ± 0.02 sd, sd ×0.42 or 0.42× it; a-1, z[−1], 2x3"
    )


def test_an_unusable_reference_is_shown_as_such(run):
    entry = run.entries[0]
    bad = replace(entry.reference, usable=False, reason="R-hat is 1.2")
    assert reference_words(replace(entry, reference=bad)) == (
        "stored",
        "unusable: R-hat is 1.2",
        "bad",
    )
    assert reference_words(run.entries[3])[0] == "none"


def test_components_are_ordered_worst_first(run):
    view = make_view(run.entries[0])
    assert view.order[0] == ("log_tau", ())
    assert view.order[-1] == ("lp_shown", ())  # not judged: last, whatever its error
    assert "laplace" not in view.shown


def test_worst_pair_is_the_lost_correlation(run):
    _, _, method, got, true = worst_pair(make_view(run.entries[1]))
    assert method == "mean_field"
    assert abs(got) < 5 / np.sqrt(2000)
    assert abs(true - 0.9) < 5 * 0.19 / np.sqrt(8000)


def test_noise_floor_is_three_standard_errors(run):
    assert noise_floor(make_view(run.entries[1])) == pytest.approx(3 * 1.4 / np.sqrt(4000))
    assert noise_floor(make_view(run.entries[3])) is None


def test_fits_without_a_compiled_graph_are_marked_beside_others(run):
    entry = next(e for e in run.entries if len(e.summaries()) > 1)
    fits = entry.summaries()
    first = next(iter(fits))

    def marked(**used):
        changed = {n: replace(f, compiled={"used": used.get(n, True)}) for n, f in fits.items()}
        return uncompiled(make_view(replace(entry, fits=changed)))

    assert marked() == set()
    assert marked(**{first: False}) == {first}
    assert marked(**dict.fromkeys(fits, False)) == set()  # all alike: nothing to tell apart
    stepless = {
        n: replace(f, compiled={"used": n != first}, cost=replace(f.cost, steps=0))
        for n, f in fits.items()
    }
    assert uncompiled(make_view(replace(entry, fits=stepless))) == set()  # Laplace takes no steps
    page = render_html(
        replace(
            run,
            entries=[
                replace(
                    entry,
                    fits={n: replace(f, compiled={"used": n != first}) for n, f in fits.items()},
                )
            ],
        )
    )
    assert "A fit marked eager" in page
    assert f"{first}, eager" in page


def test_losses_over_different_units_have_floors_of_their_own(run):
    """Guides fitted to all units and to the evaluation subset.

    Each curve ends near the bottom, whatever the size of the others.
    """
    entry = next(e for e in run.entries if len(e.summaries()) > 1)
    names = list(entry.summaries())[:2]
    fits = {
        n: replace(
            entry.summaries()[n], losses=np.geomspace(1.0, 1e-3, 400) * 50 + k * 1e4, restarts=()
        )
        for k, n in enumerate(names)
    }
    heights = {}
    for judged in (None, lambda data: data):
        view = make_view(
            replace(entry, entry=replace(entry.entry, judged=judged)),
            [c.posterior.method for c in entry.comparisons],
        )
        figure = figures_fit.losses(view, fits)
        heights[judged is not None] = [
            line.get_ydata()[-1] for line in figure.axes[0].lines if len(line.get_ydata()) > 1
        ]
    assert heights[True] == pytest.approx([0.1, 0.1])
    assert max(heights[False]) == pytest.approx(1e4, rel=0.01)
    page = render_html(
        ReportInput(
            entries=[replace(entry, entry=replace(entry.entry, judged=lambda data: data))],
            meta=run.meta,
        )
    )
    assert "above its own lowest: some guides are fitted to all units" in page


def test_labels_are_spread_apart():
    heights = spread([("a", 50.0), ("b", 51.0), ("c", 52.0), ("d", 120.0)], 12, 0, 170)
    ordered = sorted(heights.values())
    assert [b - a for a, b in pairwise(ordered)][:2] == pytest.approx([12.0, 12.0])
    assert heights["b"] == pytest.approx(51.0)  # the least squares: the middle one stays
    assert heights["d"] == pytest.approx(120.0)
    low = spread([("a", 2.0), ("b", 3.0)], 12, 6, 170)
    assert low == pytest.approx({"a": 6.0, "b": 18.0})
    full = spread([(str(i), 50.0) for i in range(5)], 12, 0, 20)  # no room for the gaps
    assert list(full.values()) == pytest.approx([0.0, 5.0, 10.0, 15.0, 20.0])
    assert spread([], 12, 0, 170) == {}


# --- parts that come from outside


def test_draws_that_are_not_finite_are_left_out(run):
    entry = run.entries[1]
    broken = replace(
        entry.comparisons[0].posterior, draws={"z": torch.full((50, 5), float("nan"))}
    )
    assert isinstance(broken, Posterior)
    view = make_view(
        replace(
            entry,
            comparisons=[replace(entry.comparisons[0], posterior=broken), *entry.comparisons[1:]],
        )
    )
    assert "mean_field" not in view.shown
    render_html(ReportInput(entries=[view.report]))


def test_panel_hook_draws_and_its_failure_is_shown(run):
    def panel(report):
        from benchmarks.report.theme import canvas

        figure, axis = canvas(300, 200)
        axis.plot([0, 1], [0, 1])
        return [(figure, "A panel of its own")]

    def broken(report):
        raise ValueError("no <pixels>")

    entry = run.entries[3].entry
    assert "A panel of its own" in render_html(
        only(run, "my_model", entry=replace(entry, panel=panel))
    )
    assert "no &lt;pixels&gt;" in render_html(
        only(run, "my_model", entry=replace(entry, panel=broken))
    )


def test_story_is_read_from_the_model_file(run):
    import sys

    doc = (
        "Title.\n\nWhy <it> matters,\nin two lines.\n\n    mu ~ Normal(0, 5)\n    y ~ Normal(mu,"
        " 1)\n\nHard because of a funnel.\n"
    )
    sys.modules["a_model_file"] = module = SimpleNamespace(__doc__=doc, ENTRY=1)
    try:
        build = lambda data, **options: None  # noqa: E731
        build.__module__ = "a_model_file"
        report = replace(run.entries[3], entry=replace(run.entries[3].entry, build=build))
        assert story(report) == (
            ["Title.", "Why <it> matters, in two lines."],
            "mu ~ Normal(0, 5)\ny ~ Normal(mu, 1)",
            ["Hard because of a funnel."],
        )
        del module.ENTRY  # a program in a user's script has no model file
        assert story(report) == ([], "", [])
    finally:
        del sys.modules["a_model_file"]


def test_a_live_fit_gives_a_summary(run):
    stored = run.entries[0].fits["mean_field"]
    live = SimpleNamespace(
        **{
            f: getattr(stored, f)
            for f in ("losses", "stop", "elbo", "cost", "restarts", "compiled")
        }
    )
    assert FitSummary.of(live) == stored
    first = replace(run.entries[3].comparisons[0], fit=live)
    assert replace(run.entries[3], comparisons=[first], fits={}).summaries() == {
        "mean_field": stored
    }


# --- Markdown and the terminal


def test_markdown_is_escaped_and_short(run):
    text = render_markdown(run)
    assert "<script>" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    width = len(re.findall(r"(?<!\\)\|", rows[0]))
    assert len(re.findall(r"(?<!\\)\|", rows[1])) == width
    assert all(len(re.findall(r"(?<!\\)\|", r)) == width for r in rows[: 2 + len(run.entries)])
    many = render_markdown(ReportInput(entries=list(run.entries) * 40, meta=run.meta))
    assert 30_000 < len(many) < 60_000
    assert len(render_markdown(run, limit=3000)) <= 3000


def test_table_fits_the_terminal(run):
    text = render_table(run, width=90)
    assert max(map(len, text.splitlines())) <= 90
    assert "\x1b" not in text
    assert "\x1b" in render_table(run, width=90, color=True)
    assert all(e.entry.key in text for e in run.entries)
    lines = text.splitlines()
    about = [i for i, line in enumerate(lines) if line.startswith("  Reference: ")]
    assert about  # right below its sentence, without an empty line
    assert all(lines[i - 1].startswith("  ") for i in about)


@pytest.mark.parametrize(
    ("value", "se", "text"),
    [
        (0.8231, 0.031, "0.82 ± 0.03"),
        (0.8231, 0.0131, "0.823 ± 0.013"),
        (-12.34, 2.0, "−12 ± 2"),
        (0.001, 0.04, "0.00 ± 0.04"),
        (-0.001, 0.04, "0.00 ± 0.04"),
        (1234567.0, 0.0, "1.2e6"),
        (0.21234, None, "0.212"),
        (float("nan"), 0.1, "–"),
        (0.0, None, "0"),
        (0.12345678, 1e-9, "0.1235"),
    ],
)
def test_numbers_carry_no_more_digits_than_earned(value, se, text):
    assert with_error(value, se) == text


def test_signs_counts_and_durations():
    assert with_error(0.5, 0.1, sign=True) == "+0.50 ± 0.10"
    assert plain(-0.00001) == "−1.0e−5"
    assert [short_count(v) for v in (950, 12_000, 3_400_000, 0.02)] == [
        "950",
        "12k",
        "3.4M",
        "0.02",
    ]
    assert [duration(v) for v in (0.05, 3.21, 75, 185, 7300)] == [
        "50 ms",
        "3.2 s",
        "75 s",
        "3 min 5 s",
        "2 h 1 min",
    ]


def test_panels_are_registered_by_tags_and_a_card_may_bring_its_own(run):
    entry = only(run, "my_model").entries[0].entry
    panels = {p.stem for p in Path(panels_folder.__file__).parent.glob("[a-z]*.py")}

    def of(**changes):
        return {s.name for s in sections_of(replace(entry, **changes))} & panels

    assert of() == set()
    assert of(tags=frozenset({"topics", "other"})) == {"topics"}
    assert of(tags=frozenset({"mixture"})) == set()
    own = replace(
        run.entries[3], entry=replace(entry, tags=frozenset({"topics"}), panel=lambda report: [])
    )
    # the card's own panel replaces it
    assert SECTIONS["topics"].html(make_view(own)) is None
    tags = [SECTIONS[name].tags for name in panels]
    covered = {
        info.name
        for info in catalog()
        if info.source == "zoo" and any(t <= info.tags for t in tags)
    }
    assert covered == {
        "gaussian_mixture",
        "gaussian_mixture_exact",
        "gaussian_mixture_classes",
        "latent_class",
        "lda",
        "lda_small",
        "lda_digits",
        "lda_exact",
        "vae",
        "beta_vae",
        "iwae",
    }


@pytest.mark.parametrize("se", [2e-4, 0.0131, 0.02, 0.1, 0.96, 3.0, 17.0])
@pytest.mark.parametrize("value", [-0.2512, 0.0004, 1.0, 42.42])
def test_sentences_and_tables_show_the_same_number(value, se):
    """One rounding rule, so that a cell and the sentence that quotes it cannot differ."""
    shown = with_error(value, se).replace("\N{MINUS SIGN}", "-").replace("±", "+-")
    assert value_with_error(value, se) == shown
