"""Studies register themselves by one record; one command handles all of them.

It lists, measures, renders and publishes them.
"""

import importlib
import json
import re
import shutil
import tomllib
from pathlib import Path

import matplotlib
import pytest
from support.installed import Installed

from benchmarks.cli import process as cli
from benchmarks.run.progress import Events
from benchmarks.studies import Rendered, Study, execute, pages, registry
from benchmarks.studies.registry import STUDIES
from benchmarks.studies.rows import Kept, csv_rows, csv_text
from zoo.errors import UnknownNameError, UsageError

ROOT = Path(__file__).parents[3]
# model_pages has no page or published rows of its own
TABLES = [name for name in STUDIES if name != "model_pages"]
# A study in a file of its own: it counts how often it measures, and fails while a file says so.
PLUGIN = """
from pathlib import Path
from benchmarks.run.progress import Events
from benchmarks.studies import Rendered, Study
from benchmarks.studies.rows import Kept, json_rows, json_text


def measure(part, work):
    kept = Kept(work.out / "kept.json")
    count = lambda: 1 + len(list(Path().glob("n-*")))
    kept.once("one", lambda: {"value": count(), "nan": float("nan"), "jobs": work.jobs})
    Path(f"n-{len(list(Path().glob('n-*')))}").touch()
    if Path("broken").exists():
        raise RuntimeError("the machine stopped")
    kept.once("two", lambda: {"value": 0.5 if work.quick else 1.0, "nan": None, "jobs": 0})
    return [{"part": part, **row} for row in kept.rows.values()]


def render(rows):
    values = {part: ", ".join(str(r["value"]) for r in found) for part, found in rows.items()}
    lines = [f"* {part}: {shown}" for part, shown in values.items()]
    text = "\\n".join(["# Counted", "", "<!-- notes -->", "<!-- /notes -->", "", *lines]) + "\\n"
    files = {"counted.json": json_text(rows), "counted.bin": b"\\x00\\x01"}
    parts = {"docs/other.md": {"counted": ", ".join(rows)}}
    return Rendered(text=text, files=files, parts=parts)


STUDY = Study(
    name="counted", title="How often it was measured", page="docs/results/counted.md",
    seconds=100, quick_seconds=1, parts=("first", "second"),
    measure=measure, render=render, read=lambda folder: json_rows(folder / "counted.json"),
)
NAMELESS = Study(
    name="other", title="t", page="docs/results/o.md",
    seconds=1, quick_seconds=1, measure=measure, render=render,
)
NOTHING = 3
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package with one entry point on the path and change to an empty repository."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    installed = Installed(tmp_path, STUDIES)

    def make(line="counted = counted_study:STUDY"):
        installed(line, counted_study=PLUGIN)
        return tmp_path

    yield make
    installed.close()


def run(*words, capsys):
    code = cli.run(["study", *words])
    out, err = capsys.readouterr()
    return code, out, err


# -- records -----------------------------------------------------------------------------------


def test_every_folder_has_one_record():
    folder = Path(registry.__file__).parent
    assert {p.name for p in folder.iterdir() if p.is_dir() and p.name[0].isalpha()} == set(STUDIES)
    packages = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    assert {f"benchmarks.studies.{name}" for name in STUDIES} <= packages


@pytest.mark.parametrize("name", STUDIES)
def test_every_record_is_that_of_its_folder(name):
    study = STUDIES[name]
    assert study.name == name
    assert 0 < study.quick_seconds < study.seconds
    assert (ROOT / study.page).exists()
    assert f"benchmarks.studies.{name}." in study.measure.__module__ + "."


@pytest.mark.parametrize("name", ["latent_classes", "lda", "lora_head"])
def test_the_parts_of_a_record_are_those_that_are_measured(name):
    measured = importlib.import_module(f"benchmarks.studies.{name}.measure").PARTS
    assert tuple(measured) == STUDIES[name].part_names


@pytest.mark.parametrize("name", TABLES)
def test_published_rows_render_the_published_page(name, monkeypatch):
    """Verbatim, with tables and figures; handwritten notes are kept."""
    monkeypatch.chdir(ROOT)
    study = STUDIES[name]
    rows = execute.published(study)
    made, page = study.render(rows), ROOT / study.page
    assert pages.keep_notes(made.text, page) == page.read_text(encoding="utf-8")
    for file, content in made.files.items():
        there = (page.parent / file).read_text(encoding="utf-8")
        if file.endswith(".svg") and f"Matplotlib v{matplotlib.__version__}," not in there:
            # another version of Matplotlib draws the same marks
            assert content.count("<use ") == there.count("<use ")
        else:
            assert content == there
    assert f"`zoo study {name}`" in made.text


def test_pages_name_commands_and_no_mains():
    gone = (
        r"import"
        r" main|benchmarks\.studies\.\w+\.(lab|page|results|collapse|peer|scale|truth|cost)\b"
    )
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        assert not re.search(gone, page.read_text(encoding="utf-8")), page
    assert "import main" not in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "My study"}, "A study is called 'My study'; accepted"),
        ({"parts": ("a", "../b")}, "A part of a study is called '../b'"),
        ({"parts": ()}, "has no parts; leave them out"),
        (
            {"optional": ("tabel",)},
            "Unknown optional part of mine 'tabel' (did you mean 'table'?)",
        ),
        ({"title": "two\nlines"}, "write one line"),
        ({"page": "/etc/page.md"}, "accepted: a .md file or a folder ending in /"),
        ({"page": "docs/../../page.md"}, "accepted: a .md file"),
        ({"page": "docs/page"}, "accepted: a .md file"),
    ],
)
def test_a_record_that_would_fail_later_is_refused(fields, says):
    usual = {
        "name": "mine",
        "title": "t",
        "page": "docs/results/mine.md",
        "seconds": 1,
        "quick_seconds": 1,
    }
    calls = {"measure": lambda part, work: [], "render": lambda rows: Rendered(text="")}
    with pytest.raises(UsageError, match=re.escape(says)):
        Study(**{**usual, **calls, **fields})


# -- rows on disk ------------------------------------------------------------------------------


def test_kept_rows_are_made_once(tmp_path):
    kept = Kept(tmp_path / "new" / "rows.json")
    assert kept.rows == {}
    kept.once("a", lambda: {"value": float("inf")})
    kept.once("a", lambda: pytest.fail("made again"))
    assert Kept(kept.path).rows == {"a": {"value": None}}


def test_a_table_is_read_as_it_was_written(tmp_path):
    rows = [
        {"name": "a, b", "n": 3, "x": 0.1234567890123, "ok": True, "none": None},
        {"name": "1e", "n": 0, "x": 2.0, "ok": False, "none": None},
    ]
    path = tmp_path / "t.csv"
    path.write_text(csv_text([{**r, "more": 1} for r in rows], list(rows[0])))
    assert csv_rows(path) == rows
    path.write_text(csv_text(rows, list(rows[0]), ".6g"))
    assert [r["x"] for r in csv_rows(path)] == [0.123457, 2]
    assert csv_rows(tmp_path / "none.csv") == []


# -- the command -------------------------------------------------------------------------------


def test_the_list_names_every_study(capsys):
    code, out, err = run(capsys=capsys)
    assert (code, err) == (0, "")
    for name in STUDIES:
        assert re.search(rf"^{name} .*docs/", out, flags=re.MULTILINE)
    code, out, _ = run("--json", capsys=capsys)
    listed = {s["name"]: s for s in json.loads(out)["studies"]}
    assert listed.keys() == set(STUDIES)
    assert listed["lda"]["parts"] == [
        "bars",
        "number_of_topics",
        "three_numbers",
        "amortized",
        "digits",
    ]
    assert listed["lda"]["seconds"] == 600
    assert listed["lda"]["error"] is None


def test_wrong_requests_are_one_sentence(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    for words, says in [
        (("ldaa",), "Unknown study 'ldaa' (did you mean 'lda'?)"),
        (("lda", "--part", "bar"), "Unknown part of the study lda 'bar' (did you mean 'bars'?)"),
        (("lda", "--quick", "--write"), "a published page needs a full run"),
        (("lda", "--write"), "needs the folder 'docs/results'"),
        (("lda", "--render", "--part", "bars"), "rendering takes all rows"),
        (("lda", "--render"), "has no rows in 'out/studies/lda' and none published"),
        (("lda", "--out", "full"), "holds something else than a study"),
        (("model_pages",), "finds nothing to measure here"),
        (("--quick", "--part", "x"), "got --quick, --part without a name"),
    ]:
        code, out, err = run(*words, capsys=capsys)
        assert (code, out) == (2, ""), words
        assert says in err, words
        assert err.count("\n") == 1, words
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["full", "thesis.tex"]


def test_a_study_of_a_file_is_listed_measured_rendered_and_published(install, capsys):
    """A tiny study end to end: resumed, one part repeated, quick runs separate, notes kept.

    Nothing of the page is lost.
    """
    root = install()
    code, out, _ = run("--json", capsys=capsys)
    assert "counted" in {s["name"] for s in json.loads(out)["studies"]}
    (root / "broken").touch()
    code, _, err = run("counted", "--jobs", "1", capsys=capsys)
    assert code == 3
    assert "the machine stopped" in err
    (root / "broken").unlink()
    code, out, err = run("counted", capsys=capsys)
    assert code == 0
    folder = root / "out" / "studies" / "counted"
    assert out.split() == ["out/studies/counted/counted.md"]
    stored = json.loads((folder / "rows.json").read_text())
    assert stored["study"] == "counted"
    assert not stored["quick"]
    first = stored["rows"]["first"]
    # kept from the interrupted run
    assert first[0] == {"part": "first", "value": 1, "nan": None, "jobs": 1}
    assert stored["rows"]["second"][0]["value"] == 3
    assert (folder / "counted.md").read_text().endswith("* first: 1, 1.0\n* second: 3, 1.0\n")
    assert (folder / "counted.bin").read_bytes() == b"\x00\x01"
    counts = len(list(root.glob("n-*")))
    run("counted", capsys=capsys)
    assert len(list(root.glob("n-*"))) == counts  # nothing is measured twice
    run("counted", "--part", "first", capsys=capsys)
    again = json.loads((folder / "rows.json").read_text())["rows"]
    assert list(again) == ["first", "second"]
    assert again["first"][0]["value"] == counts + 1
    assert again["second"] == stored["rows"]["second"]

    (root / "docs" / "results").mkdir(parents=True)
    (root / "docs" / "other.md").write_text("# Other\n<!-- counted -->\n<!-- /counted -->\n")
    code, out, _ = run("counted", "--render", "--write", "--json", capsys=capsys)
    assert code == 0
    document = json.loads(out)
    assert document["rows"] == again
    assert document["written"][1:] == [
        "docs/results/counted.md",
        "docs/results/counted.json",
        "docs/results/counted.bin",
        "docs/other.md",
    ]
    assert (
        "<!-- counted -->\nfirst, second\n<!-- /counted -->"
        in (root / "docs" / "other.md").read_text()
    )

    page = root / "docs" / "results" / "counted.md"
    page.write_text(pages.with_part(page.read_text(), "notes", "It was the rain."))
    shutil.rmtree(root / "out")
    # published rows get a folder apart from later runs
    code, out, _ = run("counted", "--render", capsys=capsys)
    assert out.split() == ["out/studies/counted-published/counted.md"]
    assert Path(out.strip()).read_text() == page.read_text()
    # the other part stays as published
    code, _, err = run("counted", "--part", "second", "--write", capsys=capsys)
    assert code == 0
    rows = json.loads((page.parent / "counted.json").read_text())
    assert rows["first"] == again["first"]
    assert rows["second"][0]["value"] > again["second"][0]["value"]
    assert "It was the rain." in page.read_text()
    assert "It was the rain." in (folder / "counted.md").read_text()

    code, out, _ = run("counted", "--quick", capsys=capsys)
    assert out.split() == ["out/studies/counted-quick/counted.md"]
    text = Path("out/studies/counted-quick/counted.md").read_text()
    assert text.startswith("# Counted\n\n**A quick run")
    assert "It was the rain." not in text
    for words, says in [
        (("--out", "out/studies/counted-quick"), "holds a quick run of counted, not a full one"),
        (
            ("--render", "--write", "--out", "out/studies/counted-quick"),
            "a published page needs a full run",
        ),
    ]:
        code, _, err = run("counted", *words, capsys=capsys)
        assert code == 2
        assert says in err
    with pytest.raises(UsageError, match="holds the study 'counted', not 'lda'"):
        execute.measure(STUDIES["lda"], folder)


def test_an_optional_part_is_left_out_where_what_it_needs_is_missing(tmp_path):
    def measured(part, work):
        if part == "peer":
            raise UsageError("The peer is not installed.")
        return [part]

    class Heard(Events):
        said = ()

        def warn(self, sentence):
            self.said = (*self.said, sentence)

    calls = {"measure": measured, "render": lambda rows: Rendered(text=f"# {', '.join(rows)}\n")}
    usual = {
        "name": "mine",
        "title": "t",
        "page": "docs/mine.md",
        "seconds": 1,
        "quick_seconds": 1,
    }
    study, heard = Study(**usual, **calls, parts=("peer", "own"), optional=("peer",)), Heard()
    assert execute.measure(study, tmp_path, events=heard).rows == {"own": ["own"]}
    assert heard.said == ("mine: peer is left out: The peer is not installed.",)
    with pytest.raises(UsageError, match="The peer is not installed"):
        execute.measure(study, tmp_path, part="peer")
    with pytest.raises(UsageError, match="The peer is not installed"):
        execute.measure(Study(**usual, **calls, parts=("peer", "own")), tmp_path / "other")


def test_publishing_never_drops_a_part(install, tmp_path):
    install()
    study = STUDIES["counted"]
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "docs" / "results" / "counted.json").write_text('{"first": [], "second": []}')
    lacking = execute.Stored(quick=False, rows={"first": []}, source=tmp_path)
    with pytest.raises(UsageError, match=r"would drop second from docs/results/counted\.md"):
        execute.publish(study, lacking)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "broken = counted_study:MISSING",
            "'broken' of counted_study:MISSING cannot be loaded (AttributeError",
        ),
        ("broken = counted_study:NAMELESS", "'broken' is a Study called 'other'"),
        (
            "broken = counted_study:NOTHING",
            "'broken' is a int; accepted: STUDY = benchmarks.studies.Study",
        ),
    ],
)
def test_a_broken_plugin_is_one_sentence_and_costs_no_other(install, capsys, line, says):
    install(line)
    code, out, err = run("broken", capsys=capsys)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    code, out, _ = run("--json", capsys=capsys)
    assert code == 0
    listed = {s["name"]: s for s in json.loads(out)["studies"]}
    assert says in listed["broken"]["error"]
    assert listed["lda"]["error"] is None
    assert "BROKEN" in run(capsys=capsys)[1]


def test_a_plugin_does_not_replace_a_study_of_ours(install):
    install("lda = counted_study:STUDY")
    assert STUDIES["lda"].page == "docs/results/lda.md"
    with pytest.raises(UnknownNameError):
        registry.load("counted")
