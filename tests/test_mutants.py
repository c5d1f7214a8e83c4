"""The kept list of faults is of today: every edit applies, and its tests exist."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "mutants"))
import run as mutants

sys.path.pop(0)
EDITS = mutants.kept()


def test_names_differ_and_every_room_is_there():
    assert len({e.name for e in EDITS}) == len(EDITS) >= 90
    assert {e.file.split("/")[0] for e in EDITS} >= set(mutants.ROOMS)


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: e.name)
def test_every_edit_applies_to_the_code_of_today(edit):
    text = (mutants.ROOT / edit.file).read_text(encoding="utf-8")
    assert edit.applied(text) != text
    if edit.file.endswith(".py"):
        compile(edit.applied(text), edit.file, "exec")
    assert all(path.exists() for place in edit.tests for path in mutants.files_of(place))


def test_an_edit_that_is_not_unique_is_refused():
    edit = mutants.Edit("twice", "zoo/seeds.py", "a", "b", ())
    with pytest.raises(ValueError, match="occurs 2 times"):
        edit.applied("a a")


def test_a_fault_is_killed_only_by_tests_that_pass_without_it(tmp_path, monkeypatch):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "code.py").write_text("x = 1\n")
    (tree / "test_code.py").write_text("import code\n")
    monkeypatch.setattr(mutants, "ROOT", tree)
    answers = {"x = 1\n": "passed", "x = 2\n": "failed", "x = 3\n": "passed"}
    monkeypatch.setattr(
        mutants, "tested", lambda t, *rest: (answers[(t / "code.py").read_text()], "")
    )
    free = mutants.SimpleQueue()
    free.put(tree)
    runner = mutants.Runner(tmp_path / "out.jsonl", sys.executable, 60.0)
    two, three = (
        mutants.Edit(str(n), "code.py", "x = 1", f"x = {n}", ("test_code.py",)) for n in (2, 3)
    )
    assert [runner.one(e, free)["outcome"] for e in (two, three)] == ["killed", "survived"]
    assert (tree / "code.py").read_text() == "x = 1\n"
    # kept: nothing is run a second time
    monkeypatch.setattr(mutants, "tested", None)
    again = mutants.Runner(tmp_path / "out.jsonl", sys.executable, 60.0)
    assert again.one(three, free)["outcome"] == "survived"
    page = mutants.table([again.one(e, free) for e in (two, three)], [], "")
    assert "| all | 2 | 1 |" in page
    assert "| 3 | survived | `` x = 1 `` | `` x = 3 `` |" in page
    # without a sound run first a broken test would count as a kill
    (tree / "test_code.py").write_text("import code  # changed\n")
    monkeypatch.setattr(mutants, "tested", lambda *rest: ("failed", ""))
    broken = mutants.Runner(tmp_path / "other.jsonl", sys.executable, 60.0)
    assert broken.one(two, free)["outcome"] == "tests failed without it"


def test_cases_mirror_the_modules_they_import():
    found = mutants.mirror("benchmarks/report/sections/estimates.py")
    assert found == ("tests/test_benchmarks/report", "tests/cases/test_readers_of_a_report.py")
    assert (
        mutants.mirror("benchmarks/run/store.py")[0] == "tests/test_benchmarks/run/test_store.py"
    )
    assert all((mutants.ROOT / place).exists() for place in found)
