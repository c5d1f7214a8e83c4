"""Sum out discrete sites by one run of the program per value.

This serves programs whose statements have no room for an axis of values.


With rows i of the plates that all discrete sites share, and joint values c of those sites,

    log p = sum_i log sum_c exp(terms of row i in the run with c) + terms outside      [nats]

which is exact where the terms of a row depend on the values of that row only. That is checked at
random values per row before it is used.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from zoo.density.completion import Completion
from zoo.density.faults import place_of
from zoo.density.sites import is_computed, masked, no_validation, numbered_plates, samples
from zoo.errors import ProgramError, one_line

__all__ = ["MOST_RUNS", "PerValue"]

MOST_RUNS = 1_000  # of the program for one value of the density


TRIES = 5  # sets of random values per row


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-9, atol=1e-9, equal_nan=True)


class PerValue:
    """The sum over discrete sites by runs.

    Args:
        program: the program with its sites completed.
        completion: knows the values of sites that Pyro cannot list.
        nodes: the discrete sites of one run.
        failure: why the program could not be run with all values at once.
        most: runs allowed.

    Raises:
        ProgramError: too many runs, or sites whose rows are not the same.
    """

    def __init__(
        self,
        program: Callable[..., Any],
        completion: Completion,
        nodes: Sequence[Mapping[str, Any]],
        failure: Exception,
        most: int = MOST_RUNS,
    ) -> None:
        self.program = program
        self.names = [n["name"] for n in nodes]
        self.failure = failure
        plates = [
            tuple(sorted((f.dim, f.name) for f in n["cond_indep_stack"] if f.vectorized))
            for n in nodes
        ]
        if len(set(plates)) > 1:
            self._refuse("they lie in different plates")
        self.plates = {name for _, name in plates[0]}
        self.dims = [dim for dim, _ in plates[0]]
        self.shapes = {
            n["name"]: (tuple(n["fn"].batch_shape), tuple(n["fn"].event_shape)) for n in nodes
        }
        self.values = {n["name"]: completion.values_of(n) for n in nodes}  # [value, *event]
        entries = {
            name: math.prod(s for i, s in enumerate(shape, -len(shape)) if i not in self.dims)
            for name, (shape, _) in self.shapes.items()
        }
        if any(number > 1 for number in entries.values()):
            self._refuse("one of them has an axis that is no plate")
        runs = math.prod(len(v) for v in self.values.values())
        if runs > most:
            self._refuse(f"{runs:,} runs, more than {most:,}, would be needed for the sum")
        self.joint = list(itertools.product(*(range(len(v)) for v in self.values.values())))

    def _refuse(self, reason: str) -> None:
        _, statement = place_of(self.failure)
        sites = ", ".join(repr(n) for n in self.names)
        where = f" in `{statement}`" if statement else ""
        raise ProgramError(
            f"The program has no room for an axis of all values of discrete site {sites}{where}"
            f" ({type(self.failure).__name__}: {one_line(self.failure)}), and runs with one value"
            f" at a time do not give the sum: {reason}; write the statement for values of any"
            " leading axes (index with [..., i], expand before torch.cat), choose between branches"
            " with torch.where or a mask, or sum the site out by hand."
        )

    def rows(
        self, draws: Mapping[str, Tensor], tensors: Mapping[str, Any], only: str = ""
    ) -> tuple[Tensor, Tensor]:
        """Return terms `[run, *row]` of every row and run, and those outside the rows, in nats.

        Args:
            draws: continuous sites.
            tensors: the program's arguments.
            only: count this observed site and the discrete ones alone.
        """
        found = [self._run(self._constant(choice), draws, tensors, only) for choice in self.joint]
        return torch.stack([r for r, _ in found]), found[0][1]

    def log_prob(self, draws: Mapping[str, Tensor], tensors: Mapping[str, Any]) -> Tensor:
        """Return the log joint density of the continuous sites, `[]` in nats."""
        if tensors.get("index") is not None:
            self._refuse("a minibatch has other rows in every run")
        rows, outside = self.rows(draws, tensors)
        return rows.logsumexp(0).sum() + outside

    def observed_terms(
        self, draws: Mapping[str, Tensor], tensors: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Return the log likelihood of every row at each observed site, `[*row]` in nats.

        Raises:
            ProgramError: discrete sites without a plate, shared by all observations.
        """
        trace = self._trace(self._constant(self.joint[0]), draws, tensors)
        out = {}
        for node, own in self._nodes(trace):
            if node["name"] in (*self.names, *draws) or is_computed(node):
                continue
            if not own or not self.plates:
                raise ProgramError(
                    f"Discrete site {self.names[0]!r} is shared by several observations of"
                    f" {node['name']!r}, so no log likelihood per observation exists; compare the"
                    " evidence instead."
                )
            out[node["name"]] = self.rows(draws, tensors, node["name"])[0].logsumexp(0)
        return out

    def check(self, draws: Mapping[str, Tensor], tensors: Mapping[str, Any]) -> None:
        """Compare rows at random values with the runs of one value each.

        Raises:
            ProgramError: a term depends on the value of another row.
        """
        runs = [self._run(self._constant(choice), draws, tensors, "") for choice in self.joint]
        rows, outside = torch.stack([inside for inside, _ in runs]), runs[0][1]
        size = tuple(rows.shape[1:])
        generator = torch.Generator().manual_seed(2_718)
        if any(not _same(other, outside) for _, other in runs):
            self._refuse("a term outside their plates depends on them")
        for _ in range(TRIES):
            chosen = torch.randint(len(self.joint), size, generator=generator)
            table = torch.tensor(self.joint)[chosen]  # [*row, site]
            mixed = {
                name: self._shaped(name, self.values[name][table[..., i]])
                for i, name in enumerate(self.names)
            }
            got, rest = self._run(mixed, draws, tensors, "")
            wanted = rows.gather(0, chosen[None])[0]
            if not _same(got, wanted) or not _same(rest, outside):
                self._refuse("a term of one row depends on the value of another")

    def _shaped(self, name: str, rows: Tensor) -> Tensor:
        """Return values `[*row, *event]` with the batch axes of the site."""
        batch, event = self.shapes[name]
        return rows.reshape((*batch, *event))

    def _constant(self, choice: Sequence[int]) -> dict[str, Tensor]:
        out = {}
        for name, k in zip(self.names, choice, strict=True):
            batch, event = self.shapes[name]
            out[name] = self.values[name][k].expand(torch.Size((*batch, *event)))
        return out

    def _trace(
        self, values: Mapping[str, Tensor], draws: Mapping[str, Tensor], tensors: Mapping[str, Any]
    ) -> poutine.Trace:
        model = poutine.condition(self.program, data={**draws, **values})
        with poutine.block(), no_validation(), numbered_plates():
            trace = poutine.trace(model).get_trace(**tensors)
            trace.compute_log_prob()
        for node in samples(trace):
            if not node["is_observed"]:
                self._refuse(
                    f"site {node['name']!r} is there for some values only, so the latent sites are"
                    " no fixed set (fix the value, or keep every site and mask it)"
                )
        return trace

    def _run(
        self,
        values: Mapping[str, Tensor],
        draws: Mapping[str, Tensor],
        tensors: Mapping[str, Any],
        only: str,
    ) -> tuple[Tensor, Tensor]:
        trace = self._trace(values, draws, tensors)
        inside: Tensor | float = 0.0
        outside: Tensor | float = 0.0
        for node, own in self._nodes(trace):
            if only and node["name"] not in (only, *self.names):
                continue
            terms = masked(node) if only else node["log_prob"]
            if not own:
                outside = outside + terms.sum()
                continue
            kept = {d % terms.ndim for d in self.dims}
            others = [d for d in range(terms.ndim) if d not in kept]
            inside = inside + (terms.sum(others) if others else terms)
        return torch.as_tensor(inside), torch.as_tensor(outside)

    def _nodes(self, trace: poutine.Trace) -> Iterator[tuple[dict[str, Any], bool]]:
        for node in samples(trace):
            names = {f.name for f in node["cond_indep_stack"] if f.vectorized}
            yield node, self.plates <= names
