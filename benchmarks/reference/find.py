"""Find and check reference posteriors.

`find` returns the ground truth of an entry. `benchmarks.reference.write.write` runs NUTS to the
standard of `benchmarks.reference.gates` and stores the result. `check` verifies a stored reference
within seconds, as far as its stored draws allow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.reference import gates as certify
from benchmarks.reference.coerce import as_reference
from benchmarks.reference.write import write
from benchmarks.trust.climbs import GATE, wide_climbs
from zoo.compiler.policy import RUNS
from zoo.density.log_density import LogDensity
from zoo.errors import ReferenceError, UnknownNameError
from zoo.seeds import derive_seed
from zoo.truth import evidence
from zoo.truth import stored as stored_reference
from zoo.truth.unit_grid import exact_units
from zoo.types import Analytic, Data, ModelEntry, Moments, Posterior, Reference

if TYPE_CHECKING:
    from guides.types import Fit

__all__ = ["chains_given", "check", "exact_given", "find", "known", "named", "takes_long", "write"]

PSEUDO_CHAINS, EXACT_DRAWS = 4, 2_000
CERTIFIED = ("certified", "stored", "analytic", "exact")
CLIMBS = 2_000  # gradients that wide climbs take, about


def find(
    entry: ModelEntry,
    data: Data | None = None,
    *,
    nuts: Posterior | None = None,
    given: Fit | None = None,
    folder: Path | None = None,
    failed: str = "",
    density: LogDensity | None = None,
) -> Reference:
    """Return the ground truth of an entry: the first that is available.

    In order: analytic, exact, stored, conditional, NUTS of this run, none. A stored reference
    belongs to the default data and options (or to a key with a file of its own); with other data
    the chains of this run are the reference. One that exists for these data but is damaged, stale
    or failed its gates is returned as unusable, with the reason and the command that rebuilds it.

    Args:
        entry: the entry; one with `reference_of` borrows from that entry.
        data: what it is conditioned on, by default the entry's data.
        nuts: chains of this run.
        given: the fit whose trained program the chains were run on (entries that learn weights).
        folder: folder of stored references, by default that of the package.
        failed: why the NUTS of this run gave no chains, empty if it did or was not run.
        density: the log density of the entry on these data, if there is one already.
    """
    data = entry.load_data() if data is None else data
    if given is not None or entry.learns:
        return (None if given is None else exact_given(entry, data, given)) or chains_given(
            nuts, failed
        )
    owner = stored_reference.borrowed(entry)
    exact = owner.exact(data)
    own = density if owner is entry else None
    if exact is None and owner.reference == "exact" and owner.analytic is None:
        exact = exact_units(own or LogDensity(owner.program(data), data, dtype=owner.dtype))
    if exact is None and owner.reference == "stored" and owner.key in evidence.stored():
        own = own or LogDensity(owner.program(data), data, dtype=owner.dtype)
    if exact is not None:
        return _analytic(owner, data, exact)
    if owner.reference == "stored":
        stored = _stored(entry, owner, data, folder, own)
        if stored is not None:
            return stored if own is None else evidence.with_evidence(stored, owner.key, own)
    if nuts is not None:
        return as_reference(nuts)
    cure = "run NUTS on it"
    if owner.reference == "stored":
        cure = f"`zoo reference {owner.key} --write` makes one"
    elif failed:
        cure = f"NUTS failed on it: {failed.rstrip('.')}"
    return Reference(
        kind="none",
        posterior=None,
        usable=False,
        reason=f"No reference is known for {entry.key} on these data; {cure}.",
    )


def named(
    kind: str, entry: ModelEntry, data: Data | None = None, *, given: Fit | None = None
) -> Reference:
    """Return the certified reference of an entry by its kind, or by `certified` whatever it is.

    Args:
        kind: `certified`, `stored`, `analytic` or `exact`.
        entry: the entry.
        data: what it is conditioned on, by default the entry's data.
        given: the fit whose trained program is meant, for entries that learn weights.

    Raises:
        UnknownNameError: another word.
        ReferenceError: the entry has no reference of this kind on these data, or an unusable one.
    """
    if kind not in CERTIFIED:
        raise UnknownNameError(
            "reference", kind, CERTIFIED, hint="Or give chains of benchmarks.run_nuts."
        )
    found = find(entry, data, given=given if entry.learns else None)
    if not found.usable or found.kind == "none":
        raise ReferenceError(found.reason)
    if kind not in ("certified", found.kind):
        raise ReferenceError(
            f"The reference of {entry.key} is {found.kind}, not {kind}; ask for"
            f" {found.kind!r} or 'certified'."
        )
    return found


def known(entry: ModelEntry, data_seed: int) -> bool:
    """Whether a ground truth comes with an entry, so that none has to be estimated.

    Nothing is read; `find` decides, so a stored reference of other data is not excluded.
    """
    if entry.learns:
        return takes_long(entry)
    owner = stored_reference.borrowed(entry)
    if owner.reference == "stored":
        there = owner.published is not None or stored_reference.exists(owner.key)
        return there and data_seed == 0
    return owner.reference in ("analytic", "exact")


def takes_long(entry: ModelEntry) -> bool:
    """Whether the ground truth of an entry that learns has to be computed, not only looked up."""
    return entry.conditional is not None or entry.reference == "exact"


def exact_given(entry: ModelEntry, data: Data, given: Fit) -> Reference | None:
    """Return the exact posterior given a trained program; a grid may take half a minute.

    It is that of the card's `conditional`, else, for `reference="exact"`, a grid over the latent
    values of each row. None if the entry has no exact posterior.
    """
    exact = None
    if entry.conditional is not None:
        exact = entry.conditional(data, given.program, **entry.settings)
    elif entry.reference == "exact":
        exact = exact_units(LogDensity(given.program, data, dtype=entry.dtype))
    return None if exact is None else _analytic(entry, data, exact)


def chains_given(nuts: Posterior | None, failed: str = "") -> Reference:
    """Return chains that were run on a trained program as its reference, or why there are none."""
    if nuts is None:
        cure = f"NUTS failed on them: {failed.rstrip('.')}" if failed else "run NUTS as well"
        return Reference(
            kind="none",
            posterior=None,
            usable=False,
            reason=f"No chains were run on the learned weights; {cure}.",
        )
    return dataclasses.replace(as_reference(nuts), kind="conditional")


def _analytic(owner: ModelEntry, data: Data, exact: Analytic) -> Reference:
    """Return independent exact draws in four groups, which take the place of chains.

    Noise floors then come from different groups, as they come from different chains.
    """
    n = PSEUDO_CHAINS * EXACT_DRAWS
    kind = owner.reference if owner.reference in ("analytic", "exact") else "analytic"
    draws = exact.sample(n, derive_seed("analytic", owner.key))
    grouped = {
        name: v.detach().reshape(PSEUDO_CHAINS, EXACT_DRAWS, *v.shape[1:])
        for name, v in draws.items()
    }
    posterior = Posterior(
        entry=owner, data=data, method=kind, draws=grouped, sample_dims=("chain", "draw")
    )
    return Reference(
        kind=kind, posterior=posterior, moments=exact.moments, log_evidence=exact.log_evidence
    )


def _stored(
    entry: ModelEntry,
    owner: ModelEntry,
    data: Data,
    folder: Path | None,
    density: LogDensity | None,
) -> Reference | None:
    """Return the stored or published reference, None if there is none for these data."""
    if owner.published is not None:
        published = stored_reference.load(entry, data, folder=folder)
        return published if published.gates["data"] else None
    if getattr(owner, "published", None) is None and not stored_reference.exists(
        owner.key, folder
    ):
        return None
    try:
        found = stored_reference.load(entry, data, density, folder=folder)
        if not _belongs(found) and _belongs(
            stored_reference.load(entry, owner.load_data(), folder=folder)
        ):
            return None  # the program is unchanged, the data differ
    except ReferenceError as error:
        return Reference(kind="stored", posterior=None, usable=False, reason=str(error))
    return found


def _belongs(found: Reference) -> bool:
    """Return whether a reference belongs to the program and data it was loaded for."""
    return found.gates.get("fingerprint", True) and found.gates.get("data", True)


def check(entry: ModelEntry, *, folder: Path | None = None, climb: bool = True) -> Reference:
    """Check a stored reference against its stored draws.

    Checks R-hat and the ESS band at the stored size, moments, Stein's identities, wide
    climbs and the fingerprint. Divergences and E-BFMI are read from the record, since the
    unthinned chains are not stored. A closed form is checked by Stein's identities on
    its exact draws. `climb=False` leaves out the wide climbs, most of the time of a check.
    """
    owner = stored_reference.borrowed(entry)
    data = owner.load_data()
    log_density = LogDensity(owner.program(data), data, dtype=owner.dtype)
    exact = owner.exact(data)
    if exact is not None:
        found = _analytic(owner, data, exact)
        assert found.posterior is not None
        posterior = dataclasses.replace(
            found.posterior, unconstrained=log_density.unconstrain(found.posterior.draws).double()
        )
        moments: Mapping[str, Moments] = {
            k: m for k, m in found.moments.items() if k in owner.quantities
        }
    else:
        found = stored_reference.load(owner, data, log_density, folder=folder)
        if found.posterior is None:
            return found
        posterior, moments = found.posterior, found.moments
    gates, values = certify.independence_gates(
        posterior, thinned_to=posterior.sample_shape[0] * posterior.sample_shape[1]
    )
    if exact is not None:  # independent by construction: the band would only test ArviZ
        gates = {name: passed for name, passed in gates.items() if name in ("finite", "rhat")}
    problems = [
        f"{name} is outside its limits at the stored draws"
        for name, passed in gates.items()
        if not passed
    ]
    if gates["finite"]:
        gap, limit = (
            certify.moment_gap(
                dataclasses.replace(posterior, entry=_only(owner, moments)), moments
            )
            if moments
            else (0.0, 1.0)
        )
        gates["moments"] = gap <= limit
        if gap > limit:
            problems.append(
                f"a moment of the draws is {gap:.1f} standard errors from the record (limit"
                f" {limit:.1f})"
            )
        assert posterior.unconstrained is not None
        distance, most, where = certify.stein(log_density, posterior.unconstrained.numpy())
        gates["stein"] = distance <= most
        if distance > most:
            problems.append(
                f"the {where} is {distance:.1f} standard errors from its value under the program"
                f" (limit {most:.1f})"
            )
        if exact is None and climb:
            # A check is rarely repeated, so compiling has to pay in this one.
            log_density.compile("auto", expected_calls=CLIMBS // RUNS)
            climbs = wide_climbs(log_density, posterior)
            gates |= {} if climbs.gate is None else {GATE: climbs.gate}
            problems += [climbs.sentence] if climbs.gate is False else []
    # Gates of the full run, as recorded, keep their own names beside those checked here.
    recorded = {
        f"recorded {name}": passed for name, passed in found.gates.items() if name != "fingerprint"
    }
    if "fingerprint" in found.gates:
        gates["fingerprint"] = found.gates["fingerprint"]
    reason = found.reason
    if found.usable and problems:
        cure = (
            "" if exact is not None else f"; rebuild it with `zoo reference {owner.key} --write`"
        )
        reason = f"The reference of {owner.key} is not valid: {problems[0]}{cure}."
    return dataclasses.replace(
        found,
        gates={**gates, **recorded},
        usable=not reason,
        reason=reason,
        rhat_max=values.get("rhat_max"),
        ess_min=values.get("ess_min"),
    )


def _only(owner: ModelEntry, moments: Mapping[str, Moments]) -> ModelEntry:
    """Return the entry restricted to quantities whose moments are known."""
    return dataclasses.replace(
        owner, quantities={k: q for k, q in owner.quantities.items() if k in moments}
    )
