"""The named checks that a program and its card pass; `docs/model_contract.md` lists each with its reason.

for check in zoo.contract.checks(entry):
print(check.name, zoo.contract.run(check))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from zoo.errors import ZooError
from zoo.types import ModelEntry

__all__ = ["Check", "CheckResult", "Status", "checks", "run"]

Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The outcome of one check: a status and one sentence, which for `skipped` is the reason."""

    status: Status
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """One named check; `why` says what goes wrong for users of an entry that fails it."""

    name: str
    run: Callable[[], CheckResult]
    why: str = ""


def checks(entry: ModelEntry) -> list[Check]:
    """Return the checks of an entry in the order to read them; nothing runs until `check.run()`.

    The data, the program and its log density are made once, by the first check that needs them.
    """
    from zoo.contract import card, density, draws, minibatch, structure
    from zoo.contract.subject import Subject

    subject = Subject(entry)
    tables = (card, structure, density, minibatch, draws)
    return [_check(subject, name, why, body) for table in tables for name, (why, body) in table.CHECKS.items()]


def run(check: Check) -> CheckResult:
    """Run a check; an exception of any kind is a failure with one sentence."""
    try:
        return check.run()
    except ZooError as error:
        return CheckResult(status="failed", sentence=str(error))
    except Exception as error:
        line = (str(error).splitlines() or [""])[0]
        return CheckResult(status="failed", sentence=f"{type(error).__name__}: {line}")


def _check(subject: object, name: str, why: str, body: Callable[..., str]) -> Check:
    from zoo.contract.subject import Failed, Skipped

    def result() -> CheckResult:
        try:
            return CheckResult(status="ok", sentence=body(subject))
        except Skipped as reason:
            return CheckResult(status="skipped", sentence=str(reason))
        except Failed as reason:
            return CheckResult(status="failed", sentence=str(reason))

    return Check(name=name, why=why, run=lambda: run(Check(name=name, run=result)))
