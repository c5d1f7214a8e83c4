"""The page of a run, text by text, from a document written by hand."""

import math

import pytest

from benchmarks.speed import table
from benchmarks.speed.table import BEGIN, END, insert, markdown, number
from zoo.errors import UsageError


def document(**changes):
    ours = {
        "records": {
            "svi_mean_field": {"used": True},
            "gradient": {"used": False, "reason": "no compiler"},
            "nuts": {"used": True},
        },
        "measures": {
            "svi_mean_field": [{"seconds": 2e-5}, {"seconds": 4e-5}, {"seconds": 3e-5}],
            "gradient": [{"seconds": 5e-6}],
        },
        "nuts": [
            {"ess": 90.0, "ess_per_second": 900.0, "seconds_per_gradient": 2e-6, "note": ""},
            {"ess": None, "ess_per_second": None, "seconds_per_gradient": 4e-6, "note": "short"},
            {"ess": 0.0, "ess_per_second": 0.0, "seconds_per_gradient": None, "note": "short"},
        ],
        "rhat": 1.02,
        "cold_seconds": {"start": 1.0, "gradient": 2.0, "nuts": 3.0, "svi_mean_field": 9.0},
        "warm_seconds": {"start": 0.5, "nuts": 1.0},
    }
    pyro = {
        "measures": {"svi_mean_field": [{"seconds": 1e-3}, {"seconds": 1e-3}, {"seconds": 3e-3}]},
        "nuts": [],
        "error": "pyro ended",
        "rhat": 1.01,
        "warm_seconds": {"start": 0.5},
    }
    return {
        "quick": False,
        "pairs": 3,
        "seconds": 150.0,
        "settings": {"slice_seconds": 0.5, "particles": 2},
        "machine": {"processor": "Model 7", "cores": 8, "system": "Linux x86_64"},
        "versions": {"torch": "2.1", "numpy": "1.9"},
        "targets": {"linear": {"title": "linear, 4 x 2", "sides": {"pyro": pyro, "ours": ours}}},
        **changes,
    }


def section(text, title):
    """The text below a heading."""
    return text.split(f"### {title}")[1].split("\n\n", 1)[1].split("\n\n###")[0].strip()


def test_the_first_paragraph_says_what_was_run_where_and_with_which_versions():
    first, second = markdown(document()).split("\n\n")[:2]
    assert first == (
        "Full run, 2 minutes, 3 pairs, slices of 0.5 s, 2 particle(s) per SVI step, float64, one"
        " thread per process, on Model 7 (8 cores, Linux x86_64)."
    )
    assert second == "torch 2.1, numpy 1.9."


def test_the_first_paragraph_names_a_quick_run_load_later_runs_and_missing_peers():
    again = [
        {"measured": ["linear", "radon"], "load_average": {"before": [0.25, 9.0]}},
        {"measured": ["linear"], "load_average": {"before": None}},
    ]
    text = markdown(
        document(
            quick=True,
            load_average={"before": [0.7, 5.0, 5.0]},
            left_out={"stan": "not installed", "other": "odd"},
            again=again,
        )
    )
    assert text.startswith("Quick run, ")
    assert (
        "(8 cores, Linux x86_64). Load average when it began: 0.7. Measured in later runs, with"
        " the programs of that time (load averages): linear (nan), radon (0.2). Stan is left out:"
        " not installed. other is left out: odd.\n\n"
    ) in text
    busy = markdown(document(load_average={"before": [0.71]}))
    assert (
        " Load average when it began: 0.7: **other work shared this machine**; the ratios are of"
        " slices that alternate, the absolute figures are high."
    ) in busy


def test_absolute_times_are_medians_in_microseconds_and_eager_ones_are_marked():
    text = markdown(document())
    assert section(text, "SVI, microseconds per step") == (
        "| entry | mean field ours | mean field Pyro |\n"
        "| --- | --- | --- |\n"
        "| linear, 4 x 2 | 30.0 | 1,000 |"
    )
    assert section(text, "Gradient, microseconds") == (
        "| entry | one ours | in NUTS ours |\n"
        "| --- | --- | --- |\n"
        "| linear, 4 x 2 | 5.00 (eager) | 2.67 |"
    )
    assert section(text, "NUTS, smallest bulk ESS per second") == (
        "| entry | ours |\n| --- | --- |\n| linear, 4 x 2 | 450 |"
    )


