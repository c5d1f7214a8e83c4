"""From drawn cells to a result: references, comparisons, and the contents of the report.

Each reference is found once, then every cell is compared with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.comparison.baselines import table
from benchmarks.comparison.posterior_predictive import predictive_checks
from benchmarks.comparison.sentences import advised
from benchmarks.metrics.joint import c2st
from benchmarks.metrics.metric import component_metrics, joint_distances_known
from benchmarks.reference import find as references
from benchmarks.report.inputs import EntryReport, ReportInput, method_names
from benchmarks.run.cell import NUTS, Cell, Prepared, compare_cell, load_fit, load_posterior
from benchmarks.run.estimates import ESTIMATES, reference_by
from benchmarks.run.failures import chains_failed, failures
from benchmarks.run.freshness import comparing_code, digest_of_truth, is_compared
from benchmarks.run.prepare import command
from benchmarks.run.progress import Events
from benchmarks.run.record import (
    comparison_of,
    digest_of,
    machine,
    reference_record,
    uncompared_cell,
    versions,
)
from benchmarks.run.run_result import RunResult
from benchmarks.run.store import RunDir, strict_json
from benchmarks.trust.climbs import climb_for, judged, needs_climbs
from benchmarks.trust.existence import needs_doubt
from benchmarks.types import Comparison, has_draws
from benchmarks.workers import Task, TaskResult, run_tasks
from zoo.errors import InfrastructureError, LostWorkerError
from zoo.types import Posterior, Reference

if TYPE_CHECKING:
    from benchmarks.comparison.baselines import PredictionTable
    from benchmarks.report.inputs import ReportInput
    from benchmarks.types import PredictiveCheck

__all__ = ["RunResult", "evaluate"]


def evaluate(
    cells: list[Cell], run: RunDir, jobs: int, events: Events, timeout: float | None = None
) -> RunResult:
    """Compare the cells that need it, store the comparisons if the run is locked, return all.

    A ground truth computed from a trained program takes long: a worker finds it while cells of
    other entries are compared. What the report shows beside the comparisons of an entry is made as
    soon as they are complete.
    """
    for sentence in (*component_metrics()[1], *joint_distances_known()[1]):
        events.warn(sentence)
    work = _Evaluation(cells, run, events, timeout)
    for key in work.quick:
        work.references[key] = work.find(key)
    work.do(
        [*map(work.truth, work.slow), *(job for key in work.quick for job in work.climbed(key))],
        jobs,
    )
    contents = [work.contents[c.name] for c in cells if c.name in work.contents]
    return RunResult(
        path=run.path,
        cells=contents,
        references={key: reference_record(r) for key, r in work.references.items()},
        report=work.report(),
        failures=[*failures(contents), *work.broken],
    )


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A task, and the callback that takes its result and returns the jobs that follow."""

    task: Task
    take: Callable[[TaskResult], list[_Job]]


