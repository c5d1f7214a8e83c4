"""A check as one frozen record, shared by the contracts of all packages and the audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

from zoo.contract.subject import Failed, Skipped
from zoo.errors import UsageError, ZooError, one_line
from zoo.fields import FUNCTION, TEXT, checked

__all__ = ["Check", "CheckResult", "Rule", "Status", "Tier", "rules", "run"]

Status = Literal["ok", "failed", "skipped"]
Tier = Literal["entry", "check", "audit", "trust"]
S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """Outcome of one check: a status and one sentence, for `skipped` the reason."""

    status: Status
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """A rule bound to its subject, ready to run.

    Attributes:
        name: the name in tables; checks of guides and of the audit have a prefix.
        run: runs the check; faults are part of its result.
        why: what goes wrong for users if it fails.
        about: what it looks at, in one line.
        tier: see `Rule`.
    """

    name: str
    run: Callable[[], CheckResult]
    why: str = ""
    about: str = ""
    tier: Tier = "check"


@dataclass(frozen=True, kw_only=True)
class Rule(Generic[S]):
    """A named check without a subject.

    Attributes:
        name: the name in tables.
        why: what goes wrong for users if it fails, or what it would have caught.
        body: `subject -> sentence`, which raises `Failed` or `Skipped`; the first line of its
            docstring says what it looks at.
        tier: when it runs. `entry`: wherever a program enters (one run of the program at most);
            `check`: in `zoo check` (about a second each); `audit`: in `zoo check --bounds` (up to
            minutes); `trust`: on every fit that is compared.

    Raises:
        UsageError: a field of a wrong type, the name is no identifier, `why` or the docstring is
            missing, or the tier is unknown.
    """

    name: str
    why: str
    body: Callable[[S], str]
    tier: Tier = "check"

    def __post_init__(self) -> None:
        """Reject a record that tables could not show."""
        checked(self, name=TEXT, why=TEXT, body=FUNCTION, tier=TEXT)
        if not self.name.isidentifier():
            raise UsageError(f"A check is called {self.name!r}; accepted: letters, digits and _.")
        if not (self.why.strip() and self.about):
            raise UsageError(
                f"The check {self.name!r} does not say what it looks at or why; write its"
                " docstring and `why`, one line each."
            )
        if self.tier not in get_args(Tier):
            raise UsageError(
                f"The check {self.name!r} has the tier {self.tier!r}; accepted:"
                f" {', '.join(get_args(Tier))}."
            )

    @property
    def about(self) -> str:
        """What it looks at, in one line."""
        return (self.body.__doc__ or "").strip().partition("\n")[0]

    def on(
        self,
        subject: S,
        *,
        prefix: str = "",
        within: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Check:
        """Bind the rule to a subject.

        Args:
            subject: what the check looks at.
            prefix: put before the name, as in `guide.laplace.`.
            within: a context manager in which the check runs.
        """

        def result() -> CheckResult:
            try:
                with within():
                    return CheckResult(status="ok", sentence=self.body(subject))
            except Skipped as reason:
                return CheckResult(status="skipped", sentence=str(reason))
            except Failed as reason:
                return CheckResult(status="failed", sentence=str(reason))

        name = prefix + self.name
        guarded = Check(name=name, run=result)
        return Check(
            name=name, run=lambda: run(guarded), why=self.why, about=self.about, tier=self.tier
        )


def rules(*table: Rule[S]) -> Mapping[str, Rule[S]]:
    """Return rules by name, in order.

    Raises:
        UsageError: two rules have the same name.
    """
    found = {rule.name: rule for rule in table}
    if len(found) < len(table):
        names = [rule.name for rule in table]
        raise UsageError(
            f"Two checks are called {next(n for n in names if names.count(n) > 1)!r}; give each"
            " its own name."
        )
    return found


def run(check: Check) -> CheckResult:
    """Run a check; an exception of any kind is a failure with one sentence."""
    try:
        return check.run()
    except ZooError as error:
        return CheckResult(status="failed", sentence=str(error))
    except Exception as error:
        line = one_line(error)
        return CheckResult(status="failed", sentence=f"{type(error).__name__}: {line}")
