"""How a posterior is approximated: families of guides, the one optimization loop, draws and log weights.

Importing this package does not import torch; each name is loaded at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guides.draws import draw, elbo, transfer
    from guides.fit_file import load, save
    from guides.fitting import fit
    from guides.registry import FAMILIES, build
    from guides.types import Elbo, Fit, FitConfig, Restart, Stop

__all__ = ["FAMILIES", "Elbo", "Fit", "FitConfig", "Restart", "Stop", "build", "draw", "elbo", "fit", "load", "save", "transfer"]

_WHERE = {
    "FAMILIES": "guides.registry", "build": "guides.registry", "fit": "guides.fitting", "draw": "guides.draws",
    "elbo": "guides.draws", "transfer": "guides.draws", "save": "guides.fit_file", "load": "guides.fit_file",
    "Elbo": "guides.types", "Fit": "guides.types", "FitConfig": "guides.types", "Restart": "guides.types", "Stop": "guides.types",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a public name at its first use."""
    if name not in _WHERE:
        raise AttributeError(f"module 'guides' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
