"""Checks of all packages are records of one kind; the pages agree with them."""

import re
from pathlib import Path

import pytest

import benchmarks.contract
import guides.contract
import zoo
from benchmarks.audit import evidence_checks, guide_checks, program_checks
from benchmarks.comparison import fit_checks
from zoo import contract
from zoo.contract import Rule, card, density, draws, minibatch, rules, structure
from zoo.contract.subject import Failed, Skipped
from zoo.errors import UsageError

DOCS = Path(__file__).parents[2] / "docs"
PROGRAM = [
    rule
    for table in (card, structure, density, minibatch, draws)
    for rule in table.CHECKS.values()
]
REST = [*benchmarks.contract.CHECKS.values(), *guides.contract.CHECKS.values()]
AUDIT = [
    rule
    for table in (program_checks, guide_checks, evidence_checks)
    for rule in table.CHECKS.values()
]


TRUST = list(fit_checks.CHECKS.values())


@pytest.mark.parametrize("rule", [*PROGRAM, *REST, *AUDIT, *TRUST], ids=lambda rule: rule.name)
def test_every_check_says_what_why_and_when(rule):
    assert rule.about.endswith(".")
    assert rule.why.endswith(".")
    assert (rule.tier == "audit") == (rule in AUDIT)
    assert (rule.tier == "trust") == (rule in TRUST)


def test_the_page_on_reports_says_what_the_trust_checks_say():
    page = (DOCS / "reading_a_report.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", page, re.MULTILINE)
    assert [row for row in rows if row[0] in fit_checks.CHECKS] == [
        (r.name, r.about, r.why) for r in TRUST
    ]


def test_the_page_of_the_contract_says_what_the_records_say():
    page = (DOCS / "model_contract.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| (\w+) \|$", page, re.MULTILINE)
    assert rows == [(r.name, r.about, r.why, r.tier) for r in (*PROGRAM, *REST)]


def test_the_page_of_the_audit_says_what_the_records_say():
    page = (DOCS / "bound_audit.md").read_text(encoding="utf-8")
    assert [r.name for r in AUDIT if f"| `{r.name}` | {r.about} | {r.why} |" not in page] == []


def test_checks_of_the_entry_tier_are_few_and_the_others_keep_their_order():
    entry = zoo.load("coin")
    every, cheap = contract.checks(entry), contract.checks(entry, tier="entry")
    assert [c.name for c in every] == [r.name for r in PROGRAM]
    assert [c.name for c in cheap] == ["card", "runs", "plates"]
    assert all(contract.run(c).status == "ok" for c in cheap)


def looks(subject):
    """It looks."""
    if subject == "wrong":
        raise Failed("a fault")
    if subject == "apart":
        raise Skipped("not for this")
    return f"{subject} is right" if subject else 1 / 0


def rule(**fields):
    return Rule(**{"name": "mine", "why": "It matters.", "body": looks, **fields})


def test_a_rule_becomes_a_check_of_its_subject():
    found = {
        subject: rule().on(subject, prefix="guide.mine.")
        for subject in ("wrong", "apart", "all", "")
    }
    assert {s: (c.run().status, c.run().sentence) for s, c in found.items()} == {
        "wrong": ("failed", "a fault"),
        "apart": ("skipped", "not for this"),
        "all": ("ok", "all is right"),
        "": ("failed", "ZeroDivisionError: division by zero"),
    }
    assert (found["all"].name, found["all"].about, found["all"].why) == (
        "guide.mine.mine",
        "It looks.",
        "It matters.",
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "my check"}, "letters, digits and _"),
        ({"why": ""}, "what it looks at or why"),
        ({"body": lambda subject: ""}, "what it looks at or why"),
        ({"tier": "daily"}, "accepted: entry, check, audit, trust"),
    ],
)
def test_a_record_that_would_fail_later_is_refused(fields, says):
    with pytest.raises(UsageError, match=says):
        rule(**fields)


def test_two_checks_of_one_name_are_refused():
    with pytest.raises(UsageError, match="Two checks are called 'mine'"):
        rules(rule(), rule())
