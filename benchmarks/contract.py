"""Every check an entry passes: those of its program and card, of NUTS on it, and of each of its guide families.

from benchmarks.contract import checks

@pytest.mark.parametrize("check", checks(ENTRY), ids=lambda check: check.name)
def test_contract(check):
result = check.run()
if result.status == "skipped":
pytest.skip(result.sentence)
assert result.status == "ok", result.sentence
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from zoo.errors import ZooError
from zoo.types import ModelEntry

if TYPE_CHECKING:
    from zoo.contract import Check, CheckResult

__all__ = ["checks"]


def checks(entry: ModelEntry, *, families: Sequence[str] | None = None) -> list[Check]:
    """Return all named checks of an entry, each `ok`, `failed` or `skipped` with its reason when run.

    Args:
        entry: what to check.
        families: guide families to check on it, default those it lists and those it brings.

    Raises:
        UnknownNameError: no such family.
    """
    import guides.contract
    import zoo.contract
    from zoo.contract import Check

    chosen = (*entry.families, *(g for g in entry.own_guides if g not in entry.families)) if families is None else families
    found = [*zoo.contract.checks(entry), Check(name="nuts_runs", run=partial(_nuts_runs, entry))]
    for family in chosen:
        found += guides.contract.checks(entry, family)
    return found


def _nuts_runs(entry: ModelEntry) -> CheckResult:
    """Run one short chain: a start is found, no step fails, and every draw lies in the support of its site."""
    import torch

    from benchmarks.mcmc.nuts import run_nuts
    from zoo.contract import CheckResult

    if entry.learns:
        return CheckResult(status="skipped", sentence="the program's weights are trained first; NUTS then takes the fit")
    try:
        posterior = run_nuts(entry, seed=1, chains=1, tune=60, draws=20, min_ess=0, in_process=True)
    except ZooError as error:
        return CheckResult(status="failed", sentence=str(error))
    bad = [name for name, value in posterior.draws.items() if not bool(torch.isfinite(value).all())]
    if bad:
        return CheckResult(status="failed", sentence=f"draws of {', '.join(bad)} are not finite; check priors and transforms")
    return CheckResult(status="ok", sentence="a short chain starts, moves and stays finite")
