"""Prose of rendered pages is folded, everything else is left alone."""

from benchmarks.studies.pages import fold

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
