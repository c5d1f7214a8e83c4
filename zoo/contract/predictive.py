"""Check of the promise of `Data.observed`: without these data the program draws them.

Let z be values of the latent sites and y those of the observed ones. The program without its
observed data draws y from p(y | z), and with them it scores y by some q(y | z). Both are the same
program only if log p = log q, site by site, at the observed y. They differ where the data enter
the program as more than `obs=`: a series that is past and observation at once predicts from zeros
or from nothing when it is taken away. A past that is an argument of its own stays, and so does the
meaning: what is drawn is then one step ahead of the observed past.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from zoo.contract.subject import Failed, Skipped, Subject
from zoo.density.log_density import default_dtype
from zoo.density.sites import no_validation
from zoo.errors import one_line
from zoo.seeds import seeded

__all__ = ["prior_predictive"]

SEEDS = 8  # other noise, before a site counts as one that ignores it
CURE = (
    "use them in obs= only: give a series that is its own past a second time, as an argument that"
    " stays, or build the past from what pyro.sample returns"
)
Run = Callable[[Mapping[str, Any], int], poutine.Trace]


def prior_predictive(subject: Subject) -> str:
    """Without its observed data the program simulates them, as it scores them, by the seed."""
    if not subject.observed:
        raise Skipped("Nothing is observed.")
    keys = list(subject.data.observed)
    if not keys:
        raise Skipped("Data.observed names nothing; see check runs.")
    held = {name: subject.trace.nodes[name]["value"].detach() for name in subject.flat}
    run = _without(subject)
    try:
        first = run(held, 1)
    except Exception as error:  # of the author's statements
        text = (
            f"The program does not run without {keys}, which Data.observed names"
            f" ({type(error).__name__}: {one_line(error)}): give them the default None and {CURE}."
        )
        if "from_program" not in subject.entry.tags:
            raise Failed(text) from error
        run = _exchanged(subject)
        try:
            first = run(held, 1)
        except Exception:
            raise Failed(text) from error
    again, others = run(held, 1), _others(subject, first, held, run)
    for node in subject.observed:
        _drawn(node, first, again, others, keys)
    _scored_alike(subject, held, first, run, keys)
    names = ", ".join(repr(n["name"]) for n in subject.observed)
    if subject.flat:
        raise Skipped(
            f"Sites {subject.flat} have improper flat priors, which cannot be simulated; at one"
            f" point of them {names} can."
        )
    return f"Simulates {names} from the prior as it scores them; one seed repeats, others differ."


def _without(subject: Subject) -> Run:
    """Return a run of the program without its observed data, at given values of some sites."""
    kept = {k: v for k, v in subject.data.train.items() if k not in subject.data.observed}
    return lambda held, seed: _run(subject, subject.program, kept, held, seed)


def _exchanged(subject: Subject) -> Run:
    """Return a run with observed data in another order, whose observed sites are drawn.

    For programs that take sizes from their data, or whose arguments have no default.
    """
    data = subject.data
    moved = {k: _moved(data.train[k]) if k in data.observed else v for k, v in data.train.items()}
    free = poutine.uncondition(subject.program)
    return lambda held, seed: _run(subject, free, moved, held, seed)


def _moved(value: Any) -> Any:
    """Return a tensor with its rows moved on by one: values that the program accepts as well."""
    return value.roll(1, 0) if isinstance(value, Tensor) and value.ndim else value


def _run(
    subject: Subject,
    program: Callable[..., Any],
    tensors: Mapping[str, Any],
    held: Mapping[str, Any],
    seed: int,
) -> poutine.Trace:
    with seeded(seed), default_dtype(subject.entry.dtype), poutine.block(), no_validation():
        trace = poutine.trace(poutine.condition(program, data=dict(held))).get_trace(**tensors)
        trace.compute_log_prob()
    return trace


def _others(
    subject: Subject, first: poutine.Trace, held: Mapping[str, Any], run: Run
) -> list[poutine.Trace]:
    """Return runs with other noise until each observed site has differed, at most `SEEDS`."""
    same = {_name(n["name"], first) for n in subject.observed}
    others: list[poutine.Trace] = []
    while same and len(others) < SEEDS:
        others.append(run(held, 2 + len(others)))
        same = {name for name in same if _repeats(name, first, others[-1])}
    return others


def _repeats(name: str, one: poutine.Trace, other: poutine.Trace) -> bool:
    if name not in one.nodes or name not in other.nodes:
        return False
    return torch.equal(one.nodes[name]["value"], other.nodes[name]["value"])


def _drawn(
    node: Mapping[str, Any],
    first: poutine.Trace,
    again: poutine.Trace,
    others: list[poutine.Trace],
    keys: list[str],
) -> None:
    """Refuse an observed site that is not drawn, has another shape, or ignores its noise."""
    name, seen = _name(node["name"], first), node["value"]
    if name not in first.nodes:
        raise Failed(f"Site {name!r} does not appear without {keys}; {CURE}.")
    if first.nodes[name]["is_observed"]:
        raise Failed(f"Site {name!r} is still observed without {keys}; pass them to obs= only.")
    value = first.nodes[name]["value"]
    if name == node["name"] and value.shape != seen.shape:
        raise Failed(
            f"Site {name!r} simulates shape {list(value.shape)} but the data have"
            f" {list(seen.shape)}."
        )
    if not _repeats(name, first, again):
        raise Failed(f"Site {name!r} differs between two runs of one seed; use pyro.sample only.")
    if all(_repeats(name, first, other) for other in others):
        raise Failed(
            f"Site {name!r} simulates the same data with {1 + len(others)} seeds; the program"
            " ignores its random choices."
        )


def _name(name: str, trace: poutine.Trace) -> str:
    """Return the site's name without data: with `obs_mask=` it is called `name_observed`."""
    whole = name.removesuffix("_observed")
    return whole if name not in trace.nodes and whole in trace.nodes else name


def _scored_alike(
    subject: Subject, held: Mapping[str, Any], first: poutine.Trace, run: Run, keys: list[str]
) -> None:
    """Refuse a site that is scored by another distribution than it is drawn from."""
    seen = {n["name"]: n["value"].detach() for n in subject.observed}
    latent = {
        n["name"]: n["value"].detach()
        for n in subject.sites(first)
        if n["name"] in held or (n["name"] not in seen and not n["is_observed"])
    }
    if any(name not in first.nodes for name in seen):
        return  # obs_mask=: other sites with data than without
    with_data = _run(subject, subject.program, subject.data.train, latent, 1)
    without = run({**latent, **seen}, 1)
    for node in subject.sites(with_data):
        name = node["name"]
        if name not in without.nodes:
            raise Failed(f"Site {name!r} does not appear without {keys}; {CURE}.")
        one, other = (torch.as_tensor(t.nodes[name]["log_prob"]) for t in (with_data, without))
        if one.shape != other.shape or not torch.allclose(
            one, other, rtol=1e-6, atol=1e-9, equal_nan=True
        ):
            raise Failed(
                f"Site {name!r} is drawn from another distribution without {keys} than it is"
                f" scored by with them; {CURE}."
            )
