"""How a posterior is approximated: guide families, optimization, draws, log weights.

Importing this package does not import torch; each name is loaded on first use.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guides.base.family import Family
    from guides.draws import draw, elbo, transfer
    from guides.fit_file import load, save
    from guides.fitting import fit
    from guides.registry import FAMILIES, build, family_of
    from guides.types import Elbo, Fit, FitConfig, Restart, Stop

__all__ = [
    "FAMILIES",
    "Elbo",
    "Family",
    "Fit",
    "FitConfig",
    "Restart",
    "Stop",
    "build",
    "draw",
    "elbo",
    "family_of",
    "fit",
    "load",
    "save",
    "transfer",
]

_HOMES = {
    "guides.base.family": ("Family",),
    "guides.draws": ("draw", "elbo", "transfer"),
    "guides.fit_file": ("load", "save"),
    "guides.fitting": ("fit",),
    "guides.registry": ("FAMILIES", "build", "family_of"),
    "guides.types": ("Elbo", "Fit", "FitConfig", "Restart", "Stop"),
}
_WHERE = {name: home for home, names in _HOMES.items() for name in names}


def _warn_of_shadows() -> None:
    """Warn if `import zoo` finds a package of somebody else."""
    home = Path(__file__).resolve().parents[1]
    for room in ("zoo",):
        try:
            origin = getattr(find_spec(room), "origin", None)
        except (ImportError, ValueError):  # a module without a spec
            continue
        place = Path(origin or home / room).resolve()
        place = place.parent if place.name == "__init__.py" else place
        if place != home / room:
            warnings.warn(
                f"`import {room}` gives {str(place)!r} and not the package {room!r} of"
                f" posterior-zoo in {str(home)!r}, which guides needs; run Python from another"
                " folder, or rename that one.",
                stacklevel=3,
            )


def __getattr__(name: str) -> Any:
    """Load a public name, or a module of this package, on first use."""
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    if not name.startswith("_") and find_spec(f"guides.{name}") is not None:
        return import_module(f"guides.{name}")
    raise AttributeError(
        f"module 'guides' has no attribute {name!r}; it offers {', '.join(__all__)}"
    )


def __dir__() -> list[str]:
    return sorted(__all__)


_warn_of_shadows()
