"""The objectives by name, from `guides/objectives/kinds` and installed packages.

An objective that a script defines is known from there on, too.
"""

from __future__ import annotations

import dataclasses
import re

from guides.objectives.kinds.beta import Beta
from guides.objectives.kinds.elbo import ELBO
from guides.objectives.kinds.elbo_cyclical import CyclicalELBO
from guides.objectives.kinds.elbo_free_bits import FreeBitsELBO
from guides.objectives.kinds.elbo_linear import LinearELBO
from guides.objectives.kinds.elbo_plain import PlainELBO
from guides.objectives.kinds.iwae import IWAE
from guides.objectives.kinds.iwae_dreg import DReGIWAE
from guides.objectives.objective import DEFINED, Objective, Scheduled, Terms
from zoo.errors import UnknownNameError, UsageError
from zoo.registry.members import Members

__all__ = [
    "ELBO",
    "GROUP",
    "IWAE",
    "OBJECTIVES",
    "Beta",
    "CyclicalELBO",
    "DReGIWAE",
    "FreeBitsELBO",
    "LinearELBO",
    "Objective",
    "PlainELBO",
    "Scheduled",
    "Terms",
    "objective_of",
]

GROUP = "posterior_zoo.objectives"  # entry points: `my_bound = "my_package.my_module:OBJECTIVE"`
_SPEC = re.compile(r"(\w+)(?:\[([^\[\]]*)\])?")

OBJECTIVES: Members[Objective] = Members(
    Objective,
    noun="objective",
    group=GROUP,
    folders=("guides.objectives.kinds",),
    attribute="OBJECTIVE",
    accepted="a subclass of guides.objectives.records.Objective",
)


def objective_of(spec: str) -> Objective:
    """Return the objective of a spec such as `elbo` or `elbo_linear[warmup=2000]`.

    Raises:
        UnknownNameError: an unknown objective, or a parameter it does not have, with the nearest
            guess.
        UsageError: a value that is no number, one that the objective rejects, or a plug-in that
            cannot be loaded.
    """
    found = _SPEC.fullmatch(spec)
    known = dict.fromkeys([*OBJECTIVES, *DEFINED])
    if found is None or found[1] not in known:
        raise UnknownNameError("objective", spec, known)
    kind = type(OBJECTIVES[found[1]]) if found[1] in OBJECTIVES else DEFINED[found[1]]
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values: dict[str, float] = {}
    for part in filter(None, (found[2] or "").split(",")):
        name, _, text = (x.strip() for x in part.partition("="))
        if name not in fields:
            raise UnknownNameError(f"parameter of the objective {kind.name}", name, fields)
        try:
            values[name] = int(text) if isinstance(fields[name].default, int) else float(text)
        except ValueError:
            raise UsageError(
                f"The objective {kind.name} got {name}={text!r}; accepted: a number."
            ) from None
    return kind(**values)
