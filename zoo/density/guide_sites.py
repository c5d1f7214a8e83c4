"""The latent sites that a guide draws, compared with those of its program."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions import Delta, Unit, constraints
from pyro.poutine.messenger import Messenger

from zoo.density.completion import entries_counted
from zoo.density.defects import KL_WEIGHT
from zoo.density.faults import place_of
from zoo.density.nodes import base_of, share_of
from zoo.density.sites import samples
from zoo.distributions.supports import innermost
from zoo.errors import did_you_mean
from zoo.seeds import seeded

__all__ = ["Wanted", "fault_of_sites", "sites_of"]

REAL = type(constraints.real)
BOUNDED = (
    constraints.greater_than,
    constraints.greater_than_eq,
    constraints.less_than,
    constraints.interval,
    constraints.half_open_interval,
)
WORDS = {
    repr(constraints.positive): "positive values",
    repr(constraints.nonnegative): "positive values",
    repr(constraints.unit_interval): "the unit interval",
    repr(constraints.simplex): "a simplex",
}


class Wanted(NamedTuple):
    """A latent site of a program: shape, number of the event's axes, support, and mask.

    The mask is True for all entries, and None where it is not known.
    """

    shape: tuple[int, ...]
    event_dim: int
    support: Any = None
    mask: Any = None

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> Wanted:
        """Return that of a node of a trace."""
        fn = node["fn"]
        support = getattr(fn, "support", None)
        return cls(tuple(node["value"].shape), fn.event_dim, support, mask_of(node))

    @property
    def event(self) -> tuple[int, ...]:
        """The shape of one event."""
        return self.shape[len(self.shape) - self.event_dim :]

    @property
    def batch(self) -> tuple[int, ...]:
        """The shape of the plates around it."""
        return self.shape[: len(self.shape) - self.event_dim]


def mask_of(node: Mapping[str, Any]) -> Any:
    """Return which entries of a site count: True for all, False for none, or booleans."""
    counted = entries_counted(node["fn"], node["mask"])[1]
    return True if counted is None else counted


def sites_of(trace: poutine.Trace, names: Collection[str]) -> dict[str, Wanted]:
    """Return some sites of a program's trace."""
    return {name: Wanted.of(trace.nodes[name]) for name in names if name in trace.nodes}


def fault_of_sites(
    guide: Callable[..., Any],
    tensors: Mapping[str, Any],
    wanted: Mapping[str, Wanted],
    discrete: Mapping[str, Wanted | None],
    name: str,
    observed: Collection[str] = (),
) -> str:
    """Say what a guide draws otherwise than its program, empty if it draws every latent site.

    Args:
        guide: a guide program, which is run once; Pyro itself only warns.
        tensors: its arguments.
        wanted: the continuous latent sites of the program on the same arguments.
        discrete: its discrete ones, which a guide may draw or leave out; None if only the name is
            known.
        name: of the guide, for the sentence.
        observed: the observed sites of the program.
    """

    def run(site: str = "") -> poutine.Trace:
        with seeded(0), torch.no_grad(), poutine.block(), _Stop(site):
            return poutine.trace(guide).get_trace(**tensors)

    every = samples(run())
    nodes = {n["name"]: n for n in every if not n["infer"].get("is_auxiliary")}
    missing = sorted(set(wanted) - set(nodes))
    extra = sorted(set(nodes) - set(wanted) - set(discrete))
    seen = next((site for site in extra if site in observed), "")
    if seen:
        return (
            f"The guide {name!r} has the site {seen!r}{_at(run, seen)}, which the program"
            " observes; a guide draws latent values only, so leave it out."
        )
    if missing:
        return _missing(name, missing, extra, run)
    if extra:
        return (
            f"The guide {name!r} draws {extra[0]!r}, which the program lacks; rename it or mark it"
            " auxiliary."
        )
    for site, theirs in (*wanted.items(), *discrete.items()):
        fault = _fault_of_one(nodes[site], theirs) if site in nodes and theirs else ""
        if fault:
            return f"The guide {name!r} draws {site!r} {fault.format(_at(run, site))}"
    for node in every:
        site = node["name"]
        if fault := _fault_of_log_q(node, wanted.get(site) or discrete.get(site)):
            return f"The guide {name!r} {fault.format(repr(site), _at(run, site))}"
    return ""


def _fault_of_log_q(node: Any, theirs: Wanted | None) -> str:
    """Say why the term of a guide's site is no log q; `{}` are its name and its place."""
    if node["is_observed"]:
        if isinstance(node["fn"], Unit):
            return (
                "has the factor {}{}, so that its log q is no density and its ELBO no bound;"
                " leave pyro.factor out."
            )
        return "gives a value to the latent site {}{}, so that it draws none; leave obs= out."
    usual = math.prod(map(share_of, node["cond_indep_stack"]))
    scale = float(torch.as_tensor(node["scale"]).max())
    if abs(scale - usual) > 1e-9 * usual:
        return (
            f"weighs the term of {{}} by {scale:.4g} (poutine.scale){{}}, so that its ELBO is no"
            f" bound; leave the weight out. {KL_WEIGHT}"
        )
    if theirs is None or theirs.mask is None:
        return ""
    if bool((~torch.as_tensor(mask_of(node)) & torch.as_tensor(theirs.mask)).any()):
        return (
            "masks {} where the program does not{}, so that its log q is left out of the ELBO;"
            " leave the mask out, or mask the site of the program as well."
        )
    return ""


def _missing(name: str, missing: list[str], extra: list[str], run: Callable[[str], Any]) -> str:
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


def _fault_of_one(node: Any, theirs: Wanted) -> str:
    """Say how a guide's site differs from the program's; `{}` is the place of its statement."""
    own = Wanted.of(node)
    if own.shape != theirs.shape:
        part = "event" if own.batch == theirs.batch else "shape"
        word = "event shape" if part == "event" else "shape"
        return (
            f"with the {word} {getattr(own, part)}{{}}, the program with"
            f" {getattr(theirs, part)}; give both the same shape."
        )
    if theirs.support is None or _within(node, own.support, theirs.support):
        return ""
    law, allowed = type(base_of(node["fn"])).__name__, _words(theirs.support)
    return (
        f"from {law}, whose values leave the support of the program's site{{}}; accepted: a"
        f" distribution over {allowed}."
    )


def _within(node: Any, own: Any, theirs: Any) -> bool:
    """Whether what a guide can draw lies in the support of the program's site."""
    if bool(getattr(own, "is_discrete", False)) and node["fn"].has_enumerate_support:
        return bool(theirs.check(node["fn"].enumerate_support(expand=False)).all())
    inner, point = innermost(theirs), isinstance(base_of(node["fn"]), Delta)
    if not point and isinstance(innermost(own), REAL) and not isinstance(inner, REAL):
        return False
    # others, such as a simplex, have a tolerance that correct draws may exceed
    return not isinstance(inner, BOUNDED) or bool(theirs.check(node["value"]).all())


def _words(support: Any) -> str:
    """Return a support in words, without the numbers of tensors."""
    inner = innermost(support)
    text = repr(inner)
    return WORDS.get(text, type(inner).__name__.lstrip("_") if "tensor" in text else text)


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