class _Evaluation:
    """The cells of a run by entry, and what is known of each entry so far.

    Attributes:
        slow: keys of the entries whose ground truth is computed from a trained program.
        quick: the other keys.
    """

    def __init__(
        self, cells: list[Cell], run: RunDir, events: Events, timeout: float | None = None
    ) -> None:
        self.run, self.events, self.timeout = run, events, timeout
        self.contents = {
            c.name: content
            for c in cells
            if (content := run.read(c.name, warn=events.warn)) is not None
        }
        self.posteriors = {
            c.name: load_posterior(c, run, self.contents[c.name])
            for c in cells
            if c.name in self.contents
        }
        self.groups: dict[str, list[Cell]] = {}
        for cell in cells:
            self.groups.setdefault(cell.prepared.entry.key, []).append(cell)
        self.references: dict[str, Reference] = {}
        self.climbs: dict[str, dict[str, Any]] = {}
        self.broken: list[str] = []
        self._compared: dict[str, list[Comparison]] = {}
        self.parts: dict[str, tuple[list[PredictiveCheck], PredictionTable | None]] = {}
        self.slow = [
            key
            for key in self.groups
            if references.takes_long(self.prepared(key).entry) and self.learned(key) is not None
        ]
        self.quick = [key for key in self.groups if key not in self.slow]

    def prepared(self, key: str) -> Prepared:
        """Return the entry with its data."""
        return self.groups[key][0].prepared

    def learned(self, key: str) -> Any:
        """Return the fit whose trained program is held fixed; None if there is none."""
        return load_fit(self.groups[key][0], self.run) if self.prepared(key).entry.learns else None

    def present(self, key: str) -> list[Cell]:
        """Return the cells of an entry that are on disk."""
        return [c for c in self.groups[key] if c.name in self.contents]

    def is_compared(self, content: dict[str, Any], truth: Reference | None) -> bool:
        """Whether a cell holds the comparison that this run asks for."""
        return is_compared(content, truth, self.run.locked, self.run.plan.trust)

    def do(self, first: list[_Job], jobs: int) -> None:
        """Run these jobs and those that follow from them."""
        named = {job.task.name: job for job in first}

        def follow(result: TaskResult) -> list[Task]:
            more = named[result.name].take(result)
            named.update({job.task.name: job for job in more})
            return [job.task for job in more]

        pairs = [
            (self.contents[c.name], self.references.get(key))
            for key in self.groups
            for c in self.present(key)
        ]
        stale = sum(not self.is_compared(content, truth) for content, truth in pairs)
        if stale:
            # Imported once, before forking: every comparison would need a second for it.
            c2st.load()
            self.events.begin("comparisons", stale)
        try:
            run_tasks([job.task for job in first], jobs, self.timeout, follow=follow)
        finally:
            if stale:
                self.events.finish()

    def nuts(self, key: str) -> Posterior | None:
        """Return the chains of the first seed, unless an error stopped them."""
        return self.row(key, NUTS)

    def row(self, key: str, method: str) -> Posterior | None:
        """Return the draws of a method with the first seed, unless an error stopped it."""
        rows = [c for c in self.present(key) if c.method == method]
        return next(
            (
                self.posteriors[c.name]
                for c in rows
                if self.contents[c.name]["status"] in ("ok", "not_converged", "unusable")
            ),
            None,
        )

    def why_no_chains(self, key: str) -> str:
        """Return why the chains of an entry failed, empty if they did not."""
        return chains_failed([self.contents[c.name] for c in self.present(key)])

    def find(self, key: str) -> Reference:
        """Find the ground truth of an entry in this process.

        If there is no other, it is the NUTS row of the first seed.
        """
        prepared, given = self.prepared(key), self.learned(key)
        return self.or_estimated(
            key,
            references.find(
                prepared.entry,
                prepared.data,
                nuts=self.nuts(key),
                given=given,
                failed=self.why_no_chains(key),
                density=prepared.density,
            ),
        )

    def or_estimated(self, key: str, found: Reference) -> Reference:
        """Return the reference, or the estimate by a row of SMC or short chains if it is none."""
        if found.kind == "none":
            rows = [self.row(key, method) for method in ESTIMATES]
            found = reference_by(rows, self.prepared(key).density) or found
        return found

    def truth(self, key: str) -> _Job:
        """Return the job that computes the ground truth of an entry in a worker.

        Entry and data cannot be pickled; they are restored in this process.
        """
        prepared = self.prepared(key)

        def compute() -> Reference | None:
            found = references.exact_given(prepared.entry, prepared.data, self.learned(key))
            return None if found is None else _with(found, None, None)

        def take(result: TaskResult) -> list[_Job]:
            found = result.value if result.status == "ok" else None
            if isinstance(result.exception, InfrastructureError) and not isinstance(
                result.exception, LostWorkerError
            ):
                raise result.exception
            if result.status != "ok":  # the other entries remain
                self.broken.append(f"{key}: its ground truth was not computed: {result.error}")
                self.events.warn(self.broken[-1])
            known = (
                references.chains_given(self.nuts(key), self.why_no_chains(key))
                if found is None
                else _with(found, prepared.entry, prepared.data)
            )
            self.references[key] = self.or_estimated(key, known)
            return self.climbed(key)

        return _Job(task=Task(f"{key} truth", compute), take=take)

    def climbed(self, key: str) -> list[_Job]:
        """Return the job of wide climbs if the reference needs them, else `comparisons`."""
        found, rows = self.references[key], self.present(key)
        others = any(c.method != NUTS for c in rows)
        if not ((needs_climbs(found) and others) or needs_doubt(found)):
            return self.comparisons(key)
        chains = [c.name for c in rows if c.method == NUTS][:1]
        basis = f"{digest_of(found)}-{chains}-{comparing_code()}"

        def settle(outcome: dict[str, Any]) -> list[_Job]:
            self.climbs[key] = outcome
            self.references[key] = judged(found, outcome["gate"], outcome["sentence"])
            return self.comparisons(key)

        seen = [(self.contents[c.name]["reference"] or {}).get("climbs") for c in rows]
        known = [c for c in seen if c and (c["basis"] == basis or not self.run.locked)]
        if known or not self.run.locked:
            return settle(known[0]) if known else self.comparisons(key)

        def take(result: TaskResult) -> list[_Job]:
            if result.status == "ok":
                climbs = result.value
                return settle({"basis": basis, "gate": climbs.gate, "sentence": climbs.sentence})
            self.events.warn(f"{key}: no wide climbs: {result.error}")
            return self.comparisons(key)

        given, draws = self.learned(key), [self.posteriors[c.name] for c in rows]
        own = [c for c in rows if not c.reweights]  # whose gradients are those of another row
        spent = sum(self.contents[c.name]["cost"]["gradient_evaluations"] for c in own)
        task = Task(f"{key} wide climbs", lambda: climb_for(found, given, draws, spent))
        return [_Job(task=task, take=take)]

    def comparisons(self, key: str) -> list[_Job]:
        """Return the jobs that compare the cells of an entry with its reference, now final.

        Once they are done, or if there are none, the job of `shown` follows.
        """
        truth = self.references[key]
        if not truth.usable:
            tell = self.events.say if truth.kind == "none" else self.events.warn
            tell(f"{key}: {truth.reason}")
        stale = [
            c for c in self.present(key) if not self.is_compared(self.contents[c.name], truth)
        ]
        left = {c.name for c in stale}
        return [self.comparison(c, truth, left) for c in stale] or [self.shown(key)]

    def comparison(self, cell: Cell, reference: Reference, left: set[str]) -> _Job:
        """Return the job of one comparison; a comparison that fails is an error of its cell.

        `left` holds the names of the cells still to be compared.
        """
        content = self.contents[cell.name]

        def take(result: TaskResult) -> list[_Job]:
            if result.status == "ok":
                scored = result.value
            elif isinstance(result.exception, InfrastructureError):
                raise result.exception
            else:
                scored = uncompared_cell(content, str(result.error))
                self.events.warn(
                    f"{cell.label}: comparing its draws with the reference failed: {result.error}"
                )
            if scored["reference"] is not None:
                scored["reference"]["digest"] = digest_of_truth(reference, self.run.plan.trust)
                scored["reference"]["climbs"] = self.climbs.get(cell.prepared.entry.key)
            if self.run.locked:
                self.run.rewrite(cell.name, "cell.json", strict_json(scored))
            self.contents[cell.name] = scored
            told = scored["verdict"] if result.status == "ok" else "error"
            if posterior is reference.posterior:
                told = "the reference of the others"
            self.events.done(result.name, told, "", result.seconds)
            left.remove(cell.name)
            return [] if left else [self.shown(cell.prepared.entry.key)]

        # Read before forking, so that the worker has them.
        posterior, fit = self.posteriors[cell.name], load_fit(cell, self.run)
        task = Task(
            f"{cell.label} compared",
            lambda: compare_cell(
                cell, posterior, fit, content, reference, self.run.plan.trust, self.run
            ),
        )
        return _Job(task=task, take=take)

    def compared(self, key: str) -> list[Comparison]:
        """Return the comparisons of an entry, once all exist; each is rebuilt only once.

        Only now is it known which methods of the run agree, so the next step in their sentences is
        made here.
        """
        if key not in self._compared:
            own = [c for c in self.present(key) if self.contents[c.name]["verdict"] is not None]
            truth = self.references[key]
            made = advised(
                [
                    comparison_of(
                        self.contents[c.name],
                        self.posteriors[c.name],
                        truth,
                        load_fit(c, self.run),
                    )
                    for c in own
                ]
            )
            for cell, comparison in zip(own, made, strict=True):
                self._keep_sentence(cell, comparison.sentence)
            self._compared[key] = made
        return self._compared[key]

    def _keep_sentence(self, cell: Cell, sentence: str) -> None:
        content = self.contents[cell.name]
        if content["sentence"] == sentence:
            return
        self.contents[cell.name] = {**content, "sentence": sentence}
        if self.run.locked:
            self.run.rewrite(cell.name, "cell.json", strict_json(self.contents[cell.name]))

    def shown(self, key: str) -> _Job:
        """Return the job that makes predictive checks and the table of predictions."""
        # Before forking, so that the worker has them; the report needs them too.
        compared = self.compared(key)

        def make() -> tuple[list[PredictiveCheck], PredictionTable | None]:
            entry, data, learned = (
                self.prepared(key).entry,
                self.prepared(key).data,
                self.learned(key),
            )
            rows = dict(zip(method_names(compared), compared, strict=True))
            program = entry.program(data) if learned is None else learned.program
            checks = predictive_checks(
                entry,
                data,
                program,
                {m: c.posterior for m, c in rows.items() if has_draws(c.posterior)},
            )
            return checks, table(
                entry, data, rows, self.references[key], seed=self.run.plan.seeds[0]
            )

        def take(result: TaskResult) -> list[_Job]:
            if isinstance(result.exception, InfrastructureError):
                raise result.exception
            if result.status == "ok":
                self.parts[key] = result.value
            else:  # its comparisons and the other entries remain
                self.parts[key] = [], None
                self.broken.append(
                    f"{key}: no predictive checks and no predictions: {result.error}"
                )
                self.events.warn(self.broken[-1])
            return []

        return _Job(task=Task(f"{key} shown", make), take=take)

    def report(self) -> ReportInput:
        """Return the input of the report."""
        entries = []
        for key in self.groups:
            prepared, compared = self.prepared(key), self.compared(key)
            checks, predictions = self.parts[key]
            nuts = next(
                (
                    c.posterior
                    for c in compared
                    if c.posterior.method == NUTS and c.posterior.stats
                ),
                None,
            )
            entries.append(
                EntryReport(
                    entry=prepared.entry,
                    data=prepared.data,
                    reference=self.references[key],
                    comparisons=compared,
                    nuts=nuts,
                    ppc=checks,
                    predictions=predictions,
                )
            )
        plan = self.run.plan
        seeds = {"seeds": list(plan.seeds), "data_seed": plan.data_seed}
        return ReportInput(
            entries=entries,
            meta={"command": command(plan), "versions": versions(), "machine": machine(), **seeds},
        )


def _with(reference: Reference, entry: Any, data: Any) -> Reference:
    """Return a reference whose draws belong to this entry and these data."""
    own = reference.posterior
    return (
        reference
        if own is None
        else dataclasses.replace(
            reference, posterior=dataclasses.replace(own, entry=entry, data=data)
        )
    )
