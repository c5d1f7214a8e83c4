"""Data that a program's likelihood depends on; a forgotten `obs=` leaves some out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from zoo.density.faults import unless_it_raises
from zoo.density.log_density import LogDensity
from zoo.density.sites import default_dtype, samples
from zoo.seeds import seeded

__all__ = ["has_likelihood", "observed_terms", "unread_by", "untouched_data"]


def has_likelihood(trace: poutine.Trace) -> bool:
    """Whether a program observes anything, by `obs=` or by `pyro.factor`."""
    return any(n["is_observed"] for n in samples(trace))


def untouched_data(density: LogDensity) -> tuple[str, ...]:
    """Return the tensors of the data whose values change no term of an observed site.

    Each is changed by itself, at fixed values of the latent sites; a program that then fails, or
    has other terms, depends on it. Tensors of one value are changed too: their value counts.
    """
    train = density.data.train
    generator = torch.Generator().manual_seed(11)
    u = 0.5 * torch.randn(density.dim, dtype=density.dtype, generator=generator)
    draws = density.constrain(u)
    before = observed_terms(density, draws, train)
    names = [k for k, v in train.items() if isinstance(v, Tensor) and k != "index"]
    if before is None:
        return ()
    found = []
    for name in names:
        after = observed_terms(density, draws, {**train, name: _changed(train[name])})
        same = (
            after is not None
            and after.keys() == before.keys()
            and all(torch.equal(before[k], after[k]) for k in before)
        )
        if same:
            found.append(name)
    return tuple(found)


def unread_by(
    guide: Callable[..., Any], tensors: Mapping[str, Any], names: Iterable[str], dtype: torch.dtype
) -> tuple[str, ...]:
    """Return those of some data whose values change nothing that a guide draws.

    A guide that then fails looked at them.
    """

    def look(given: Mapping[str, Any]) -> list[Tensor] | None:
        def run() -> list[Tensor]:
            with torch.no_grad(), seeded(0), default_dtype(dtype), poutine.block():
                trace = poutine.trace(guide).get_trace(**given)
                trace.compute_log_prob()
            nodes = samples(trace)
            return [torch.as_tensor(v) for n in nodes for v in (n["value"], n["log_prob"])]

        return unless_it_raises(run, None)

    before = look(tensors)
    if before is None:
        return tuple(names)
    return tuple(
        name
        for name in names
        if (after := look({**tensors, name: _changed(tensors[name])})) is not None
        and len(after) == len(before)
        and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    )


def observed_terms(density: LogDensity, draws: Any, tensors: Any) -> dict[str, Tensor] | None:
    """Return the log probabilities of the observed sites, None where the program fails.

    Whatever it raises, it looked at what was changed.
    """

    def look() -> dict[str, Tensor]:
        with torch.no_grad(), seeded(0), default_dtype(density.dtype):
            trace = density.trace(draws, tensors)
            trace.compute_log_prob()
        seen = (n for n in samples(trace) if n["is_observed"])
        return {n["name"]: torch.as_tensor(n["log_prob"]) for n in seen}

    return unless_it_raises(look, None)


def _changed(value: Tensor) -> Tensor:
    """Return other values of the same type and shape, small integers where there are integers."""
    if value.dtype == torch.bool:
        return ~value
    steps = torch.arange(1, value.numel() + 1).reshape(value.shape)
    if value.dtype.is_floating_point:
        return value + 0.25 + 0.01 * steps.to(value.dtype)
    return torch.where(value > 0, value - 1, value + 1)
