"""All checks of an entry: of its program and card, of NUTS on it, and of its guides.

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

import torch

import guides.contract
import zoo.contract
from benchmarks.mcmc.nuts import run_nuts
from zoo.contract.check import Check, Rule, rules
from zoo.contract.subject import Failed, Skipped
from zoo.types import ModelEntry

__all__ = ["checks"]


def checks(entry: ModelEntry, *, families: Sequence[str] | None = None) -> list[Check]:
    """Return all named checks of an entry; each runs to `ok`, `failed` or `skipped`.

    Args:
        entry: what to check.
        families: guide families to check on it, by default those it lists and its own guides.

    Raises:
        UnknownNameError: no such family.
    """
    chosen = (
        (*entry.families, *(g for g in entry.own_guides if g not in entry.families))
        if families is None
        else families
    )
    found = [*zoo.contract.checks(entry), *(rule.on(entry) for rule in CHECKS.values())]
    for family in chosen:
        found += guides.contract.checks(entry, family)
    return found


def nuts_runs(entry: ModelEntry) -> str:
    """One short chain: a start is found, no step fails, and every draw is finite."""
    if entry.learns:
        raise Skipped("the program's weights are trained first; NUTS then takes the fit")
    posterior = run_nuts(entry, seed=1, chains=1, tune=60, draws=20, min_ess=0, in_process=True)
    bad = [
        name for name, value in posterior.draws.items() if not bool(torch.isfinite(value).all())
    ]
    if bad:
        raise Failed(f"draws of {', '.join(bad)} are not finite; check priors and transforms")
    return "a short chain starts, moves and stays finite"


CHECKS = rules(
    Rule(
        name="nuts_runs",
        why=(
            "A reference, and the row every guide is held against, need chains that start and"
            " move."
        ),
        body=nuts_runs,
    )
)
