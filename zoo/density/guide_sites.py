"""The latent sites that a guide draws, compared with those of its program."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger

from zoo.density.faults import place_of
from zoo.density.sites import samples
from zoo.errors import did_you_mean
from zoo.seeds import seeded

__all__ = ["Shape", "fault_of_sites"]


class Shape(NamedTuple):
    """The shape of a latent value, and how many of its last axes are of one event."""

    whole: tuple[int, ...]
    event_dim: int

    @property
    def event(self) -> tuple[int, ...]:
        """The shape of one event."""
        return self.whole[len(self.whole) - self.event_dim :]

    @property
    def batch(self) -> tuple[int, ...]:
        """The shape of the plates around it."""
        return self.whole[: len(self.whole) - self.event_dim]


def fault_of_sites(
    guide: Callable[..., Any],
    tensors: Mapping[str, Any],
    wanted: Mapping[str, Shape],
    discrete: Collection[str],
    name: str,
) -> str:
    """Say what a guide draws otherwise than its program, empty if it draws every latent site.

    Args:
        guide: a guide program, which is run once; Pyro itself only warns.
        tensors: its arguments.
        wanted: the continuous latent sites of the program on the same arguments.
        discrete: its discrete ones, which a guide may draw or leave out.
        name: of the guide, for the sentence.
    """

    def run(site: str = "") -> poutine.Trace:
        with seeded(0), torch.no_grad(), poutine.block(), _Stop(site):
            return poutine.trace(guide).get_trace(**tensors)

    nodes = {n["name"]: n for n in samples(run()) if not n["infer"].get("is_auxiliary")}
    missing = sorted(set(wanted) - set(nodes))
    extra = sorted(set(nodes) - set(wanted) - set(discrete))
    if missing:
        near = next((e for m in missing for e in extra if did_you_mean(m, [e])), "")
        near = near or (extra[0] if len(missing) == len(extra) == 1 else "")
        if near:
            site = next((m for m in missing if did_you_mean(near, [m])), missing[0])
            return (
                f"The guide {name!r} draws {near!r} where the program has the latent site"
                f" {site!r}{_at(run, near)}; give both the same name."
            )
        return (
            f"The guide {name!r} misses the latent site {missing[0]!r}; add"
            f" pyro.sample({missing[0]!r}, ...)."
        )
    if extra:
        return (
            f"The guide {name!r} draws {extra[0]!r}, which the program lacks; rename it or mark it"
            " auxiliary."
        )
    for site, theirs in wanted.items():
        own = Shape(tuple(nodes[site]["value"].shape), nodes[site]["fn"].event_dim)
        if own.whole != theirs.whole:
            part = "event" if own.batch == theirs.batch else "whole"
            word = "event shape" if part == "event" else "shape"
            return (
                f"The guide {name!r} draws {site!r} with the {word} {getattr(own, part)}"
                f"{_at(run, site)}, the program with {getattr(theirs, part)}; give both the same"
                " shape."
            )
    return ""


class _Here(Exception):
    pass


class _Stop(Messenger):
    """Raise at a site, if one is named, so that the traceback has the statement that draws it."""

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == self.site:
            raise _Here


def _at(run: Callable[[str], Any], site: str) -> str:
    """Return ``, in `file.py:12: pyro.sample(...)` `` of the statement that draws a site."""
    try:
        run(site)
    except _Here as error:
        statement = place_of(error)[1]
        return f", in `{statement}`" if statement else ""
    return ""
