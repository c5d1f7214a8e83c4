"""`zoo check`, `zoo new`, `zoo reference`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import zoo
from zoo.errors import UsageError

__all__ = ["check", "new", "reference"]


def check(model: str, bounds: bool = False) -> int:
    """Run every check of an entry and print each as it ends; 1 if one failed.

    The checks are those of the contract, or with `bounds` those of the bound audit.
    """
    import benchmarks.audit
    import benchmarks.contract
    from benchmarks.workers import one_thread

    entry = zoo.load(model)
    checks = benchmarks.audit.checks if bounds else benchmarks.contract.checks
    counts = {"ok": 0, "failed": 0, "skipped": 0}
    with one_thread():
        for one in checks(entry):
            result = one.run()
            counts[result.status] += 1
            print(
                f"{result.status:>7}  {one.name}"
                + (f": {result.sentence}" if result.sentence else ""),
                flush=True,
            )
    print(
        f"{entry.key}: {counts['ok']} ok, {counts['failed']} failed, {counts['skipped']} skipped"
    )
    return 1 if counts["failed"] else 0


def new(name: str, folder: Path) -> None:
    """Write a model file from the template and print the next step."""
    from zoo.user_models.scaffold import new_model

    path = new_model(name, folder)
    print(path)
    print(f"zoo: next: zoo check {path}", file=sys.stderr)


def reference(model: str, write: bool, check: bool, jobs: int, small: bool = False) -> int:
    """Show, verify or write the reference of an entry; 1 if it is unusable."""
    if write and check:
        raise UsageError("zoo reference got both --write and --check; give one of them.")
    if small and not write:
        raise UsageError(
            "zoo reference got --small without --write; it is the size of a reference to be"
            " written."
        )
    from benchmarks.reference import find as references
    from benchmarks.workers import one_thread

    entry = zoo.load(model)
    with one_thread():
        if write:
            result: Any = references.write(
                entry,
                jobs=jobs,
                small=small,
                progress=lambda line: print(line, file=sys.stderr, flush=True),
            )
            print(f"{entry.key}: reference written to {result}")
            return 0
        found = (
            references.check(entry)
            if check
            else references.find(entry, entry.load_data(), nuts=None)
        )
    state = "usable" if found.usable else f"not usable: {found.reason}"
    print(f"{entry.key}: {found.kind}, {state}")
    for gate, passed in found.gates.items():
        print(f"  {'ok' if passed else 'failed':>6}  {gate}")
    for name, value in (
        ("largest R-hat", found.rhat_max),
        ("smallest ESS", found.ess_min),
        ("log evidence", found.log_evidence),
    ):
        if value is not None:
            print(f"  {name}: {value:.6g}")
    return 0 if found.usable else 1
