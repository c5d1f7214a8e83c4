"""Program + data -> log density over one flat unconstrained vector, and back.

For latent sites z = T(u) with the bijections T of their supports (of an angle, a chart of the
circle) and discrete sites c summed out,

    log p(u, data) = log sum_c p(T(u), c, data) + log |det dT/du|      [nats]

NUTS, Laplace, the flat objectives, importance weights and parity tests all use this class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from pyro import poutine
from pyro.infer.mcmc.util import TraceEinsumEvaluator
from torch import Tensor

from zoo.compiler.compile import Mode, Record
from zoo.compiler.policy import Work, work_of
from zoo.compiler.torch_private import is_traced
from zoo.compiler.vectorize import Compiled, batched, value_and_gradient
from zoo.density.centers import take_circles
from zoo.density.compiled import CompiledDensity, compile_density, points_at_once
from zoo.density.completion import Completion, is_discrete
from zoo.density.defects import (
    called_modules,
    nothing_overwritten,
    refuse_training_layers,
    refuse_weighted_sites,
    refuse_without_bijection,
)
from zoo.density.enumeration import check_axes
from zoo.density.faults import program_faults
from zoo.density.nonfinite import nonfinite_sites
from zoo.density.per_value import MOST_RUNS, PerValue
from zoo.density.pointwise import pointwise_terms
from zoo.density.sites import (
    MappableEnum,
    Site,
    default_dtype,
    first_trace,
    lay_out,
    no_validation,
    numbered_plates,
    refuse_bad_observations,
    refuse_broadcasts,
    same_support,
    samples,
    sum_in_parallel,
    sum_out_minibatch,
    trace_program,
)
from zoo.density.unheld import unheld_entries
from zoo.errors import ProgramError, ZooError
from zoo.fields import FUNCTION, accepted
from zoo.seeds import seeded
from zoo.types import DATA, Data, Program

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

    finite = False  # whether a program without continuous sites is accepted
    most_runs = MOST_RUNS  # of the program where discrete sites are summed out one value at a time

    def __init__(self, program: Program, data: Data, *, dtype: torch.dtype | None = None) -> None:
        accepted("zoo.LogDensity", program=(program, FUNCTION), data=(data, DATA))
        self.program = program
        self.data = data
        self.dtype = dtype or torch.float64
        self.evaluations = 0
        self.gradient_evaluations = 0
        self.of_guide: tuple[Any, LogDensity | None] | None = None  # see `guide_density`
        self.unmapped = ""  # why torch cannot map the terms of its units, see `unit_terms`
        self._batch: Compiled | None = None
        self._compiled: CompiledDensity | None = None
        with default_dtype(self.dtype), program_faults("run on its data"):
            self._set_up()

    def _set_up(self) -> None:
        with called_modules() as modules, nothing_overwritten(self.data) as watched:
            first = first_trace(watched(self.program), self.data)
        refuse_training_layers(modules)
        refuse_weighted_sites(first)
        self.parameters = [n["name"] for n in first.nodes.values() if n["type"] == "param"]
        refuse_bad_observations(first)
        refuse_broadcasts(first)
        frames = [f for node in samples(first) for f in node["cond_indep_stack"]]
        self.max_plate_nesting = max((-f.dim for f in frames if f.vectorized), default=0)
        unseen = [n for n in samples(first) if not n["is_observed"]]
        self.discrete = [n["name"] for n in unseen if is_discrete(n["fn"])]
        self.completion = Completion()
        for node in samples(first):
            if node["name"] in self.discrete:
                self.completion.learn(node)
        latent = [n for n in unseen if n["name"] not in self.discrete]
        if not latent and not self.finite:
            self._refuse_without_vector()
        refuse_without_bijection(latent)
        self.sites: tuple[Site, ...] = tuple(lay_out(latent, self.data))
        self.dim = self.sites[-1].stop if self.sites else 0
        with program_faults("run at a second point"):
            self._refuse_moving_supports(latent)
        model = self.completed(self.program)
        self._model = (
            poutine.infer_config(model, config_fn=sum_in_parallel) if self.discrete else model
        )
        self._evaluator: TraceEinsumEvaluator | None = None
        self.per_value: PerValue | None = None
        if self.discrete:
            self._sum_discrete(first)
        self.jumps = take_circles(self, latent)
        self.free = unheld_entries(self, latent)
        self.completion.free.update(
            {s.name: s.transform for s in self.sites if s.name in self.free}
        )
        if self.per_value is None and self.sites:
            self._refuse_noise()

    def _refuse_noise(self) -> None:
        """Refuse a density that is not one number at one point."""
        point = torch.full((self.dim,), 0.1, dtype=self.dtype)
        values = []
        with no_validation(), torch.no_grad():
            for seed in (0, 1):
                with seeded(seed):
                    values.append(float(self.evaluate(point)))
        self.evaluations = 0
        one, other = values
        if math.isfinite(one) and not abs(one - other) <= 1e-9 * max(1.0, abs(one)):
            raise ProgramError(
                f"The log density at one point is {one:.6g} at one call and {other:.6g} at the"
                " next: the program draws random numbers outside its sites, or keeps some from run"
                " to run; make noise a pyro.sample site or an argument, call .eval() on dropout."
            )

    def _refuse_without_vector(self) -> None:
        if not self.discrete:
            raise ProgramError(
                "The program has no continuous latent site; add a pyro.sample without obs=."
            )
        names = ", ".join(repr(n) for n in self.discrete[:5])
        raise ProgramError(
            f"Every latent site of the program ({names}) is discrete, so its posterior is a finite"
            " sum and there is nothing to approximate: entry.exact(entry.load_data()) of an entry"
            " made by zoo.from_program, or zoo.finite_sum(program, data), has the probabilities,"
            " the evidence and exact draws."
        )

    def _sum_discrete(self, first: poutine.Trace) -> None:
        """Run the program with all values of its discrete sites at once, or one by one."""
        z = {s.name: first.nodes[s.name]["value"].detach() for s in self.sites}
        try:
            self._evaluator = TraceEinsumEvaluator(
                self.trace(z, self.data.train), True, self.max_plate_nesting
            )
            check_axes(self, z)
        except ZooError:
            raise
        except Exception as error:  # of the author's statements: they take one value each
            nodes = [first.nodes[name] for name in self.discrete]
            self.per_value = PerValue(
                self.completed(self.program), self.completion, nodes, error, self.most_runs
            )
            with program_faults(f"run with one value of {', '.join(self.discrete)} after another"):
                self.per_value.check(z, self.data.train)

    def completed(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """Return a program or guide with its masked, finite and circular sites completed."""

        def call(*args: Any, **tensors: Any) -> Any:
            with self.completion:
                return program(*args, **tensors)

        return call

    def _refuse_moving_supports(self, latent: list[dict[str, Any]]) -> None:
        with no_validation():  # elsewhere the density may be zero, or not a number
            try:
                second = trace_program(self.program, self.data.train, seed=1, radius=1.5)
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # no factor there
                second = trace_program(self.program, self.data.train, seed=1, radius=0.3)
        other = {n["name"]: n for n in samples(second)}
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

    def compile(
        self, mode: Mode = "auto", *, expected_calls: int = 50_000, expected_points: int = 0
    ) -> Record:
        """Run `gradient`, `batch` and `numpy_gradient` compiled where that works and pays.

        Args:
            mode: "on", "off", or "auto": by the forecast of what is saved.
            expected_calls: forecast calls of `gradient`.
            expected_points: forecast points of `batch_gradient` in all its calls; where 0, its
                graph is compiled once eager calls have taken as long as a compilation.

        Returns:
            Whether they do, and why.
        """
        self._compiled = compile_density(
            self, mode, expected_calls=expected_calls, expected_points=expected_points
        )
        return self._compiled.record

    @property
    def by_points(self) -> bool:
        """Whether the compiled density is a long recursion in C, called point by point."""
        return self._compiled is not None and self._compiled.by_points

    def work(self) -> Work:
        """Return the size of one eager gradient."""
        return work_of(self.eager_gradient, [torch.zeros(self.dim, dtype=self.dtype)])

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
        return value_and_gradient(self.evaluate, u)

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

    def batch_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density `[n]` at points `[n, dim]` and its gradients `[n, dim]`."""
        self.gradient_evaluations += u.shape[0]
        return value_and_gradient(self.batch_function(), u)

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
                self._batch = batched(
                    self.evaluate,
                    dim=self.dim,
                    dtype=self.dtype,
                    chunk=points_at_once(self.data.train, self.dim),
                )
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
        with poutine.block(), no_validation(), numbered_plates():
            return poutine.trace(model).get_trace(**tensors)

    def log_joint(self, draws: Mapping[str, Tensor], tensors: Mapping[str, Any]) -> Tensor:
        """Return log sum_c p(draws, c, data) in nats, without Jacobian; arguments as `trace`."""
        if self.per_value is not None:
            return self.per_value.log_prob(draws, tensors)
        trace = self.trace(draws, tensors)
        with no_validation():
            if self._evaluator is not None:
                value: Tensor = (
                    self._evaluator.log_prob(trace)
                    if tensors.get("index") is None
                    else sum_out_minibatch(trace, self._evaluator)
                )
                return value
            total: Tensor = trace.log_prob_sum()
        return total if isinstance(total, Tensor) else torch.as_tensor(total)

    def nonfinite_sites(self, u: Tensor) -> str:
        """Name the sites of non-finite value or density at a point `[dim]`, as `site 'x'`."""
        return nonfinite_sites(self, u)

    def pointwise(
        self, draws: Mapping[str, Tensor], tensors: Mapping[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """Return the log likelihood per observation, `{site: [sample, *batch_shape]}`, in nats.

        Discrete sites within the plates of an observation are summed out separately for each
        observation. Weights (`poutine.scale`) are left out.

        Raises:
            ProgramError: a discrete site is shared by several observations, so that no
                per-observation term exists.
        """
        return pointwise_terms(self, draws, self.data.train if tensors is None else tensors)
