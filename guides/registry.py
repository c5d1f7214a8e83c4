"""The families by name, from `guides/families` and installed packages, and building one."""

from __future__ import annotations

from typing import Any

from torch import nn

from guides.base.family import Family
from guides.base.own_guides import on_charts
from guides.session import as_module, session
from guides.types import FAMILY
from zoo.density.log_density import LogDensity
from zoo.errors import FitError, UnknownNameError, UsageError, spelled
from zoo.fields import accepted
from zoo.registry.members import Members
from zoo.types import DATA, ENTRY, Data, ModelEntry, Program

__all__ = ["FAMILIES", "GROUP", "build", "check_family", "family_of"]

GROUP = "posterior_zoo.families"  # entry points: `my_family = "my_package.my_module:FAMILY"`
GENERAL = ("flow", "batch_and_match")  # families that fit any continuous posterior
OWN_DEFAULTS = {"num_particles": 4, "lr": 0.02}  # of guides that are Pyro programs
# where weights of the program are trained with them, the search stays on plateaus for longer
TRAINING_DEFAULTS = {**OWN_DEFAULTS, "steps": 40_000}


FAMILIES: Members[Family] = Members(
    Family,
    noun="guide family",
    group=GROUP,
    folders=("guides.families",),
    attribute="FAMILY",
    accepted="guides.Family",
)


def check_family(family: str, entry: ModelEntry) -> None:
    """Reject an unknown family, or one whose requirements the entry does not meet.

    Raises:
        UnknownNameError: no such family.
        UsageError: the family needs an encoder input, and the card has no `amortize` hook; or it
            is `own`, and there is no guide.
    """
    if family in entry.own_guides:
        return
    if family == "own" and not entry.own_guides:
        raise UsageError(
            f"Entry {entry.key} has no guide of its own, which the family 'own' is; pass guide= to"
            " zoo.from_program or benchmarks.compare_program: a function with the model's"
            " arguments, or an AutoGuide class."
        )
    if family == "nuts":
        raise UsageError(
            "'nuts' is no guide family: zoo compare and compare_program run NUTS by themselves, so"
            " leave it out; benchmarks.run_nuts(entry) runs it alone."
        )
    if "," in family:
        raise UsageError(
            f"Got guide family {family!r}; accepted: one family, such as"
            f" {family.partition(',')[0].strip()!r}. Several are compared by"
            f" {spelled('compare_program(families=[...])', 'zoo compare --guides A,B')}."
        )
    if family not in FAMILIES:
        raise UnknownNameError("guide family", family, [*FAMILIES, *entry.own_guides])
    if FAMILIES[family].encoder and entry.amortize is None:
        raise UsageError(
            f"Entry {entry.key} cannot be amortized by {family}: its card has no amortize hook;"
            f" accepted here: {_without_encoder(entry)}."
        )


def _without_encoder(entry: ModelEntry) -> str:
    """Return the families that an entry without an encoder takes: those it lists, and others."""
    listed = [*entry.families, *(own for own in entry.own_guides if own not in entry.families)]
    more = [name for name in GENERAL if name not in listed]
    others = f", as the entry lists, and others without an encoder, such as {' and '.join(more)}"
    return ", ".join(listed) + (others if more else "")


def family_of(name: str, entry: ModelEntry) -> Family:
    """Return a family by name; an entry's own guide becomes a family of one.

    Raises:
        UnknownNameError: neither this package nor the entry has it.
        UsageError: see `check_family`.
    """
    accepted("guides.family_of", name=(name, FAMILY), entry=(entry, ENTRY))
    check_family(name, entry)
    if name not in entry.own_guides:
        return FAMILIES[name]

    def make(program: Program, data: Data, entry: ModelEntry, **options: Any) -> nn.Module:
        density = options.get("density") or LogDensity(program, data, dtype=entry.dtype)
        guide = entry.own_guides[name](on_charts(program, density), data, entry)
        if not callable(guide):
            raise FitError(
                f"The guide {name!r} of {entry.name} is {type(guide).__name__}, not a callable;"
                " return a function or a PyroModule."
            )
        return as_module(guide, data.train, entry.dtype)

    return Family(
        name=name,
        q="a guide of the entry's own",
        blind_spot="",
        build=make,
        defaults=TRAINING_DEFAULTS if entry.learns else OWN_DEFAULTS,
        amortized=bool(getattr(entry.own_guides[name], "amortized", False)),
        own=True,
    )


def build(
    family: str, program: Program, data: Data, entry: ModelEntry, **options: Any
) -> nn.Module:
    """Build an unfitted guide of a family for a program.

    Raises:
        UnknownNameError: no such family here or among the entry's own guides.
        UsageError: an option the family does not take, or an entry it cannot be built for.
    """
    accepted("guides.build", data=(data, DATA))
    record = family_of(family, entry)
    with session(entry.dtype):
        try:
            return record.build(program, data, entry, **options)
        except TypeError as error:
            if "unexpected keyword" in str(error):
                raise UsageError(
                    f"Family {family!r} got options {sorted(options)}: {error}."
                ) from error
            raise
