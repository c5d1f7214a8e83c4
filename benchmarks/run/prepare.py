"""From a plan to its cells: entries, data, validation and time estimates, without writing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

import zoo
from benchmarks.reference import find as references
from benchmarks.run import witness
from benchmarks.run.cell import NUTS, Cell, Prepared
from benchmarks.run.estimates import CHAINS, ESTIMATES, METHOD, SMC_DIMENSIONS
from benchmarks.run.forecast import forecast
from benchmarks.run.outside import Outside
from benchmarks.run.plan import TARGET_ACCEPT, Plan
from benchmarks.run.sources import source_digest
from benchmarks.types import reweighted_name
from guides.registry import check_family
from zoo.density.faults import place_of
from zoo.density.log_density import LogDensity
from zoo.errors import ProgramError, UsageError, ZooError, listed, one_line, spelled
from zoo.registry import names, parse
from zoo.seeds import seeded
from zoo.types import ModelEntry

__all__ = ["command", "duration", "file_of", "plan_cells", "prepare", "slow", "unnamed"]

SMC_NUMBERS = 1_000_000  # entries of all results in one evaluation, for some minutes of SMC
LONG, MANY_ROWS = 300.0, 20_000  # seconds and rows from which minibatches are advised

DRAWS, QUICK_DRAWS = 4000, 2000
QUICK_FIT = {"steps": 1500, "patience": 250}
QUICK_CHAINS = {"draws": 500, "tune": 500, "min_ess": 1100.0}
# LARGEST_DRAWS limits the numbers in all draws of a method; at least LEAST_DRAWS are taken anyway.
LARGEST_DRAWS, LEAST_DRAWS = 10_000_000, 200
# dimensions above which an entry that declares no reference gets no chains
UNREFERENCED = 2000


def prepare(plan: Plan, request: str | ModelEntry) -> Prepared:
    """Load an entry, make its data once, and build its log density.

    Bad input therefore fails here, at no cost.

    Raises:
        UsageError, UnknownNameError, DataError, ProgramError: with the next step, before anything
            is written.
    """
    outside = Outside("" if isinstance(request, ModelEntry) else request)
    with outside.reading():
        made = _prepared(plan, request)
    files = outside.digests(outside.modules(made.entry))
    return replace(made, files=files, outside=outside)


def _prepared(plan: Plan, request: str | ModelEntry) -> Prepared:
    entry = request if isinstance(request, ModelEntry) else zoo.load(request)
    name = entry.key if isinstance(request, ModelEntry) else request
    own = (g for g in entry.own_guides if g not in entry.families)
    wanted = plan.families((*entry.families, *own))
    for family in wanted:
        check_family(family, entry)
    try:
        data = entry.load_data(plan.data_seed)
        training = data if entry.judged is not None else None
        data = data if entry.judged is None else entry.judged(data)
        # A network with random initial weights must be the same in every process.
        with seeded(0):
            density = LogDensity(entry.program(data), data, dtype=entry.dtype)
        seen = witness.of_program(entry, data, density)
        _refuse_slashes(s.name for s in density.sites)
    except ZooError:
        raise
    except SystemExit as error:
        raise ProgramError(
            f"Entry {entry.key} ends the process (SystemExit) while it is made; fix its make_data"
            " or build."
        ) from error
    except Exception as error:
        _, statement = place_of(error)
        line = f", in `{statement}`" if statement else ""
        raise ProgramError(
            f"Entry {entry.key} raises {type(error).__name__} while it is made{line}:"
            f" {one_line(error)}; fix its make_data or build."
        ) from error
    chains = plan.nuts and not (entry.reference == "none" and density.dim > UNREFERENCED)
    families = dict.fromkeys(wanted)
    again = {reweighted_name(f): f for f in families} if plan.reweight else {}
    rows = (m for f in families for m in (f, reweighted_name(f)) if m == f or m in again)
    methods = tuple(rows) + ((NUTS,) if chains else ())
    remark = ""
    if plan.repair or (
        plan.trust and not plan.nuts and not references.known(entry, plan.data_seed)
    ):
        method, remark = _estimate(entry, density)
        methods += (method,) if method else ()
    settings = vi_config(plan), nuts_config(plan)
    draws = QUICK_DRAWS if plan.quick else DRAWS
    seconds = forecast(entry, methods, density, training, *settings, dict.fromkeys(again, draws))
    digest = source_digest(name, entry, training or data)
    most = max(LEAST_DRAWS, LARGEST_DRAWS // density.dim)
    return Prepared(
        request=name,
        entry=entry,
        data=data,
        methods=methods,
        reweighted=again,
        digest=digest,
        seconds=seconds,
        training=training,
        most_draws=most,
        witness=seen,
        density=density,
        remark=remark,
    )


def _estimate(entry: ModelEntry, density: LogDensity) -> tuple[str, str]:
    """Return the row that estimates the posterior, and why it is not SMC; no clock is asked."""
    numbers = density.work().numbers
    if numbers > SMC_NUMBERS:
        why = f"{numbers:,} numbers in one evaluation of the density, at most {SMC_NUMBERS:,}"
        instead, method = "fits are assessed by chains from their own draws", ""
    elif density.dim > SMC_DIMENSIONS:
        why = f"{density.dim:,} coordinates, at most {SMC_DIMENSIONS}"
        instead, method = "short chains stand in for it", CHAINS
    else:
        return METHOD, ""
    return method, (
        f"{entry.key}: no row of tempered SMC ({why}); {instead}, which can show an error but no"
        " agreement"
    )


def _refuse_slashes(names: Iterable[str]) -> None:
    """Refuse site names that files of draws cannot hold, before any work is done."""
    for name in names:
        if "/" in name:
            raise ProgramError(
                f"The site name {name!r} cannot be stored in a file of draws; give the site a name"
                " without '/'."
            )


def vi_config(plan: Plan) -> dict[str, Any]:
    """Return the settings of a fit that the plan determines."""
    quick: dict[str, Any] = QUICK_FIT if plan.quick else {}
    return {"restarts": plan.restarts, "compile": plan.compile, "device": plan.device, **quick}


def nuts_config(plan: Plan) -> dict[str, Any]:
    """Return the settings of NUTS; a quick run extends only to the gate, not to twice the gate.

    On most entries 4 x 1,500 draws reach an ESS of 2,000 in one round; 4 x 1,000 need a second
    one.
    """
    quick: dict[str, Any] = QUICK_CHAINS if plan.quick else {"draws": 1500}
    # a default is left out: cells keep the names that they had before there was a choice
    rate = {"target_accept": plan.target_accept}
    wished = rate if plan.target_accept != TARGET_ACCEPT else {}
    return {"engine": plan.engine, "compile": plan.compile, **wished, **quick}


def plan_cells(plan: Plan, prepared: Sequence[Prepared]) -> list[Cell]:
    """Return every cell of the plan.

    Cells of an entry that learns weights depend on the cell that trains them.
    """
    cells = []
    for p in prepared:
        for seed in plan.seeds:
            trained: Cell | None = None
            fits: list[Cell] = []
            for method in p.methods:
                if p.entry.learns and trained is None and method == NUTS:
                    raise UsageError(
                        f"{p.entry.key} learns weights of its own; name at least one family in"
                        f" {spelled('families=', '--guides')} that trains them."
                    )
                config = nuts_config(plan) if method == NUTS else vi_config(plan)
                family = p.reweighted.get(method)
                begins = method in ESTIMATES or family is not None
                config = {"compile": plan.compile} if begins else config
                draws = min(QUICK_DRAWS if plan.quick else DRAWS, p.most_draws or DRAWS)
                cell = Cell(
                    prepared=p,
                    method=method,
                    seed=seed,
                    data_seed=plan.data_seed,
                    config=config,
                    draws=draws,
                    given=trained,
                    starts=tuple(c for c in fits if begins and family in (None, c.method)),
                )
                if method != NUTS and not begins:
                    fits.append(cell)
                if p.entry.learns and trained is None:
                    trained = cell
                cells.append(cell)
    return cells


def unnamed(plan: Plan) -> list[str]:
    """Return the entries that are neither in the registry nor in a file: given in Python."""
    known = set(names())
    return [e for e in plan.entries if not file_of(e) and _parsed_name(e) not in known]


def _parsed_name(request: str) -> str:
    try:
        return parse(request)[0]
    except ZooError:
        return request


def file_of(request: str) -> str:
    """Return the path of the model file that a request names; empty for an entry's name."""
    file, colon, _ = request.rpartition(":")
    file = file if colon and file.endswith(".py") else request
    return file if file.endswith(".py") else ""


