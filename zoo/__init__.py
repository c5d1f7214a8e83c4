"""What is to be inferred: programs, data, quantities, references, and log densities.

    import zoo
    entry = zoo.load("correlated_gaussian", d=10)
    mine = zoo.from_program(my_pyro_model, {"x": x, "y": y})

Everything is imported on first use, so that `import zoo` stays cheap.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.density.finite_sum import finite_sum as finite_sum
    from zoo.density.log_density import LogDensity as LogDensity
    from zoo.registry import EntryInfo as EntryInfo
    from zoo.registry import catalog as catalog
    from zoo.registry import load as load
    from zoo.registry import names as names
    from zoo.types import Analytic as Analytic
    from zoo.types import Cost as Cost
    from zoo.types import Data as Data
    from zoo.types import ModelEntry as ModelEntry
    from zoo.types import Moments as Moments
    from zoo.types import Posterior as Posterior
    from zoo.types import Program as Program
    from zoo.types import Quantity as Quantity
    from zoo.types import Reference as Reference
    from zoo.user_models.from_program import from_program as from_program

_HOMES = {
    "zoo.density.finite_sum": ("finite_sum",),
    "zoo.density.log_density": ("LogDensity",),
    "zoo.user_models.from_program": ("from_program",),
    "zoo.registry": ("EntryInfo", "catalog", "load", "names"),
    "zoo.types": (
        "Analytic",
        "Cost",
        "Data",
        "ModelEntry",
        "Moments",
        "Posterior",
        "Program",
        "Quantity",
        "Reference",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
# modules as attributes; some names predate the sub-packages
_ROOMS = {
    "compiled": "zoo.compiler.compile",
    "contract": "zoo.contract",
    "errors": "zoo.errors",
    "log_density": "zoo.density.log_density",
    "programs": "zoo.user_models.from_program",
    "quantities": "zoo.quantities",
    "reference": "zoo.truth.stored",
    "registry": "zoo.registry",
    "scaffold": "zoo.user_models.scaffold",
    "types": "zoo.types",
}

__all__ = sorted(_HOME)


def _warn_of_shadows() -> None:
    """Warn if `import guides` or `import benchmarks` finds a package of somebody else."""
    home = Path(__file__).resolve().parents[1]
    for room in ("guides", "benchmarks"):
        try:
            spec = importlib.util.find_spec(room)
        except (ImportError, ValueError):  # a module without a spec
            spec = None
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        place = Path(places[0] if places else (spec and spec.origin) or home / room).resolve()
        if place != home / room:
            warnings.warn(
                f"`import {room}` gives {str(place)!r} and not the package {room!r} of"
                f" posterior-zoo in {str(home)!r}; run Python from another folder, or rename that"
                " one.",
                stacklevel=3,
            )


def __getattr__(name: str) -> Any:
    """Import a public name, or a module of this package, on first use."""
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(_ROOMS[name])
    elif name == "__version__":
        from importlib.metadata import version

        value = version("posterior-zoo")
    elif not name.startswith("_") and importlib.util.find_spec(f"zoo.{name}") is not None:
        value = importlib.import_module(f"zoo.{name}")
    else:
        raise AttributeError(
            f"module 'zoo' has no attribute {name!r}; it offers {', '.join(__all__)}"
        )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*__all__, *_ROOMS, "__version__"})


_warn_of_shadows()
