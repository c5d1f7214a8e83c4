"""The bound audit: would a wrong objective, likelihood or bound have been noticed here?

    from benchmarks.audit import audit

    for result in audit(entry):
        print(result.status, result.name, result.sentence)

Each check is named and says which published error it would have caught (`docs/bound_audit.md`). It runs on any entry,
guide and implementation: pass `log_evidence` where the evidence is known, and `reported` to audit estimators of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.contract import Check, CheckResult, run
from zoo.types import ModelEntry

if TYPE_CHECKING:
    from benchmarks.audit.estimators import Reported

__all__ = ["AuditResult", "audit", "checks"]


@dataclass(frozen=True, kw_only=True)
class AuditResult(CheckResult):
    """The outcome of one named check."""

    name: str


def checks(
    entry: ModelEntry, families: Sequence[str] | None = None, *, log_evidence: float | None = None, route: str = "given",
    reported: Reported | None = None,
) -> list[Check]:  # fmt: skip
    """Return the named checks of an entry and of each of its guide families; nothing runs before `check.run()`.

    Args:
        entry: what to audit.
        families: guide families, default those the entry lists and those it brings.
        log_evidence: log p(data) in nats, known from elsewhere; else the entry's closed form, else an integral of the density.
        route: where `log_evidence` comes from, for the sentences.
        reported: the implementation under audit, this package's own by default.

    Raises:
        UnknownNameError: no such family.
    """
    from benchmarks.audit import evidence_checks, guide_checks, program_checks
    from benchmarks.audit.estimators import Reported
    from benchmarks.audit.subject import Audited, GuideSubject
    from guides.registry import check_family

    chosen = (*entry.families, *(g for g in entry.own_guides if g not in entry.families)) if families is None else tuple(families)
    for family in chosen:
        check_family(family, entry)
    audited = Audited(entry, log_evidence=log_evidence, route=route, reported=reported or Reported())
    found = [_check(f"bounds.{name}", why, body, audited) for name, (why, body) in program_checks.CHECKS.items()]
    for family in chosen:
        guide = GuideSubject(audited, family)
        tables = (guide_checks.CHECKS, evidence_checks.CHECKS)
        found += [_check(f"bounds.{family}.{name}", why, body, guide) for table in tables for name, (why, body) in table.items()]
    return found


def _check(name: str, why: str, body: Callable[[Any], str], subject: Any) -> Check:
    import pyro

    from guides.session import session
    from zoo.contract.subject import Failed, Skipped

    entry = getattr(subject, "audited", subject).entry

    def result() -> CheckResult:
        try:
            with session(entry.dtype), pyro.validation_enabled(False):
                return CheckResult(status="ok", sentence=body(subject))
        except Skipped as reason:
            return CheckResult(status="skipped", sentence=str(reason))
        except Failed as reason:
            return CheckResult(status="failed", sentence=str(reason))

    return Check(name=name, why=why, run=lambda: run(Check(name=name, run=result)))


def audit(
    entry: ModelEntry, families: Sequence[str] | None = None, *, log_evidence: float | None = None, route: str = "given",
    reported: Reported | None = None,
) -> list[AuditResult]:  # fmt: skip
    """Run every check; arguments and errors as in `checks`."""
    results = []
    for check in checks(entry, families, log_evidence=log_evidence, route=route, reported=reported):
        result = check.run()
        results.append(AuditResult(name=check.name, status=result.status, sentence=result.sentence))
    return results