def command(plan: Plan) -> str:
    """Return the command that makes this run, or the call where the model was given in Python."""
    if unnamed(plan):
        return _call(plan)
    guides = plan.guides if isinstance(plan.guides, str) else ",".join(plan.guides)
    words = [
        "zoo compare",
        *(f"'{e}'" if set(e) & set("[] ") else e for e in plan.entries),
        f"--guides {guides}",
    ]
    words += [f"--seed {plan.seeds[0]}"] if plan.seeds[0] else []
    again = "".join(f", again with --seed {seed}" for seed in plan.seeds[1:])
    words += [f"--data-seed {plan.data_seed}"] if plan.data_seed else []
    words += [f"--restarts {plan.restarts}"] if plan.restarts > 1 else []
    words += [f"--engine {plan.engine}"] if plan.engine != "nutpie" else []
    wished = plan.target_accept != TARGET_ACCEPT
    words += [f"--target-accept {plan.target_accept:g}"] if wished else []
    words += [f"--compile {plan.compile}"] if plan.compile != "auto" else []
    words += [f"--device {plan.device}"] if plan.device != "cpu" else []
    words += [
        flag
        for flag, on in (
            ("--no-nuts", not plan.nuts),
            ("--quick", plan.quick),
            ("--no-trust", not plan.trust),
            ("--repair", plan.repair),
            ("--reweight", plan.reweight),
        )
        if on
    ]
    return " ".join(words) + again


