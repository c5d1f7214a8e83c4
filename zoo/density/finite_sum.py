"""The exact posterior of a program whose latent sites are all discrete: a finite sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from pyro.distributions import Categorical, Delta, TorchDistribution
from pyro.infer import infer_discrete
from pyro.infer.reparam.reparam import Reparam
from torch import Tensor
from torch.distributions import constraints

from zoo.density.faults import program_faults
from zoo.density.log_density import LogDensity
from zoo.density.sites import default_dtype, no_validation, sum_in_parallel
from zoo.errors import ProgramError
from zoo.fields import FUNCTION, accepted
from zoo.seeds import seeded
from zoo.types import DATA, Data, Program

__all__ = ["FiniteSum", "finite_sum"]


@dataclass(frozen=True, kw_only=True)
class FiniteSum:
    """A posterior over discrete sites.

    Attributes:
        values: values of each site, `[value, *event]`.
        probabilities: posterior probability of each value, `[*batch, value]`.
        log_evidence: log p(observed), nats.
    """

    values: Mapping[str, Tensor]
    probabilities: Mapping[str, Tensor]
    log_evidence: float
    _sum: Sum

    def sample(self, n: int, seed: int) -> dict[str, Tensor]:
        """Return independent joint draws of the sites, each `[n, *site]`."""
        return self._sum.sample(n, seed)

    def sentence(self) -> str:
        """Say the probabilities of small sites."""
        parts = []
        for name, p in self.probabilities.items():
            if p.ndim == 1 and len(p) <= 4 and self.values[name].ndim == 1:
                pairs = zip(self.values[name].tolist(), p.tolist(), strict=True)
                parts += [f"P({name} = {v:g}) = {q:.4f}" for v, q in pairs]
        return ", ".join([*parts[:8], f"log evidence {self.log_evidence:.4f} nats"])


def finite_sum(program: Program, data: Data, *, dtype: torch.dtype | None = None) -> FiniteSum:
    """Sum a program with discrete latent sites only.

    Args:
        program: a Pyro callable.
        data: what it is conditioned on.
        dtype: floating type.

    Raises:
        ProgramError: a continuous latent site, infinite support, or a sum of too many terms.
    """
    accepted("zoo.finite_sum", program=(program, FUNCTION), data=(data, DATA))
    made = Sum(program, data, dtype=dtype)
    probabilities, evidence = made.posterior()
    return FiniteSum(
        values=made.values, probabilities=probabilities, log_evidence=evidence, _sum=made
    )


class Sum(LogDensity):
    """A log density without a vector."""

    finite = True
    most_runs = 100_000

    def posterior(self) -> tuple[dict[str, Tensor], float]:
        """Return the probabilities `[*batch, value]` of every site, and the log evidence."""
        if self.sites:
            raise ProgramError(
                f"Site {self.sites[0].name!r} is continuous, so the posterior is no finite sum;"
                " fit the program or run NUTS, which sum its discrete sites out."
            )
        tensors = self.data.train
        with default_dtype(self.dtype), torch.no_grad():
            if self.per_value is not None:
                rows, outside = self.per_value.rows({}, tensors)
                weights = rows.softmax(0)  # [run, *row]
                self.values = dict(self.per_value.values)
                table = torch.tensor(self.per_value.joint)  # [run, site]
                probabilities = {
                    name: torch.stack(
                        [weights[table[:, i] == k].sum(0) for k in range(len(self.values[name]))],
                        -1,
                    )
                    for i, name in enumerate(self.per_value.names)
                }
                return probabilities, float(rows.logsumexp(0).sum() + outside)
        return self._by_derivatives()

    def _by_derivatives(self) -> tuple[dict[str, Tensor], float]:
        """Return the derivatives of the log evidence by each log probability: its posterior."""
        assert self._evaluator is not None
        with default_dtype(self.dtype), no_validation(), torch.enable_grad():
            trace = self.trace({}, self.data.train)
            trace.compute_log_prob()
            self.values = {n: self.completion.values_of(trace.nodes[n]) for n in self.discrete}
            added = {}
            for name in self.discrete:
                node = trace.nodes[name]
                added[name] = torch.zeros_like(node["log_prob"]).requires_grad_(True)
                node["log_prob"] = node["log_prob"].detach() + added[name]
            total = self._evaluator.log_prob(trace)
            slopes = torch.autograd.grad(total, list(added.values()))
        out = {}
        for name, slope in zip(self.discrete, slopes, strict=True):
            own = trace.nodes[name]["infer"]["_enumerate_dim"]
            plates = self.max_plate_nesting
            kept = slope.movedim(own, -1) if slope.ndim >= -own else slope[..., None]
            # [parents ..., *plates, value] -> [*batch, value]
            extra = kept.ndim - 1 - plates
            kept = kept.sum(tuple(range(extra))) if extra > 0 else kept
            batch = [
                f.size
                for d in range(-plates, 0)
                for f in trace.nodes[name]["cond_indep_stack"]
                if f.vectorized and f.dim == d
            ]
            out[name] = kept.reshape((*batch, kept.shape[-1]))
        return out, float(total.detach())

    def sample(self, n: int, seed: int) -> dict[str, Tensor]:
        """Return joint draws of all sites."""
        with (
            default_dtype(self.dtype),
            torch.no_grad(),
            seeded(seed),
            program_faults("sampled given its data"),
        ):
            if self.per_value is not None:
                return self._from_rows(n)
            return self._from_chain(n)

    def _from_rows(self, n: int) -> dict[str, Tensor]:
        assert self.per_value is not None
        rows, _ = self.per_value.rows({}, self.data.train)  # [run, *row]
        flat = rows.flatten(1).T if rows.ndim > 1 else rows[None]  # [row, run]
        chosen = torch.distributions.Categorical(logits=flat).sample((n,))  # [n, row]
        table = torch.tensor(self.per_value.joint)[chosen]  # [n, row, site]
        out = {}
        for i, name in enumerate(self.per_value.names):
            batch, event = self.per_value.shapes[name]
            out[name] = self.per_value.values[name][table[..., i]].reshape(n, *batch, *event)
        return out

    def _from_chain(self, n: int) -> dict[str, Tensor]:
        """Sample backward through the eliminated sites with Pyro's `infer_discrete`."""
        program: Any = poutine.reparam(
            self.program, {name: _ByNumber(values) for name, values in self.values.items()}
        )
        model: Any = poutine.infer_config(self.completed(program), config_fn=sum_in_parallel)
        sampler = infer_discrete(
            model, first_available_dim=-1 - self.max_plate_nesting, temperature=1
        )
        draws: dict[str, list[Tensor]] = {name: [] for name in self.discrete}
        with poutine.block(), pyro.validation_enabled(False):
            for _ in range(n):
                trace = poutine.trace(sampler).get_trace(**self.data.train)
                for name in self.discrete:
                    draws[name].append(trace.nodes[name]["value"])
        return {name: torch.stack(values) for name, values in draws.items()}


