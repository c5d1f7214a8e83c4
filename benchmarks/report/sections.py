"""One entry of the HTML report: its story, verdicts, figures and tables as plain values for the template."""

from __future__ import annotations

import re
import sys
import textwrap
from typing import Any

from benchmarks.report import figures_fit, figures_nuts, figures_posterior, predictions
from benchmarks.report.components import View
from benchmarks.report.inputs import EntryReport
from benchmarks.report.numbers import plain
from benchmarks.report.overview import cells, reference_words, sentence, tidy
from benchmarks.report.panels import panel_of
from benchmarks.report.svg import inline_svg
from benchmarks.report.tables import method_table, provenance, score_table
from benchmarks.verdicts import verdict_of

__all__ = ["anchor", "entry_section", "picture", "story"]


def anchor(report: EntryReport) -> str:
    """Return an id for an entry that is safe in a link: distinct keys stay distinct."""
    return "e-" + re.sub(r"[^A-Za-z0-9_-]", lambda m: f".{ord(m.group()):x}.", report.entry.key)


def picture(figure: Any, name: str, alt: str, title: str = "", caption: str = "") -> dict[str, Any] | None:
    """Return a figure for the template, None where there is nothing to draw."""
    if figure is None:
        return None
    height = float(figure.get_figheight() * 72)
    return {
        "svg": inline_svg(figure, re.sub(r"[^A-Za-z0-9_-]", "", name), alt),
        "title": title,
        "caption": caption.replace(" %", "\u00a0%"),
        "height": height,
    }


def story(report: EntryReport) -> tuple[list[str], str, list[str]]:
    """Split the docstring of a model file into the lead, the generative process, and the rest.

    The process is the indented or `~` paragraphs. Programs without a model file have no story.
    """
    module = sys.modules.get(getattr(report.entry.build, "__module__", "") or "")
    own = module is not None and (hasattr(module, "ENTRY") or hasattr(module, "ENTRIES"))
    text = textwrap.dedent(module.__doc__ or "").strip() if own and module is not None else ""
    first, _, rest = text.partition("\n")
    text = first + "\n" + textwrap.dedent(rest)
    lead: list[str] = []
    process: list[str] = []
    after: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.strip("\n").splitlines()
        if not lines:
            continue
        if all(line.startswith("  ") for line in lines) or sum("~" in line for line in lines) * 2 >= len(lines):
            process.append(textwrap.dedent("\n".join(lines)))
        elif len(lead) < 2 and not process:
            lead.append(" ".join(line.strip() for line in lines))
        else:
            after.append(" ".join(line.strip() for line in lines))
    return lead, "\n\n".join(process), after


def entry_section(view: View) -> dict[str, Any]:
    """Return everything the template shows of one entry."""
    report = view.report
    lead, process, after = story(report)
    found = cells(report)
    wide, where = _forest(view), _where(view)
    # A tall forest plot leaves room beside it: as many figures go there as fit its height.
    room = 1 + max(0, round((wide["height"] * 1.3 - 480) / 330)) if wide is not None else 0
    beside, below = where[:room], where[room:]
    # A short one leaves room under it instead; a single figure left over joins those beside it.
    free = max(0, round((480 - wide["height"] * 1.3) / 330)) if wide is not None else 0
    under, below = below[:free], below[free:]
    if wide is not None and len(below) == 1:
        beside, below = beside + below, []
    verdicts = []
    for name in view.names:
        comparison = view.by_name[name]
        lines = [tidy(r.sentence) for r in comparison.reasons if r.sentence.rstrip(".") not in comparison.sentence]
        checks = [(t.passed, tidy(t.sentence)) for t in comparison.trust]
        # Beside a reference only failed checks are news; without one the checks are all there is.
        blind = verdict_of(comparison.verdict).blind
        trust = [c for c in checks if blind or c[0] is False]
        folded = [c for c in checks if c not in trust]
        verdicts.append(
            {
                "name": name,
                "cell": found[name],
                "sentence": tidy(comparison.sentence),
                "reasons": lines[:3],
                "more": lines[3:],
                "trust": trust,
                "folded": folded,
                "folded_as": _folded_as(folded, bool(trust)),
                "notes": [n for n in map(tidy, comparison.notes) if not any(n in text for _, text in checks)],
            }
        )
    return {
        "anchor": anchor(report),
        "key": report.entry.key,
        "title": report.entry.title,
        "sentence": sentence(report),
        "lead": lead,
        "process": process,
        "long": max(map(len, process.splitlines()), default=0) > 58,
        "after": after,
        "reference": reference_words(report),
        "verdicts": verdicts,
        "shown": view.shown,
        "wide": wide,
        "under": under,
        "beside": beside,
        "below": below,
        "how": _how(view),
        "health": _health(view),
        "checks": _checks(view),
        "predictions": _predictions(view),
        "panel": _panel(view),
        "methods": method_table(view),
        "scores": score_table(view),
        "provenance": provenance(report),
    }


