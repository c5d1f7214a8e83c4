"""How good it is: NUTS, metrics, comparisons with a verdict, runs on disk, reports.

    import zoo, guides, benchmarks
    entry = zoo.load("eight_schools")
    posterior = guides.draw(guides.fit(entry, "full_rank"), 2000)
    comparison = benchmarks.compare(posterior, benchmarks.run_nuts(entry))
    print(comparison.verdict, comparison.sentence)

Everything is imported on first use, so that `import benchmarks` and the command line start fast.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.arviz_bridge import to_arviz as to_arviz
    from benchmarks.comparison.assess import assess as assess
    from benchmarks.comparison.gap_report import gap_report as gap_report
    from benchmarks.comparison.repair import repair as repair
    from benchmarks.comparison.reweight import reweight as reweight
    from benchmarks.comparison.score import compare as compare
    from benchmarks.comparison.sentences import entry_sentence as entry_sentence
    from benchmarks.mcmc.diagnostics import diagnose as diagnose
    from benchmarks.mcmc.nuts import run_nuts as run_nuts
    from benchmarks.run.results import results_frame as results_frame
    from benchmarks.run.scorecard import compare_program as compare_program
    from benchmarks.types import Comparison as Comparison
    from benchmarks.types import Score as Score

_HOMES = {
    "benchmarks.arviz_bridge": ("to_arviz",),
    "benchmarks.comparison.assess": ("assess",),
    "benchmarks.comparison.repair": ("repair",),
    "benchmarks.comparison.reweight": ("reweight",),
    "benchmarks.comparison.score": ("compare",),
    "benchmarks.comparison.gap_report": ("gap_report",),
    "benchmarks.mcmc.diagnostics": ("diagnose",),
    "benchmarks.mcmc.nuts": ("run_nuts",),
    "benchmarks.run.scorecard": ("compare_program",),
    "benchmarks.comparison.sentences": ("entry_sentence",),
    "benchmarks.run.results": ("results_frame",),
    "benchmarks.types": ("Comparison", "Score"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def _warn_of_shadows() -> None:
    """Warn if `import zoo` or `import guides` finds a package of somebody else."""
    home = Path(__file__).resolve().parents[1]
    for room in ("zoo", "guides"):
        try:
            origin = getattr(importlib.util.find_spec(room), "origin", None)
        except (ImportError, ValueError):  # a module without a spec
            continue
        place = Path(origin or home / room).resolve()
        place = place.parent if place.name == "__init__.py" else place
        if place != home / room:
            warnings.warn(
                f"`import {room}` gives {str(place)!r} and not the package {room!r} of"
                f" posterior-zoo in {str(home)!r}, which benchmarks needs; run Python from another"
                " folder, or rename that one.",
                stacklevel=3,
            )


def __getattr__(name: str) -> Any:
    """Import the module of a public name, or a module of this package, on first use."""
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if not name.startswith("_") and importlib.util.find_spec(f"benchmarks.{name}") is not None:
        return importlib.import_module(f"benchmarks.{name}")
    raise AttributeError(
        f"module 'benchmarks' has no attribute {name!r}; it offers {', '.join(__all__)}"
    )


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*globals(), *__all__})


_warn_of_shadows()