class _ByNumber(Reparam):
    """Draw a site whose values are events by their number: `infer_discrete` gathers no events."""

    def __init__(self, values: Tensor) -> None:
        self.values = values  # [value, *event]

    def apply(self, msg: Any) -> Any:
        """Draw the number of a value at a site of its own; leave other sites as they are."""
        fn = msg["fn"]
        if msg["is_observed"] or not fn.event_dim:
            return msg
        number = pyro.sample(f"{msg['name']}_number", _Numbered(fn, self.values))
        value = self.values[number.long()]
        return {"fn": Delta(value, event_dim=fn.event_dim), "value": value, "is_observed": True}


class _Numbered(TorchDistribution):
    """The number of a value of a discrete distribution."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.nonnegative_integer
    has_enumerate_support = True

    def __init__(self, base: Any, values: Tensor) -> None:
        self.base, self.values = base, values
        super().__init__(base.batch_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Numbered:
        """Return the same with other batch axes."""
        return _Numbered(self.base.expand(torch.Size(batch_shape)), self.values)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return all numbers, `[value, 1 per batch axis]`."""
        numbers = torch.arange(len(self.values)).reshape(-1, *(1 for _ in self.batch_shape))
        return numbers.expand(-1, *self.batch_shape) if expand else numbers

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of the value with this number."""
        out: Tensor = self.base.log_prob(self.values[value.long()])
        return out

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw numbers, `[*sample, *batch]`."""
        weights = self.log_prob(self.enumerate_support(expand=True)).movedim(0, -1)
        return Categorical(logits=weights).sample(torch.Size(sample_shape))
