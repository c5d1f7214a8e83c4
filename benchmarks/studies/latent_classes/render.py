"""`docs/results/latent_classes.md` from recorded figures; missing ones are shown as open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.studies.pages import fold

__all__ = ["bars", "render"]

HELD = ("iris", "wine", "breast_cancer")  # data sets of the held-out score
Rows = list[dict[str, Any]]


def _table(head: str, rows: list[list[str]]) -> str:
    columns = head.split(" | ")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def bars(found: Mapping[str, Rows]) -> list[list[str]]:
    """Return bar, measured figure and verdict for every bar, measured or not."""
    out = []
    rows = found.get("co_clustering", [])
    if rows:
        best = min(rows, key=lambda r: r["largest"])
        figure = (
            f"{best['largest']:.4f} ({best['family']}, `gaussian_mixture`), smallest ESS"
            f" {best['ess_smallest']:.0f}"
        )
        out.append(
            [
                "largest co-clustering error of the best guide against NUTS <= 0.02, ESS >= 2,000",
                figure,
                "met" if best["largest"] <= 0.02 and best["ess_smallest"] >= 2000 else "missed",
            ]
        )
    else:
        out.append(
            [
                "largest co-clustering error of the best guide against NUTS <= 0.02",
                "not measured",
                "open",
            ]
        )
    for data in HELD:
        row = next(iter(found.get(f"heldout_{data}", [])), None)
        bar = f"held-out log score above BayesianGaussianMixture on {data}, 95 % interval above 0"
        if row is None:
            out.append([bar, "not measured", "open"])
        else:
            figure = (
                f"{_signed(row['difference'], 3)} nats per row [{_signed(row['low'], 3)},"
                f" {_signed(row['high'], 3)}]"
            )
            out.append([bar, figure, "met" if row["low"] > 0 else "missed"])
    for part, what in (("coverage", "exact posterior"), ("coverage_guide", "guide")):
        rows = found.get(part, [])
        bar = f"85-95 % simulated coverage of 90 % intervals, at least 200 simulations ({what})"
        if not rows:
            out.append([bar, "not measured", "open"])
        for row in rows:
            figure = (
                f"{100 * row['share']:.1f} % +- {100 * row['se']:.1f} ({row['method']},"
                f" {row['simulations']} simulations)"
            )
            out.append(
                [
                    bar,
                    figure,
                    (
                        "met"
                        if 0.85 <= row["share"] <= 0.95 and row["simulations"] >= 200
                        else "missed"
                    ),
                ]
            )
    return out


def render(found: Mapping[str, Rows]) -> str:
    """Return the page of the recorded figures."""
    text = [
        "# Latent classes: measurements\n",
        (
            "Made by `zoo study latent_classes` (figures in `latent_classes.json`). Entries:"
            " [gaussian_mixture](../models/gaussian_mixture.md),"
            " [gaussian_mixture_exact](../models/gaussian_mixture_exact.md),"
            " [gaussian_mixture_classes](../models/gaussian_mixture_classes.md),"
            " [latent_class](../models/latent_class.md).\n"
        ),
        "## Criteria\n",
        _table("criterion | measured | verdict", bars(found)),
    ]
    shown = dict(found)
    shown["heldout"] = [row for data in HELD for row in found.get(f"heldout_{data}", [])]
    for part, section in SECTIONS.items():
        if shown.get(part):
            text.append(section(shown[part]))
    return fold("\n".join(text))


def _evidence_section(rows: Rows) -> str:
    table = _table(
        "K | method | estimate | nats | error | error + log K! | k-hat | largest co-clustering"
        " error",
        [
            [
                str(r["K"]),
                r["method"],
                r["estimate"],
                f"{r['nats']:.3f}".replace("-", "−"),
                _signed(r["error"], 3),
                _signed(r["error_with_numberings"], 3),
                f"{r['pareto_k']:.2f}" if "pareto_k" in r else "",
                f"{r['co_clustering']:.4f}" if "co_clustering" in r else "",
            ]
            for r in rows
        ],
    )
    return (
        "## Evidence of twelve flowers\n\nAgainst the exact log evidence (−25.42179 nats for K=2,"
        " −24.46853 for K=3). A guide covers one of the K! labelings; the column `error + log K!`"
        " (0.693, 1.792) corrects for this. k-hat does not detect the missing"
        " labelings.\n\n" + table
    )


def _network_section(rows: Rows) -> str:
    table = _table(
        "petal (cm) | KL(q \\|\\| p(c \\| x, u)), mean over u | KL(q \\|\\| mean over u of p(c \\|"
        " x, u))",
        [[f"{r['petal']:.1f}", f"{r['kl']:.5f}", f"{r['kl_of_mean']:.5f}"] for r in rows],
    )
    total = sum(r["kl"] for r in rows)
    return (
        "## Cost of class probabilities from a network\n\n`class_network` on twelve flowers,"
        f" K={rows[0]['K']}, nats per flower. The ELBO of its q(u) with exact classes is"
        f" {rows[0]['elbo']:.3f} nats; the network costs {total:.4f} nats in total.\n\n" + table
    ).replace("is -", "is −")


def _labels_section(rows: Rows) -> str:
    table = _table(
        "method | R-hat of the locations before | after | mean KL per row before (nats) | after |"
        " certainty | agreement | draws relabeled",
        [
            [
                r["method"],
                f"{r['rhat_before']:.2f}",
                f"{r['rhat_after']:.3f}",
                f"{r['kl_before']:.3f}",
                f"{r['kl_after']:.4f}",
                f"{r['certainty']:.3f}",
                f"{r['agreement']:.4f}",
                f"{100 * r['share_moved']:.0f} %",
            ]
            for r in rows
        ],
    )
    return (
        "## Relabeling\n\nThe stored NUTS chains of `gaussian_mixture`"
        f" (K=2).\n\n{table}\n{rows[0]['sentence']}\n"
    )


def _modes_section(rows: Rows) -> str:
    table = _table(
        "entry | mode | chains | mean log density | class sizes, rows | largest difference within"
        " | smallest to other modes",
        [
            [
                f"`{r['entry']}`",
                str(r["mode"]),
                ", ".join(map(str, r["chains"])),
                f"{r['log_density']:.1f}".replace("-", "−"),
                ", ".join(f"{v:.0f}" for v in r["sizes"]),
                f"{r['within']:.3f}",
                "" if r["apart"] is None else f"{r['apart']:.3f}",
            ]
            for r in rows
        ],
    )
    rhat = {
        r["entry"]: "undefined" if r["rhat_all"] is None else f"{r['rhat_all']:.2f}" for r in rows
    }
    said = {
        r[
            "entry"
        ]: f"* {r['sentence']} R-hat of the judged quantities over all chains: {rhat[r['entry']]}."
        for r in rows
    }
    return (
        f"## Chains in different modes\n\n{rows[0]['of']} NUTS chains per entry, each from its own"
        " start. Two chains are in the same mode if their co-clustering matrices differ (root mean"
        " square, in probability) by no more than the noise of the chains; this does not depend on"
        " the labeling. The heat map of a mixture in a report shows the same sentence about its"
        " chains.\n\n" + "\n".join(said.values()) + "\n\n" + table
    )


def _clustering_section(rows: Rows) -> str:
    table = _table("family | largest error", [[r["family"], f"{r['largest']:.4f}"] for r in rows])
    r = rows[0]
    truth = f"{r['draws']:,} draws of four NUTS chains" if "draws" in r else "the stored reference"
    return (
        f"## Co-clustering against NUTS\n\n`gaussian_mixture` (K=2), all {r['pairs']} pairs of"
        " petal lengths. Both sides are means over draws of sum_k r_ik r_jk; the reference is"
        f" {truth}. For the {r['doubt']} uncertain pairs its smallest bulk ESS is"
        f" {r['ess_smallest']:.0f} and its largest Monte Carlo error"
        f" {r['mcse_largest']:.4f}.\n\n{table}"
    )


def _heldout_section(rows: Rows) -> str:
    table = _table(
        "data | K | covariance | family | ours | theirs | ours − theirs | 95 % interval | failed"
        " fits",
        [
            [
                r["data"],
                str(r["K"]),
                r["covariance"],
                r["family"],
                _signed(r["ours"], 3),
                _signed(r["theirs"], 3),
                _signed(r["difference"], 3),
                f"{_signed(r['low'], 3)} to {_signed(r['high'], 3)}",
                str(r["failures"]),
            ]
            for r in rows
        ],
    )
    return (
        f"## Held-out log score\n\nNats per row, {rows[0]['folds']} folds, seeds (shuffle and"
        f" starts): {rows[0]['seeds']}; rows bootstrapped. Both methods are fitted to the same"
        " rows, standardized by the training fold, with the same K and covariance. Ours is the"
        " full posterior predictive, a mean over 400 draws; theirs is"
        " `BayesianGaussianMixture.score_samples` (best of 5 starts).\n\n" + table
    )


def _coverage_section(rows: Rows) -> str:
    lines = [
        [
            r["entry"],
            r["method"],
            str(r["rows"]),
            str(r["simulations"]),
            f"{100 * r['share']:.1f} % ± {100 * r['se']:.1f}",
            "; ".join(
                f"{k} {', '.join(f'{100 * v:.0f}' for v in p)}" for k, p in r["parts"].items()
            ),
            str(r["failures"]),
        ]
        for r in rows
    ]
    table = _table(
        "entry | method | rows | simulations | coverage of 90 % intervals | per component (%) |"
        " failed fits",
        lines,
    )
    methods = ", ".join(r["method"] for r in rows)
    return (
        f"## Simulated coverage: {methods}\n\nParameters and rows are simulated from the"
        f" program.\n\n{table}"
    )


SECTIONS: dict[str, Callable[[Rows], str]] = {
    "evidence": _evidence_section,
    "network": _network_section,
    "labels": _labels_section,
    "modes": _modes_section,
    "co_clustering": _clustering_section,
    "heldout": _heldout_section,
    "coverage": _coverage_section,
    "coverage_guide": _coverage_section,
}
