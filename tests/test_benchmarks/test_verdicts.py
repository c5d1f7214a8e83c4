"""Every verdict is one record: words, colors, marks, advice, legend and docs come from it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from rich.style import Style

from benchmarks.report.theme import verdict_css
from benchmarks.verdicts import VERDICTS, VerdictWord, is_finding, verdict_of
from zoo.errors import UnknownNameError, UsageError

ROOT = Path(__file__).parents[2]


def test_every_word_of_the_files_has_its_record():
    assert set(VERDICTS) == set(get_args(VerdictWord))
    assert [v.severity for v in VERDICTS.values()] == sorted(
        {v.severity for v in VERDICTS.values()}
    )
    for field in ("shown", "clause", "meaning"):
        assert len({getattr(v, field) for v in VERDICTS.values()}) == len(VERDICTS)


@pytest.mark.parametrize("verdict", VERDICTS.values(), ids=VERDICTS)
def test_a_verdict_can_be_shown_everywhere(verdict):
    assert verdict.meaning[-1] not in ".;"
    Style.parse(verdict.style)
    css = verdict_css()
    assert f".v-{verdict.word}{{" in css
    assert all(
        f"--v-{verdict.word}-{part}:{color}" in css
        for part, color in verdict.light._asdict().items()
    )
    assert (
        verdict.blind or len({v.light for v in VERDICTS.values() if v.light == verdict.light}) == 1
    )


def test_the_page_on_reports_says_what_the_records_say():
    page = (ROOT / "docs" / "reading_a_report.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|$",
        page.partition("### The rule")[0],
        flags=re.MULTILINE,
    )
    assert rows == [(v.word, v.meaning, v.advice) for v in VERDICTS.values()]


def test_no_other_file_lists_the_verdicts():
    """A tuple, set or dict of three or more of the words would need an entry per new verdict."""
    words = "|".join(VERDICTS)
    several = re.compile(rf'"(?:{words})"[^\n"]*(?:,|:)[^\n]*"(?:{words})"[^\n]*"(?:{words})"')
    found = [
        p
        for p in (ROOT / "benchmarks").rglob("*.py")
        if several.search(p.read_text(encoding="utf-8"))
    ]
    assert {p.name for p in found} <= {"verdicts.py", "verdict.py"}


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"word": "too_narow"}, UnknownNameError, "too_narrow"),
        ({"meaning": " "}, UsageError, "says nothing in meaning"),
        ({"ink": "red"}, UsageError, "'red'; accepted: #rrggbb"),
    ],
)
def test_a_record_that_would_fail_later_is_refused(fields, error, says):
    with pytest.raises(error, match=says):
        replace(VERDICTS["too_narrow"], **fields)


def test_kinds():
    assert [w for w in VERDICTS if is_finding(w)] == [
        "shifted",
        "too_narrow",
        "too_wide",
        "wrong_shape",
    ]
    assert [w for w, v in VERDICTS.items() if v.kind == "failure"] == [
        "reference_unusable",
        "fit_failed",
    ]
    with pytest.raises(UnknownNameError, match="agrees"):
        verdict_of("agree")
