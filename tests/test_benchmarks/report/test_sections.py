"""Sections register themselves, from a file or a plug-in; a faulty one gives a sentence."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from support import report_factory
from support.installed import Installed

from benchmarks.report import ReportInput, render_html, render_markdown
from benchmarks.report.section import SECTIONS, ReportSection, sections_of
from zoo.errors import UsageError

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "add_a_report_section.md"
PLUGIN = """
from markupsafe import Markup

from benchmarks.report import blocks
from benchmarks.report.section import ReportSection

def html(view):
    rows = [[n, len(c.scores)] for n, c in view.by_name.items()]
    return blocks.table(["method", "draws"], rows, title="Counted <here>")

def markdown(report):
    return blocks.markdown_table(["method"], [[c.method] for c in report.comparisons])

def fails(given):
    raise ValueError("no <pixels> today")

SECTION = ReportSection(
    name="counted", about="how many scores there are", order=15, html=html, markdown=markdown
)
PLAIN = ReportSection(
    name="plain", about="text", order=16,
    html=lambda view: "<script>1</script>", markdown=lambda report: "plain words",
)
FAULTY = ReportSection(name="faulty", about="a fault", order=35, html=fails, markdown=fails)
WRONG = ReportSection(name="wrong", about="a fault", order=35, html=lambda view: 3)
SCHOOLS = ReportSection(
    name="schools", about="schools", order=15,
    html=lambda v: "only schools", entries=frozenset({"eight_schools"}),
)
"""


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def run():
    return report_factory.make_run()


@pytest.fixture
def install(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    made = Installed(tmp_path, SECTIONS)
    yield lambda *lines: made(*lines, outside_section=PLUGIN)
    made.close()


def small(run):
    return ReportInput(entries=[run.entries[3]], meta=run.meta)


@pytest.mark.parametrize("name", SECTIONS)
def test_every_file_is_a_section_of_its_name(name):
    section = SECTIONS[name]
    assert section.name == name
    assert section.about[-1] not in ".;"
    template = ROOT / "benchmarks" / "report" / "sections" / f"{name}.jinja"
    assert (
        not template.exists()
        or f"sections/{name}.jinja" in template.with_suffix(".py").read_text()
    )


def test_the_sections_stand_in_their_order(run):
    found = sections_of(run.entries[3].entry)
    listed = [name for _, name, _ in rows_of_the_page()]
    assert [s.name for s in found] == [n for n in listed if SECTIONS[n] in found]
    assert len({s.order for s in found}) == len(found)
    example = int(re.search(r"^    order=(\d+),$", PAGE.read_text(), re.MULTILINE)[1])
    assert example not in {s.order for s in SECTIONS.values()}, "the example of the page"


def rows_of_the_page():
    rows = re.findall(
        r"^\| (\d+) \| `(\w+)` \| ([^|]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    return [(int(order), name, about) for order, name, about in rows]


def test_the_page_lists_the_sections():
    ours = sorted((s.order, s.name, s.about) for s in SECTIONS.values())
    assert rows_of_the_page() == ours


def test_the_file_of_the_page_is_a_section(run, tmp_path, monkeypatch):
    """The file in docs/add_a_report_section.md, between draws and fits, in HTML and Markdown."""
    page = PAGE.read_text(encoding="utf-8")
    (code,) = [
        b
        for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        if "SECTION = ReportSection(" in b
    ]
    monkeypatch.syspath_prepend(tmp_path)
    made = Installed(tmp_path, SECTIONS)
    try:
        made("widths = widths_section:SECTION", widths_section=code)
        heard = []
        html, text = render_html(run, say=heard.append), render_markdown(run, say=heard.append)
        assert heard == []
        judged = [e for e in run.entries if any(s.judged for c in e.comparisons for s in c.scores)]
        assert (
            html.count("<h3>Widths</h3>")
            == text.count("| method | too narrow | too wide | components |")
            == len(judged)
        )
        first = html[html.index('<section class="entry"') :]
        assert (
            first.index("Where the draws are")
            < first.index("Widths")
            < first.index("How the guides were fitted")
        )
        ids = re.findall(r'\sid="([^"]+)"', html)
        assert len(ids) == len(set(ids))
        narrow = sum(
            s.sd_ratio < 1 / 1.15 for s in run.entries[0].comparisons[0].scores if s.judged
        )
        assert f"| mean\\_field | {narrow} |" in text
    finally:
        made.close()


def test_an_installed_section_stands_in_html_and_markdown(run, install):
    install(
        "counted = outside_section:SECTION",
        "plain = outside_section:PLAIN",
        "schools = outside_section:SCHOOLS",
    )
    page, text = render_html(run), render_markdown(run)
    assert page.count("Counted &lt;here&gt;") == len(run.entries)
    # text that is not Markup
    assert page.count("&lt;script&gt;1&lt;/script&gt;") == len(run.entries)
    first = page[page.index('<section class="entry"') :]
    assert first.index("Counted") < first.index('<ul class="findings">')
    assert text.count("| method |\n|---|") >= len(run.entries)
    assert text.count("plain words") == len(run.entries)
    assert page.count("only schools") == sum(e.entry.name == "eight_schools" for e in run.entries)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_section_that_raises_is_one_sentence_in_its_place(run, install, capsys, jobs):
    whole = render_html(run)
    install("faulty = outside_section:FAULTY", "wrong = outside_section:WRONG")
    page = render_html(run, jobs=jobs)
    sentence = "The section faulty of this entry failed: ValueError: no &lt;pixels&gt; today"
    other = (
        "The section wrong of this entry failed: TypeError: it returned a int, not text or None"
    )
    assert page.count(sentence) == page.count(other) == len(run.entries)
    assert re.sub(rf'<p class="note">({sentence}|{other})</p>\n', "", page) == whole
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 * len(run.entries)
    assert any(
        line.startswith(
            f"zoo: warning: {run.entries[0].entry.key}: The section faulty of this entry failed"
        )
        for line in said
    )
    text = render_markdown(run)
    assert text.count(
        "The section faulty of this entry failed: ValueError: no &lt;pixels&gt; today"
    ) == len(run.entries)
    assert text.count("</details>") == render_markdown(run, say=lambda sentence: None).count(
        "</details>"
    )
    assert len(capsys.readouterr().err.splitlines()) == len(run.entries)


def test_a_fault_in_a_section_of_ours_costs_no_other(run, monkeypatch):
    broken = replace(SECTIONS["fitting"], html=lambda view: 1 / 0)
    monkeypatch.setitem(SECTIONS._loaded, "fitting", broken)
    heard = []
    page = render_html(small(run), say=heard.append)
    assert "The section fitting of this entry failed: ZeroDivisionError" in page
    assert "Trust and cost" in page
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "lost = outside_section:MISSING",
            (
                "The report section 'lost' of outside_section:MISSING cannot be loaded"
                " (AttributeError"
            ),
        ),
        (
            "lost = outside_section:SECTION",
            "The report section 'lost' is a ReportSection called 'counted'",
        ),
        ("lost = outside_section:PLUGIN_HAS_NONE", "cannot be loaded"),
        ("lost = nowhere_at_all:SECTION", "cannot be loaded (ModuleNotFoundError"),
    ],
)
def test_a_broken_plugin_is_one_sentence_and_costs_no_other(run, install, line, says):
    before = render_html(small(run))
    install(line)
    heard = []
    page, text = render_html(small(run), say=heard.append), render_markdown(small(run))
    assert len(heard) == 1
    assert heard[0].startswith(says) or says in heard[0]
    assert page.count("sections left out") == text.count("sections left out") == 1
    assert len(page) - len(before) < 400
    with pytest.raises(UsageError, match=re.escape(says)):
        SECTIONS["lost"]


def test_a_plugin_does_not_replace_a_section_of_ours(install):
    install("scores = outside_section:SECTION")
    assert SECTIONS["scores"].html.__module__ == "benchmarks.report.sections.scores"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "my section"}, "letters, digits and _"),
        ({"about": " "}, "what it shows"),
        ({"html": None}, "neither html nor markdown"),
    ],
)
def test_a_record_that_would_fail_later_is_refused(fields, says):
    with pytest.raises(UsageError, match=says):
        ReportSection(
            **{"name": "mine", "about": "a thing", "order": 5, "html": lambda view: "", **fields}
        )