def test_an_entry_without_a_figure_has_a_dash():
    given = document()
    given["targets"]["radon"] = {"title": "radon", "sides": {"ours": {}}}
    text = markdown(given)
    assert "\n| radon | - | - |" in section(text, "SVI, microseconds per step")


def test_every_ratio_has_its_median_and_range():
    given = document()
    text = markdown(given)
    title = "Every ratio: our speed over theirs, median (smallest to largest of the pairs)"
    assert section(text, title) == (
        "| entry | measure | peer | ratio |\n"
        "| --- | --- | --- | --- |\n"
        "| linear | svi mean field | Pyro | 50.0 (25.0 to 100) |"
    )
    sides = given["targets"]["linear"]["sides"]
    sides["stan"] = sides["pyro"]
    given["targets"]["linear"]["sides"] = dict(sorted(sides.items(), reverse=True))
    lines = section(markdown(given), title).splitlines()[2:]
    assert [line.split(" | ")[2] for line in lines] == ["Pyro", "Stan"]


def test_starts_add_what_a_first_call_needs_to_the_start_of_the_process():
    """Cold: 1 + 2 + 3 for NUTS, 1 + 9 for SVI. Warm: 0.5 + 1; Pyro prepared nothing."""
    text = markdown(document())
    assert section(text, "Start, seconds") == (
        "| entry | side | cold, NUTS | cold, SVI | warm, NUTS | warm, SVI |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| linear, 4 x 2 | ours | 6.00 | 10.0 | 1.50 | - |"
    )
    assert table._starts({"targets": {}}) == ""


def test_growth_shows_times_errors_and_dashes():
    rows = [
        {"rows": 1000, "gradient": 2e-6, "svi_mean_field": 3e-4},
        {"rows": 100_000, "gradient_error": "ours: out of memory"},
    ]
    text = markdown(document(growth=rows))
    assert section(text, "Growth with the data") == (
        "| rows | gradient on all, us | SVI step on 100 rows, us |\n"
        "| --- | --- | --- |\n"
        "| 1,000 | 2.00 | 300 |\n"
        "| 100,000 | ours: out of memory | - |"
    )
    assert section(markdown(document()), "Growth with the data") == "not measured"


def test_remarks_name_errors_high_rhat_notes_unusable_runs_and_eager_measures():
    assert section(markdown(document()), "Remarks").splitlines() == [
        "- linear, Pyro: pyro ended",
        "- linear, ours: R-hat 1.020 over the runs of the pairs, so its ESS is overstated.",
        "- linear, ours: short",
        "- linear, ours: 2 of 3 runs have no usable draws; they enter no ratio.",
        "- linear, ours, gradient: eager (no compiler)",
    ]
    assert table._remarks({"targets": {"a": {"sides": {"ours": {"rhat": None}}}}}) == ""


@pytest.mark.parametrize(
    ("met", "word"), [(14.0, "met"), (16.0, "**missed**"), (None, "not measured")]
)
def test_criteria_are_met_missed_or_not_measured(met, word):
    commands = {} if met is None else {"compare_warm": met}
    lines = section(markdown(document(commands=commands)), "Criteria").splitlines()
    assert lines[0] == "| criterion | required | measured |  |"
    (line,) = [line for line in lines if "eight_schools, warm" in line]
    assert line.endswith(f"| {word} |")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0012345, "0.00123"),
        (1.0, "1.00"),
        (9.994, "9.99"),
        (10.0, "10.0"),
        (-12.34, "-12.3"),
        (99.5, "99.5"),
        (100.0, "100"),
        (1234.5, "1,234"),
        (0, "0"),
        (math.inf, "-"),
        (math.nan, "-"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_tables_go_between_the_first_and_the_last_mark_of_a_page(tmp_path):
    page = tmp_path / "performance.md"
    insert(page, "one")
    assert page.read_text() == f"{BEGIN}\n\none\n{END}\n"
    page.write_text(f"a\n{BEGIN}x{END}\nb {END} c")
    insert(page, "two")
    assert page.read_text() == f"a\n{BEGIN}\n\ntwo\n{END}\nb {END} c"
    for text in (BEGIN, END):
        page.write_text(text)
        with pytest.raises(UsageError) as caught:
            insert(page, "three")
        assert str(caught.value) == (
            f"performance.md lacks the lines {BEGIN} and {END}; add them where the tables belong."
        )
        assert page.read_text() == text