def _folded_as(checks: list[tuple[bool | None, str]], others: bool) -> str:
    """Say what the folded trust checks are: how many passed, how many could not be made."""
    passed = sum(1 for ok, _ in checks if ok)
    missing = len(checks) - passed
    parts = [f"{passed} {'other ' if others else ''}trust check{'s' if passed != 1 else ''} passed"] if passed else []
    return ", ".join([*parts, *([f"{missing} not made"] if missing else [])])


def _forest(view: View) -> dict[str, Any] | None:
    if not view.reference or not view.shown:
        return None
    figure, shown = figures_posterior.forest(view)
    left = len([k for k in view.order if k in view.reference]) - shown
    caption = (
        "Each row is one component, worst first. Gray: the reference's 90 % (light) and 50 % (dark) intervals and median. "
        "Thin and thick lines: the same intervals of each method, in the order of the key."
    )
    if left > 0:
        caption += f" {left} better component{'s' if left > 1 else ''} not drawn."
    alt = f"Forest plot of {shown} components of {view.report.entry.key}: {', '.join(view.shown)} over the reference."
    return picture(figure, anchor(view.report) + "-f", alt, "Every method over the reference", caption)


def _where(view: View) -> list[dict[str, Any]]:
    key, pictures = view.report.entry.key, []
    found = figures_posterior.pair(view) if view.shown else None
    if found is not None:
        caption = f"The worst {found[1]}. Gray: 50 and 90 % regions of the truth; lines: each guide's 90 % ellipse."
        pictures.append(
            picture(found[0], anchor(view.report) + "-p", f"Contours and ellipses for {key}: {found[1]}.", "Worst pair", caption)
        )
    keys = [k for k in view.order if any(k in view.draws[n] for n in view.shown)][:3]
    for i, component in enumerate(keys):
        label = view.labels[component]
        figure, cut = figures_posterior.marginal(view, component)
        title = ("Worst component", "Second worst", "Third worst")[i] if view.reference else label
        caption = "Cut at three times the reference's peak." if cut else ""
        pictures.append(picture(figure, f"{anchor(view.report)}-m{i}", f"Density of {label} under each method.", title, caption))
    return [p for p in pictures if p is not None]


def _how(view: View) -> list[dict[str, Any]]:
    fits = view.report.summaries()
    name, key = anchor(view.report), view.report.entry.key
    early = [n for n, f in fits.items() if n in view.marks and f.stop.status != "ok"]
    restarts = any(len(f.restarts) > 1 for f in fits.values())
    above = "the lowest of all methods" if view.report.entry.judged is None else "its own lowest: some guides are fitted to all units"
    caption = f"Smoothed minus ELBO, above {above}. The marker is where a fit stopped."
    if early:
        caption += f" Did not converge: {', '.join(early)}."
    if restarts:
        caption += " Dashes at the right edge: the final values of all restarts."
    pictures = [
        picture(figures_fit.losses(view, fits), name + "-l", f"Losses of the fits of {key} against optimizer step.", "Losses", caption),
        picture(
            figures_fit.pareto(view), name + "-k", f"Pareto k-hat of each method on {key} against its threshold.", "Importance weights",
            "k-hat grades the reweighted answer, not the fit: it can look perfect while a mode is missed.",
        ),
        picture(
            figures_fit.reweighting(view), name + "-w", f"Mean errors on {key} before and after reweighting.", "What reweighting changes",
            "Hollow: as fitted. Filled: reweighted. The gray band is the material line of ±0.15.",
        ),
    ]  # fmt: skip
    return [p for p in pictures if p is not None]


