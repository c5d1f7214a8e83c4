"""`zoo study`: the list, what flags exclude, and what is measured, rendered and written."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.cli import study as command
from benchmarks.cli.study import study
from benchmarks.studies import execute
from zoo.errors import UsageError


def call(name="one", **changes):
    given = {
        "quick": False,
        "part": None,
        "jobs": 3,
        "out": None,
        "render": False,
        "write": False,
        "as_json": False,
    }
    study(name, **{**given, **changes})


def found(name, **fields):
    given = {
        "name": name,
        "title": f"title of {name}",
        "page": None,
        "seconds": 30.0,
        "quick_seconds": None,
        "part_names": (),
        "needs": "",
    }
    return SimpleNamespace(**{**given, **fields})


@pytest.fixture
def studies(monkeypatch):
    known = {
        "one": found("one", page="one.md", seconds=120.0, quick_seconds=5.0, needs="a card"),
        "two": found("two", part_names=("a", "b")),
        "broken": None,
    }

    def load(name):
        if known[name] is None:
            raise UsageError("The study 'broken' cannot be imported; mend it.")
        return known[name]

    monkeypatch.setattr(command, "STUDIES", known)
    monkeypatch.setattr(command, "load", load)
    return known


def test_the_list_has_a_row_per_study_and_shows_broken_ones(studies, capsys):
    call(None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "title", "page", "takes", "quick", "parts", "needs"]
    assert lines[1].split("  ")[0] == "one"
    assert " ".join(lines[1].split()) == "one title of one one.md 2 min 5 s a card"
    assert " ".join(lines[2].split()) == "two title of two 30 s a, b"
    assert " ".join(lines[3].split()) == (
        "broken BROKEN: The study 'broken' cannot be imported; mend it."
    )


def test_the_list_as_json_keeps_numbers_and_errors(studies, capsys):
    call(None, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    one, two, broken = document["studies"]
    assert one == {
        "name": "one",
        "title": "title of one",
        "page": "one.md",
        "seconds": 120.0,
        "quick_seconds": 5.0,
        "parts": [],
        "needs": "a card",
        "error": None,
    }
    assert two["parts"] == ["a", "b"]
    assert broken == {
        "name": "broken",
        "title": None,
        "page": None,
        "seconds": None,
        "quick_seconds": None,
        "parts": [],
        "needs": "",
        "error": "The study 'broken' cannot be imported; mend it.",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.4, "0 s"),
        (89.9, "90 s"),
        (90.0, "2 min"),
        (150.0, "2 min"),
        (5399.0, "90 min"),
        (5400.0, "1.5 h"),
        (36_000_000.0, "10000.0 h"),
    ],
)
def test_times_are_in_seconds_minutes_or_hours(seconds, text):
    assert command._time(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, ""), (1, ""), (2, "p0, p1"), (5, "p0, p1, p2, p3, p4"), (6, "6, p0 first")],
)
def test_few_parts_are_listed_and_many_counted(number, text):
    assert command._parts([f"p{i}" for i in range(number)]) == text


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({"quick": True}, "--quick"),
        ({"part": "a"}, "--part"),
        ({"out": Path("x")}, "--out"),
        ({"render": True}, "--render"),
        ({"write": True}, "--write"),
        ({"quick": True, "write": True, "part": "a"}, "--quick, --part, --write"),
    ],
)
def test_flags_without_a_name_are_refused(studies, given, flags):
    with pytest.raises(UsageError) as caught:
        call(None, **given)
    assert str(caught.value) == (
        f"zoo study got {flags} without a name; give one of those that `zoo study` lists."
    )


def test_rendering_takes_no_part(studies):
    with pytest.raises(UsageError) as caught:
        call("two", render=True, part="a")
    assert str(caught.value) == (
        "zoo study got --render with --part; rendering takes all rows: leave out one of them."
    )


@pytest.fixture
def steps(studies, monkeypatch, tmp_path):
    """Calls of the steps of a study, in order; rows are stored in `source`."""
    seen = SimpleNamespace(calls=[], source=tmp_path / "here" / "rows.json")

    def stored():
        return SimpleNamespace(source=seen.source, quick="as stored", rows=[{"a": 1}])

    def step(name, result):
        def run(found, *rest, **named):
            named.pop("events", None)
            seen.calls.append((name, found.name, *rest[-1:], *sorted(named.items())))
            return result(rest)

        monkeypatch.setattr(execute, name, run)

    step("default_folder", lambda rest: tmp_path / "here")
    step("check_target", lambda rest: None)
    step("find_rows", lambda rest: stored())
    step("measure", lambda rest: stored())
    step("write_page", lambda rest: rest[1] / "page.md")
    step("publish", lambda rest: [Path("docs/one.md"), Path("docs/one.svg")])
    return seen


def test_a_study_is_measured_rendered_and_its_page_printed(steps, tmp_path, capsys):
    call(quick=True, part="a")
    here = tmp_path / "here"
    assert steps.calls == [
        ("default_folder", "one", True),
        ("measure", "one", here, ("jobs", 3), ("part", "a"), ("quick", True)),
        ("write_page", "one", here),
    ]
    assert capsys.readouterr().out == f"{here / 'page.md'}\n"


def test_a_given_folder_is_used_and_a_published_study_checked_first(steps, tmp_path, capsys):
    call(out=tmp_path / "there", write=True)
    assert [c[0] for c in steps.calls] == ["check_target", "measure", "write_page", "publish"]
    assert steps.calls[0] == ("check_target", "one", False)
    assert steps.calls[1][2] == tmp_path / "there"
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / "there" / "page.md"),
        "docs/one.md",
        "docs/one.svg",
    ]


def test_stored_rows_are_rendered_where_they_are(steps, tmp_path, capsys):
    call(render=True)
    assert [c[0] for c in steps.calls] == ["default_folder", "find_rows", "write_page"]
    assert steps.calls[-1][2] == tmp_path / "here"
    shown = capsys.readouterr()
    assert shown.out == f"{tmp_path / 'here' / 'page.md'}\n"
    assert f"one: rows of {steps.source}" in shown.err


def test_published_rows_are_rendered_beside_a_later_measurement(steps, tmp_path, capsys):
    steps.source = tmp_path / "published" / "rows.json"
    call(render=True)
    assert steps.calls[-1] == ("write_page", "one", tmp_path / "one-published")
    call(render=True, out=tmp_path / "there")
    assert steps.calls[-1] == ("write_page", "one", tmp_path / "there")


def test_the_document_has_the_rows_and_all_files(steps, tmp_path, capsys):
    call(write=True, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "schema": 1,
        "study": "one",
        "quick": "as stored",
        "rows": [{"a": 1}],
        "written": [str(tmp_path / "here" / "page.md"), "docs/one.md", "docs/one.svg"],
    }
