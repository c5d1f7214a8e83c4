"""Prose of rendered pages is folded, everything else is left alone."""

import pytest

from benchmarks.studies.pages import fold, keep_notes, part, replace_part, with_part
from zoo.errors import UsageError

WIDE = "| " + " | ".join(["wide"] * 30) + " |"
CODE = "```\n" + "x = 1; " * 30 + "\n```"
PAGE = "\n".join([
    "# " + "A title " * 20,
    "",
    "word " * 40 + "`code with blanks` " + "word " * 40,
    "",
    "* " + "first item " * 20,
    "  " + "goes on " * 20,
    "* second item",
    "",
    CODE,
    "",
    WIDE,
    "<!-- notes -->",
    "short",
    "![a picture](of.svg)",
    "",
])  # fmt: skip


def test_only_prose_is_folded():
    folded = fold(PAGE)
    assert folded.split() == PAGE.split()
    wide = [line for line in folded.splitlines() if len(line) >= 100]
    assert wide == [PAGE.splitlines()[0], CODE.splitlines()[1], WIDE]
    assert "`code with blanks`" in folded
    first, second = folded.index("* first item"), folded.index("* second item")
    assert folded[second - 1] == "\n"
    assert all(line.startswith("  ") for line in folded[first:second].splitlines()[1:])


def test_folding_twice_changes_nothing():
    assert fold(fold(PAGE)) == fold(PAGE)
    assert fold("") == ""


PART = "before\n<!-- notes -->\nby hand\n<!-- /notes -->\nafter\n"


def test_a_part_is_what_stands_between_its_marks():
    assert part(PART, "notes") == "by hand\n"
    assert part(PART, "table") is None
    with pytest.raises(UsageError, match=r"<!-- notes --> and does not close it"):
        part("<!-- notes -->\nby hand\n", "notes")


def test_a_part_is_replaced_and_the_rest_stays():
    assert with_part(PART, "notes", "new\n\n") == PART.replace("by hand", "new")
    assert with_part(PART, "notes", "") == PART.replace("by hand\n", "")
    assert with_part(PART, "table", "new") == PART


def test_notes_of_the_earlier_page_are_kept(tmp_path):
    old, page = tmp_path / "old.md", "# New\n<!-- notes -->\n<!-- /notes -->\n"
    assert keep_notes(page, old) == page
    old.write_text(PART)
    assert part(keep_notes(page, old), "notes") == "by hand\n"
    replace_part(old, "notes", "other")
    assert old.read_text() == PART.replace("by hand", "other")
    with pytest.raises(UsageError, match="table"):
        replace_part(old, "table", "new")
    assert old.read_text() == PART.replace("by hand", "other")
