"""The named checks of a program and its card; `docs/model_contract.md` gives reasons.

for check in zoo.contract.checks(entry):
    print(check.name, zoo.contract.run(check))
"""

from __future__ import annotations

from zoo.contract import card, density, draws, minibatch, structure
from zoo.contract.check import Check, CheckResult, Rule, Status, Tier, rules, run
from zoo.contract.subject import Subject
from zoo.types import ModelEntry

__all__ = ["Check", "CheckResult", "Rule", "Status", "Tier", "checks", "rules", "run"]


def checks(entry: ModelEntry, *, tier: Tier = "check") -> list[Check]:
    """Return the checks of an entry in reading order; nothing runs until `check.run()`.

    The data, the program and its log density are made once, by the first check that needs them.

    Args:
        entry: what to check.
        tier: `entry` for only those cheap enough to run wherever a program enters.
    """
    subject = Subject(entry)
    tables = (card, structure, density, minibatch, draws)
    found = [rule for table in tables for rule in table.CHECKS.values()]
    return [rule.on(subject) for rule in found if tier != "entry" or rule.tier == "entry"]