def _health(view: View) -> list[dict[str, Any]]:
    nuts = view.report.nuts
    if nuts is None:
        return []
    name, key = anchor(view.report), view.report.entry.key
    mcmc = next((c.mcmc for n, c in view.by_name.items() if n.split(" ")[0] == "nuts"), None)
    pictures = []
    found = figures_nuts.ranks(view, nuts)
    if found is not None:
        text = f"A line is a chain; chains that agree stay in the band (99 % of independent draws). {found[1]} mixes worst."
        pictures.append(picture(found[0], name + "-r", f"Rank histogram per chain of {found[1]} for {key}.", "Ranks", text))
    value = mcmc.ebfmi_min if mcmc is not None else None
    smallest = f" E-BFMI {plain(value, 2)} (at least 0.3 is good)." if value is not None else ""
    text = f"Filled: energy. Line: its change from draw to draw. Alike is good.{smallest}"
    pictures.append(picture(figures_nuts.energy(nuts), name + "-e", f"Energy and energy transitions of NUTS on {key}.", "Energy", text))
    both = figures_nuts.divergences(view, nuts)
    if both is not None:
        bad = both[1]
        text = f"{bad} divergent draw{'s' if bad != 1 else ''} (crosses) among NUTS draws." if bad else "NUTS draws; none diverged."
        alt = f"Scatter of NUTS draws of {key} with {bad} divergent draws marked."
        pictures.append(picture(both[0], name + "-d", alt, "Divergences", text))
    return [p for p in pictures if p is not None]


def _checks(view: View) -> list[dict[str, Any]]:
    text = "Thick: observed. Band: 90 % of the data sets replicated from the posterior. Thin: the mean of each method's replications."
    pictures = [
        picture(
            figures_nuts.predictive(view, check), f"{anchor(view.report)}-c{i}", f"Observed and replicated {check.label}.",
            f"Predictive check: {check.label}", text,
        )
        for i, check in enumerate(view.report.ppc)
    ]  # fmt: skip
    return [p for p in pictures if p is not None]


def _predictions(view: View) -> dict[str, Any] | None:
    """Return the table of class probabilities with its figures, or why there is none; None for entries without the hook."""
    found = view.report.predictions
    if found is None:
        return None
    if found.error:
        return {"error": found.error, "heads": [], "rows": [], "figures": [], "wide": None, "note": ""}
    name, key = anchor(view.report), view.report.entry.key
    text = "On the line a method is as often right as it is sure; below it is overconfident. Ten bins of equal size."
    marks = dict(view.marks)
    pictures = [
        picture(
            predictions.diagram(found, marks, posteriors=kind), f"{name}-r{int(kind)}", f"Reliability diagram of {which} on {key}.",
            f"Reliability: {which}", text,
        )
        for kind, which in ((False, "point estimates and ensembles"), (True, "posteriors"))
    ]  # fmt: skip
    wide = picture(
        predictions.examples(found, marks), f"{name}-x", f"Class probabilities of each method on test images of {key}.",
        "Where the methods differ most from the truth", f"Bars: the predictive of {found.truth}. Marks: each method.",
    )  # fmt: skip
    rows = [(row.method, row.posterior, row.about, predictions.cells(found, row)) for row in found.rows]
    return {
        "error": "", "heads": predictions.heads(found), "rows": rows, "figures": [p for p in pictures if p is not None], "wide": wide,
        "note": predictions.caption(found),
    }  # fmt: skip


def _panel(view: View) -> dict[str, Any] | None:
    """Call the `panel(report)` hook of the entry, or of its tags; its failure is shown, not raised."""
    try:
        hook = panel_of(view.report.entry)
        if hook is None:
            return None
        made = [item if isinstance(item, tuple) else (item, "") for item in hook(view.report)]
        pictures = [
            picture(
                figure, f"{anchor(view.report)}-x{i}", str(caption) or f"Extra figure {i + 1} of {view.report.entry.key}.", "", str(caption)
            )
            for i, (figure, caption) in enumerate(made)
        ]
    except Exception as error:  # an outsider's hook must not cost the whole report
        return {"figures": [], "error": f"The panel of this entry failed: {type(error).__name__}: {error}"}
    return {"figures": [p for p in pictures if p is not None], "error": ""}
