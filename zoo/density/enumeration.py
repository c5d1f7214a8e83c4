"""Whether a run of a program with all values of its discrete sites at once means what it should.

Such a run gives every discrete site one more axis, to the left of all plates. A statement that
takes plates for the only axes (`a.sum()`, `a[..., 0] * a[..., 1]`) then computes something else
and rarely says so. A run in which every entry has one value is what the author wrote, so each term
of the one run, read at these values, must be the term of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from pyro import poutine
from pyro.ops import packed
from torch import Tensor

from zoo.density.completion import Completion
from zoo.density.sites import no_validation, numbered_plates, samples

__all__ = ["check_axes"]

TRIES = 3  # sets of random values
ROUNDING = 1e-7  # relative, in double precision


class Density(Protocol):
    """What is needed of a log density."""

    program: Any
    data: Any
    dtype: torch.dtype
    discrete: list[str]
    completion: Completion

    def trace(self, draws: Mapping[str, Tensor], tensors: Mapping[str, Any]) -> poutine.Trace:
        """Run the program with all values of its discrete sites."""

    def completed(self, program: Any) -> Any:
        """Complete the masked and finite sites of a program."""


def check_axes(density: Density, draws: Mapping[str, Tensor]) -> None:
    """Compare the terms of a run with all values with those of runs with one value per entry.

    Args:
        density: the log density, whose discrete sites are being set up.
        draws: the continuous sites.

    Raises:
        ValueError: a term of another value.
    """
    with torch.no_grad(), no_validation():
        trace = density.trace(draws, density.data.train)
        trace.compute_log_prob()
        trace.pack_tensors()
        generator = torch.Generator().manual_seed(1_729)
        for _ in range(TRIES):
            _compare(density, draws, trace, generator)


def _compare(
    density: Density, draws: Mapping[str, Tensor], trace: poutine.Trace, generator: torch.Generator
) -> None:
    chosen, values = {}, {}
    for name in density.discrete:
        node = trace.nodes[name]
        listed = density.completion.values_of(node)  # [value, *event]
        sizes = {f.dim: f.size for f in node["cond_indep_stack"] if f.vectorized}
        shape = tuple(sizes.get(dim, 1) for dim in range(min(sizes, default=0), 0))
        number = torch.randint(len(listed), shape, generator=generator)
        values[name] = listed[number]
        chosen[node["infer"]["_enumerate_symbol"]] = packed.pack(
            number.clone(), node["infer"]["_dim_to_symbol"]
        )
    model = poutine.condition(density.completed(density.program), data={**draws, **values})
    with poutine.block(), numbered_plates():
        single = poutine.trace(model).get_trace(**density.data.train)
    single.compute_log_prob()
    single.pack_tensors(trace.plate_to_symbol)
    found = {n["name"]: n for n in samples(single)}
    rounding = ROUNDING if density.dtype == torch.float64 else 1e-3
    for node in samples(trace):
        name = node["name"]
        if name not in found:
            continue
        term, own = node["packed"]["log_prob"], found[name]["packed"]["log_prob"]
        for symbol, number in chosen.items():
            if symbol in getattr(term, "_pyro_dims", ""):
                term = packed.gather(term, number, symbol)
        if isinstance(term, Tensor) and isinstance(own, Tensor):
            term, own = packed.broadcast_all(term, own)
        if not torch.allclose(
            torch.as_tensor(term), torch.as_tensor(own), rounding, rounding, equal_nan=True
        ):
            raise ValueError(
                f"the term of site {name!r} is another one there than in a run with one value per"
                " entry"
            )
