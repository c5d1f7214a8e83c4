"""Program + data -> log density over one flat unconstrained vector, and back.

For latent sites z = T(u) with the bijections T of their supports and discrete sites c summed out,

    log p(u, data) = log sum_c p(T(u), c, data) + log |det dT/du|      [nats]

NUTS, Laplace, the flat objectives, importance weights and parity tests all use this class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.mcmc.util import TraceEinsumEvaluator
from torch import Tensor

from zoo.compiler.compile import Mode, Record
from zoo.compiler.torch_private import is_traced
from zoo.compiler.vectorize import Compiled, batched
from zoo.density.compiled import CompiledDensity, compile_density
from zoo.density.sites import (
    MappableEnum,
    Site,
    default_dtype,
    first_trace,
    lay_out,
    masked,
    no_validation,
    refuse_bad_observations,
    refuse_broadcasts,
    same_support,
    samples,
    sum_in_parallel,
    trace_program,
)
from zoo.errors import ProgramError
from zoo.types import Data, Program

if TYPE_CHECKING:
    import numpy as np

    from zoo.compiler.c_abi import NativeGraph

__all__ = ["LogDensity", "Site", "default_dtype", "trace_program"]


class LogDensity:
    """The log joint density of a program over one flat float vector, discrete sites summed out.

    Args:
        program: a Pyro callable; weights that it owns are fixed and not part of the vector.
        data: what the program is conditioned on.
        dtype: floating dtype of the vector and of every tensor the program creates.

    Raises:
        ProgramError: no continuous latent site, a support that depends on another latent site, a
            sequential discrete dependency that cannot be enumerated, or a program that fails to
            run.
        DataError: an observed value outside the support of its distribution.
    """

    def __init__(self, program: Program, data: Data, *, dtype: torch.dtype | None = None) -> None:
        self.program = program
        self.data = data
        self.dtype = dtype or torch.float64
        self.evaluations = 0
        self.gradient_evaluations = 0
        self._batch: Compiled | None = None
        self._compiled: CompiledDensity | None = None
        with default_dtype(self.dtype):
            self._set_up()

    def _set_up(self) -> None:
        first = first_trace(self.program, self.data)
        refuse_bad_observations(first)
        refuse_broadcasts(first)
        frames = [f for node in samples(first) for f in node["cond_indep_stack"]]
        self.max_plate_nesting = max((-f.dim for f in frames if f.vectorized), default=0)
        self.discrete = [
            n["name"]
            for n in samples(first)
            if not n["is_observed"] and n["fn"].has_enumerate_support
        ]
        latent = [
            n for n in samples(first) if not n["is_observed"] and n["name"] not in self.discrete
        ]
        if not latent:
            raise ProgramError(
                "The program has no continuous latent site; add a pyro.sample without obs=."
            )
        self.sites: tuple[Site, ...] = tuple(lay_out(latent, self.data))
        self.dim = self.sites[-1].stop
        self._refuse_moving_supports(latent)
        self._model = (
            poutine.infer_config(self.program, config_fn=sum_in_parallel)
            if self.discrete
            else self.program
        )
        self._evaluator: TraceEinsumEvaluator | None = None
        if self.discrete:
            z = {s.name: first.nodes[s.name]["value"].detach() for s in self.sites}
            self._evaluator = TraceEinsumEvaluator(
                self.trace(z, self.data.train), True, self.max_plate_nesting
            )

    def _refuse_moving_supports(self, latent: list[dict[str, Any]]) -> None:
        other = {
            n["name"]: n
            for n in samples(trace_program(self.program, self.data.train, seed=1, radius=1.5))
        }
        for node in latent:
            after = other.get(node["name"])
            if after is None or after["value"].shape != node["value"].shape:
                raise ProgramError(
                    f"Site {node['name']!r} appears or changes shape from run to run; a fixed set"
                    " of latent sites is needed, use masks instead of branches."
                )
            if not same_support(node["fn"].support, after["fn"].support):
                raise ProgramError(
                    f"The support of site {node['name']!r} depends on another latent site, which"
                    " Pyro's transforms ignore silently; sample a fraction in (0, 1), multiply it"
                    " by the bound, and add the log of the bound with pyro.factor."
                )

    # -- the two directions --------------------------------------------------------------------

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Map flat points `[*batch, dim]` to named constrained sites, each `[*batch, *site]`."""
        return {s.name: s.transform(s.part(u)) for s in self.sites}

    def unconstrain(self, draws: Mapping[str, Tensor]) -> Tensor:
        """Map named constrained sites `[*batch, *site]` to flat points `[*batch, dim]`."""
        parts = []
        for s in self.sites:
            if s.name not in draws:
                raise ProgramError(f"Draws lack site {s.name!r}; they have {sorted(draws)}.")
            value = draws[s.name].to(self.dtype)
            batch = value.shape[: value.ndim - len(s.shape)]
            parts.append(s.transform.inv(value).reshape(*batch, s.stop - s.start))
        return torch.cat(parts, -1)

    # -- value, gradient, batch ----------------------------------------------------------------

    def __call__(self, u: Tensor) -> Tensor:
        """Return the log density at one point `[dim]`, in nats, differentiable in `u`."""
        self.evaluations += 1
        return self.evaluate(u)

    def evaluate(self, u: Tensor, tensors: Mapping[str, Any] | None = None) -> Tensor:
        """Return the log density at one point, optionally on a minibatch `tensors`, uncounted.

        If `tensors` has `index`, local sites are sliced along the minibatch plate and their
        Jacobian is scaled by size / batch, so that the expectation over random minibatches is the
        full log density.
        """
        index = None if tensors is None else tensors.get("index")
        draws: dict[str, Tensor] = {}
        jacobian = u.new_zeros(())
        for s in self.sites:
            raw = s.part(u)
            value = s.transform(raw)
            terms = s.transform.log_abs_det_jacobian(raw, value)
            if index is not None and s.plate_axis is not None:
                value, scale = (
                    value.index_select(value.ndim - s.plate_axis, index),
                    self._scale(index),
                )
                axis = s.plate_axis - s.event_dim
                terms = scale * terms.index_select(terms.ndim - axis, index)
            draws[s.name] = value
            jacobian = jacobian + terms.sum()
        with default_dtype(self.dtype):
            return (
                self.log_joint(draws, self.data.train if tensors is None else tensors) + jacobian
            )

    def _scale(self, index: Tensor) -> float:
        return float(self.data.size or 1) / index.numel()

    def compile(self, mode: Mode = "auto", *, expected_calls: int = 50_000) -> Record:
        """Run `gradient`, `batch` and `numpy_gradient` compiled where that works and pays.

        Returns:
            Whether they do, and why.
        """
        self._compiled = compile_density(self, mode, expected_calls=expected_calls)
        return self._compiled.record

    @property
    def compiled(self) -> Record:
        """The record of `compile`, updated by later fallbacks."""
        if self._compiled is None:
            return Record(
                used=False, reason="not asked to compile", compile_seconds=0.0, cached=False
            )
        return self._compiled.record

    def gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density at `[dim]` and its gradient `[dim]`."""
        self.gradient_evaluations += 1
        if self._compiled is None:
            return self.eager_gradient(u)
        return self._compiled.value_and_gradient(u.detach().contiguous())

    def eager_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return `gradient` by running the program, uncounted; compiled graphs must equal it."""
        point = u.detach().requires_grad_(True)
        value = self.evaluate(point)
        (grad,) = torch.autograd.grad(value, point)
        return value.detach(), grad

    def numpy_gradient(
        self,
    ) -> Callable[[np.ndarray[Any, Any]], tuple[float, np.ndarray[Any, Any]]]:
        """Return `gradient` on numpy arrays with minimal overhead; counted; one per thread."""
        if self._compiled is None:
            self.compile("off")
        assert self._compiled is not None
        return self._compiled.numpy_gradient()

    def native_gradient(self) -> NativeGraph | None:
        """Return the compiled gradient exposed through a C ABI, or None.

        It is not thread-safe, and the caller counts its calls.
        """
        return None if self._compiled is None else self._compiled.native_gradient()

    def batch(self, u: Tensor) -> Tensor:
        """Return the log density `[n]` at points `[n, dim]`, in nats; counts n evaluations."""
        self.evaluations += u.shape[0]
        return self.batch_function()(u)

    def batch_function(self) -> Compiled:
        """Return the function of `[n, dim]` that `batch` calls: differentiable, not counted.

        It is compiled once `compile` has been called.
        """
        eager = self.eager_batch()

        def dispatch(u: Tensor) -> Tensor:
            return (
                eager.function(u)
                if self._compiled is None or is_traced(u)
                else self._compiled.differentiable_batch(u)
            )

        return replace(eager, function=dispatch)

    def eager_batch(self) -> Compiled:
        """Return the eager function of `[n, dim]`, vectorized where the program allows it."""
        if self._batch is None:
            # the self-check differentiates, even if the first caller has disabled gradients
            with torch.enable_grad():
                self._batch = batched(self.evaluate, dim=self.dim, dtype=self.dtype)
        return self._batch

    def hessian(self, u: Tensor) -> Tensor:
        """Return the symmetric Hessian `[dim, dim]` of the log density; counts dim gradients."""
        self.gradient_evaluations += self.dim
        hessian = self.eager_hessian(u) if self._compiled is None else self._compiled.hessian(u)
        return 0.5 * (hessian + hessian.T)

    def eager_hessian(self, u: Tensor) -> Tensor:
        """Return the Hessian by reverse-over-reverse differentiation of the program, uncounted."""
        hessian: Tensor = torch.autograd.functional.hessian(self.evaluate, u.detach())
        return hessian

    # -- the program ---------------------------------------------------------------------------

    def trace(self, draws: Mapping[str, Tensor], tensors: Mapping[str, Any]) -> poutine.Trace:
        """Run the program at given continuous sites, with discrete sites enumerated, unvalidated.

        Args:
            draws: the value of every latent site, `{site: [*site]}`, sliced to the units of a
                minibatch if `tensors` has `index`.
            tensors: the program's keyword arguments.

        Returns:
            The trace, without log probabilities.
        """
        model = poutine.condition(self._model, data=dict(draws))
        if self.discrete:
            model = MappableEnum(first_available_dim=-1 - self.max_plate_nesting)(model)
        with poutine.block(), no_validation():
            return poutine.trace(model).get_trace(**tensors)

    def log_joint(self, draws: Mapping[str, Tensor], tensors: Mapping[str, Any]) -> Tensor:
        """Return log sum_c p(draws, c, data) in nats, without Jacobian; arguments as `trace`."""
        trace = self.trace(draws, tensors)
        with no_validation():
            if self._evaluator is not None:
                value: Tensor = self._evaluator.log_prob(trace)
                return value
            total: Tensor = trace.log_prob_sum()
        return total if isinstance(total, Tensor) else torch.as_tensor(total)

    def nonfinite_sites(self, u: Tensor) -> str:
        """Name the sites of non-finite value or density at a point `[dim]`, as `site 'x'`."""
        names = []
        try:
            trace = self.trace(self.constrain(u.detach()), self.data.train)
            trace.compute_log_prob()
        except (ValueError, RuntimeError) as error:
            return f"the program itself ({str(error).splitlines()[0]})"
        for name, node in trace.nodes.items():
            if (
                node["type"] == "sample"
                and "log_prob" in node
                and not torch.isfinite(torch.as_tensor(node["log_prob"])).all()
            ):
                names.append(name)
        for s in self.sites:
            if (
                s.name not in names
                and not torch.isfinite(torch.as_tensor(trace.nodes[s.name]["value"])).all()
            ):
                names.append(s.name)
        return (
            "site " + ", ".join(repr(n) for n in names[:3])
            if names
            else "a Jacobian or a gradient"
        )

    def pointwise(
        self, draws: Mapping[str, Tensor], tensors: Mapping[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """Return the log likelihood per observation, `{site: [sample, *batch_shape]}`, in nats.

        Discrete sites within the plates of an observation are summed out separately for each
        observation.

        Raises:
            ProgramError: a discrete site is shared by several observations, so that no
                per-observation term exists.
        """
        tensors = self.data.train if tensors is None else tensors
        rows: dict[str, list[Tensor]] = {}
        number = next(iter(draws.values())).shape[0]
        with default_dtype(self.dtype), torch.no_grad():
            for i in range(number):
                trace = self.trace({s.name: draws[s.name][i] for s in self.sites}, tensors)
                trace.compute_log_prob()
                for name, value in self._observed_terms(trace).items():
                    rows.setdefault(name, []).append(value)
        return {name: torch.stack(values) for name, values in rows.items()}

    def _observed_terms(self, trace: poutine.Trace) -> dict[str, Tensor]:
        latent = {s.name for s in self.sites}
        out = {}
        for node in samples(trace):
            if node["name"] in latent or node["name"] in self.discrete or not node["is_observed"]:
                continue
            if node["infer"].get("is_auxiliary") or isinstance(
                node["fn"], (dist.Unit, dist.Delta)
            ):
                continue
            terms = masked(node)
            if self.discrete:
                terms = self._sum_out(trace, node, terms)
            out[node["name"]] = terms
        return out

    def _sum_out(self, trace: poutine.Trace, node: dict[str, Any], terms: Tensor) -> Tensor:
        stack = set(node["cond_indep_stack"])
        for name in self.discrete:
            other = trace.nodes[name]
            if (
                not set(other["cond_indep_stack"]) >= stack
                and other["cond_indep_stack"] != node["cond_indep_stack"]
            ):
                raise ProgramError(
                    f"Discrete site {name!r} is shared by several observations of"
                    f" {node['name']!r}, so no log likelihood per observation exists; compare the"
                    " evidence instead."
                )
            terms = terms + masked(other)
        extra = terms.ndim - self.max_plate_nesting
        if extra > 0:
            terms = terms.flatten(0, extra - 1).logsumexp(0)
        return terms.reshape(
            node["fn"].batch_shape[-self.max_plate_nesting :] if self.max_plate_nesting else ()
        )
