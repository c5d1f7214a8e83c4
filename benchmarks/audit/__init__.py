"""The bound audit: would a wrong objective, likelihood or bound have been noticed here?

    from benchmarks.audit import audit

    for result in audit(entry):
        print(result.status, result.name, result.sentence)

Each check has a name and says which published error it would have caught (`docs/bound_audit.md`).
It runs on any entry, guide and implementation: pass `log_evidence` if the evidence is known, and
`reported` to audit your own estimators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pyro

from benchmarks.audit import evidence_checks, guide_checks, program_checks
from benchmarks.audit.estimators import Reported
from benchmarks.audit.subject import Audited, GuideSubject
from guides.registry import check_family
from guides.session import session
from zoo.contract import Check, CheckResult
from zoo.types import ModelEntry

__all__ = ["AuditResult", "audit", "checks"]


@dataclass(frozen=True, kw_only=True)
class AuditResult(CheckResult):
    """The outcome of one named check."""

    name: str


def checks(
    entry: ModelEntry,
    families: Sequence[str] | None = None,
    *,
    log_evidence: float | None = None,
    route: str = "given",
    reported: Reported | None = None,
) -> list[Check]:
    """Return the named checks of an entry and of its guide families; `check.run()` runs one.

    Args:
        entry: what to audit.
        families: guide families, by default those the entry lists and its own guides.
        log_evidence: log p(data) in nats, if known; else the entry's closed form, else an integral
            of the density.
        route: source of `log_evidence`, for the sentences.
        reported: the implementation under audit, by default that of this package.

    Raises:
        UnknownNameError: no such family.
    """
    chosen = (
        (*entry.families, *(g for g in entry.own_guides if g not in entry.families))
        if families is None
        else tuple(families)
    )
    for family in chosen:
        check_family(family, entry)
    audited = Audited(
        entry, log_evidence=log_evidence, route=route, reported=reported or Reported()
    )
    found = [
        rule.on(audited, prefix="bounds.", within=_quiet(entry))
        for rule in program_checks.CHECKS.values()
    ]
    for family in chosen:
        guide = GuideSubject(audited, family)
        rules = (*guide_checks.CHECKS.values(), *evidence_checks.CHECKS.values())
        found += [
            rule.on(guide, prefix=f"bounds.{family}.", within=_quiet(entry)) for rule in rules
        ]
    return found


def _quiet(entry: ModelEntry) -> Callable[[], ExitStack]:
    """Return the context of the checks: the entry's dtype, without Pyro's validation.

    Validation would stop at the first fault.
    """

    def within() -> ExitStack:
        stack = ExitStack()
        stack.enter_context(session(entry.dtype))
        stack.enter_context(pyro.validation_enabled(False))
        return stack

    return within


def audit(
    entry: ModelEntry,
    families: Sequence[str] | None = None,
    *,
    log_evidence: float | None = None,
    route: str = "given",
    reported: Reported | None = None,
) -> list[AuditResult]:
    """Run every check; arguments and errors as in `checks`."""
    results = []
    for check in checks(
        entry, families, log_evidence=log_evidence, route=route, reported=reported
    ):
        result = check.run()
        results.append(
            AuditResult(name=check.name, status=result.status, sentence=result.sentence)
        )
    return results