def _call(plan: Plan) -> str:
    """Return the call that makes a run of a model that was given in Python."""
    words = ["model", "data"]
    words += [] if plan.guides == "all" else [repr([*plan.guides])]
    words += [
        f"{name}={value!r}"
        for name, value, usual in (
            ("nuts", plan.nuts, True),
            ("trust", plan.trust, True),
            ("reweight", plan.reweight, False),
            ("seed", plan.seeds[0], 0),
            ("quick", plan.quick, False),
            ("restarts", plan.restarts, 1),
            ("target_accept", plan.target_accept, TARGET_ACCEPT),
        )
        if value != usual
    ]
    again = "".join(f", again with seed={seed}" for seed in plan.seeds[1:])
    return f"benchmarks.compare_program({', '.join(words)}){again}"


def slow(missing: Sequence[Cell], seconds: float) -> list[str]:
    """Return what makes a long run slow and what to write instead, a sentence per entry.

    Only of runs estimated to take minutes on entries whose gradients read many rows at once.
    """
    entries = {c.prepared.entry.key: c.prepared for c in missing}
    found, without = [], spelled("nuts=False", "--no-nuts")
    for key, prepared in entries.items():
        sizes = {
            k: v.shape[0]
            for k, v in prepared.data.train.items()
            if isinstance(v, torch.Tensor) and v.ndim
        }
        rows = max(sizes.values(), default=0)
        if seconds < LONG or rows < MANY_ROWS or prepared.entry.minibatch is not None:
            continue
        batched = listed(k for k, n in sizes.items() if n == rows)
        chains = any(c.method == NUTS for c in missing if c.prepared is prepared)
        found.append(
            f"{key}: every step reads all {rows:,} rows; for minibatches give the program an"
            f" argument index=None, its plate subsample=index (size {rows}), and the entry"
            f" batched=[{batched}] and minibatch=1000"
            + (f"; {without} leaves out the chains, which need all rows" if chains else "")
        )
    return found


def duration(seconds: float) -> str:
    """Return a duration in words, rounded like an estimate."""
    if seconds < 50:
        return f"{max(5, 5 * math.ceil(seconds / 5))} seconds"
    minutes = round(seconds / 60)
    return (
        f"{minutes} minute{'s' if minutes > 1 else ''}"
        if minutes < 90
        else f"{seconds / 3600:.1f} hours"
    )
