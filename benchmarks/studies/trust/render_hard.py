"""The part of `docs/results/trust.md` on targets with exact samplers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.studies.trust.criteria import Row, bad, count, line

__all__ = ["hard_lines", "hard_table"]

TARGETS_ASKED = 0.8  # of the targets, repaired after any start


def hard_lines(rows: Mapping[str, Row]) -> list[str]:
    """Return the criteria: bad fits flagged, targets repaired after every start, rest flagged."""
    fits = _known(rows)
    if not fits:
        return []
    wrong = [r for r in fits if bad(r)]
    flagged, blind = sum(r["gate"] == 1 for r in wrong), sum(_blind(r) for r in wrong)
    by_target: dict[str, list[Row]] = {}
    for row in fits:
        by_target.setdefault(row["entry"], []).append(row)
    mended = sum(all(r.get("repaired_passes") for r in own) for own in by_target.values())
    left = [r for r in fits if not r.get("repaired_passes")]
    doubted = sum(not r.get("repaired") or bool(r.get("repaired_doubt")) for r in left)
    out = []
    if wrong:
        share = flagged / len(wrong)
        out.append(
            line(
                "bad fits flagged, hard set", ">= 95 %", count(flagged, len(wrong)), share >= 0.95
            )
        )
        out.append(f"| *for comparison: k-hat above 0.7* | | {count(blind, len(wrong))} | |")
    number = len(by_target)
    out.append(
        line(
            "hard targets whose repaired quantiles are right after every start",
            ">= 8 of 10",
            f"{mended} of {number}",
            mended / number >= TARGETS_ASKED,
        )
    )
    if left:
        out.append(
            line(
                "*of the repairs that are not right: in doubt*",
                "all",
                count(doubted, len(left)),
                doubted == len(left),
            )
        )
    return out


def hard_table(rows: Mapping[str, Row]) -> list[str]:
    """Return one line per target and family."""
    fits = _known(rows)
    if not fits:
        return []
    lines = [
        "## Targets with exact samplers",
        "",
        "What is hard about each stands in `benchmarks/studies/trust/hard_targets.py`. The repair"
        " is judged by the largest error of P(x <= x_p) at the true 5, 25, 50, 75 and 95 %"
        " quantiles of all judged components.",
        "",
        "Many targets are programs without data, whose posterior is their prior. Where chains say"
        " that the points of SMC are not the posterior, it runs again from a base that contains"
        " the prior, and there that is the target itself: funnel, banana, spike_slab and cauchy"
        " are easy for this reason. `boundary` has data, as have the centered schools of `fits`.",
        "",
        "| target | family | verdict | worst mean error, sd: true, estimated |"
        " worst log sd ratio: true, estimated | repaired by | probability error | log evidence:"
        " exact, SMC |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in fits:
        passed = "" if r.get("repaired_passes") else " **(not right)**"
        doubt = ", in doubt" if r.get("repaired_doubt") else ""
        error = _number(r.get("probability_error"), ".3f")
        exact, z = _number(r.get("evidence"), ".2f"), _number(r.get("log_z"), ".2f")
        if r.get("log_z") is not None:
            z += f" +- {r['log_z_se']:.2f}"
        lines.append(
            f"| {r['entry']} | `{r['family']}` | `{r['verdict']}` | {_pair(r, 'mean')} |"
            f" {_pair(r, 'log_sd')} | {r.get('repaired') or 'nothing'}{doubt} | {error}{passed} |"
            f" {exact}, {z} |"
        )
    return lines


def _known(rows: Mapping[str, Row]) -> Sequence[Row]:
    return [r for r in rows.values() if r.get("status") == "ok"]


def _blind(row: Row) -> bool:
    return (row.get("k_hat") or 0) > 0.7


def _pair(row: Row, name: str) -> str:
    true, estimated = row.get(f"true_{name}"), row.get(f"estimated_{name}")
    return f"{_number(true, '.2f')}, {_number(estimated, '.2f')}"


def _number(value: float | None, form: str) -> str:
    return "not known" if value is None else format(value, form)
