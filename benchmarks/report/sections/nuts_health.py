"""NUTS diagnostics: ranks, energy and divergences."""

from __future__ import annotations

from markupsafe import Markup

from benchmarks.report import figures_nuts
from benchmarks.report.blocks import Picture, anchor, gallery, picture
from benchmarks.report.components import View
from benchmarks.report.numbers import count, plain
from benchmarks.report.section import ReportSection
from benchmarks.types import Mcmc

__all__ = ["SECTION"]


def pictures(view: View) -> list[Picture]:
    """Return the pictures that can be drawn."""
    nuts = view.report.nuts
    if nuts is None:
        return []
    name, key = anchor(view.report), view.report.entry.key
    mcmc = next((c.mcmc for n, c in view.by_name.items() if n.split(" ")[0] == "nuts"), None)
    pictures = []
    found = figures_nuts.ranks(view, nuts)
    if found is not None:
        text = (
            "A line is a chain; chains that agree stay in the band (99 % of independent draws)."
            f" {found[1]} mixes worst."
        )
        pictures.append(
            picture(
                found[0],
                name + "-r",
                f"Rank histogram per chain of {found[1]} for {key}.{_mixing(mcmc)}",
                "Ranks",
                text,
            )
        )
    value = mcmc.ebfmi_min if mcmc is not None else None
    smallest = f" E-BFMI {plain(value, 2)} (at least 0.3 is good)." if value is not None else ""
    text = f"Filled: energy. Line: its change from draw to draw. Alike is good.{smallest}"
    pictures.append(
        picture(
            figures_nuts.energy(nuts),
            name + "-e",
            f"Energy and energy transitions of NUTS on {key}.{smallest}",
            "Energy",
            text,
        )
    )
    both = figures_nuts.divergences(view, nuts)
    if both is not None:
        bad = both[1]
        text = (
            f"{bad} divergent draw{'s' if bad != 1 else ''} (crosses) among NUTS draws."
            if bad
            else "NUTS draws; none diverged."
        )
        alt = f"Scatter of NUTS draws of {key} with {bad} divergent draws marked."
        pictures.append(picture(both[0], name + "-d", alt, "Divergences", text))
    return [p for p in pictures if p is not None]


def _mixing(mcmc: Mcmc | None) -> str:
    """Return the figures of the component that mixes worst."""
    if mcmc is None:
        return ""
    return (
        f" Largest R-hat {plain(mcmc.rhat_max, 4)}, smallest bulk ESS {count(mcmc.ess_bulk_min)}."
    )


def html(view: View) -> Markup | None:
    """Render them side by side."""
    return gallery("NUTS health", pictures(view))


SECTION = ReportSection(
    name="nuts_health", about="ranks, energy and divergences of NUTS", order=50, html=html
)
