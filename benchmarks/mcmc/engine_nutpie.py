"""The default engine, nutpie: NUTS in Rust with a low-rank modified mass matrix.

The density wrapper and the choice of starting points are shared with the second engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.mcmc.engine_nutpie_c import native_model
from zoo.compiler.c_abi import NativeGraph
from zoo.density.faults import as_program_error
from zoo.density.log_density import LogDensity
from zoo.errors import ProgramError
from zoo.seeds import derive_seed

__all__ = ["Chain", "Density", "nutpie_chain", "starting_point"]

Array = NDArray[np.float64]
RADII = (2.0, 1.0, 0.5, 0.1)
# In nats. Beyond it, float64 resolves energies to no better than 0.1 nats, too coarse to judge a
# step.
STEEPEST = 1e15
REJECTED: tuple[type[BaseException], ...] = (torch.linalg.LinAlgError, ArithmeticError)  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class Chain:
    """One finished chain.

    Attributes:
        unconstrained: `[draw, dim]`.
        stats: per-draw statistics, `[draw]` each.
        gradients: gradient evaluations, warm-up included.
    """

    unconstrained: Array
    stats: Mapping[str, Array]
    gradients: int


class Density:
    """Log density and gradient on numpy vectors; counts its calls and never raises.

    Where the density cannot be computed (an overflow, a matrix that is not positive definite) the
    value is NaN, which an engine rejects. Any other exception is a fault of the program. It is
    stored, every later call returns NaN at once, and `raise_failure` raises it after the engine
    has returned: an exception inside a nutpie worker would make it panic.
    """

    def __init__(self, log_density: LogDensity) -> None:
        self.log_density = log_density
        self.function = log_density.numpy_gradient()
        self.calls = 0
        self.failure: BaseException | None = None

    def __call__(self, x: Array) -> tuple[float, Array]:
        """Return the log density [nats] and its gradient `[dim]` at the unconstrained `x`."""
        if self.failure is not None:
            return math.nan, np.zeros_like(x)
        self.calls += 1
        try:
            value, gradient = self.function(x)
        except REJECTED:
            return math.nan, np.zeros_like(x)
        except BaseException as error:
            self.failure = error
            return math.nan, np.zeros_like(x)
        return value, np.ascontiguousarray(gradient, dtype=np.float64)

    def raise_failure(self) -> None:
        """Raise the stored exception of the program, if any."""
        if isinstance(self.failure, Exception):
            raise as_program_error(
                self.failure, "run at a point of a NUTS chain"
            ) from self.failure
        if self.failure is not None:
            raise self.failure


def starting_point(density: Density, seed: int) -> Array:
    """Return an over-dispersed starting point.

    Of up to 100 draws from uniform(-2, 2) per coordinate, the first with a finite value and
    gradient. If the density is finite at none of them, narrower boxes follow. A point below -1e15
    nats (for example in an explosive autoregression) is used only if there is no other: energies
    there have so few correct digits that step size adaptation collapses and the chain never moves
    away.

    Raises:
        ProgramError: no finite point was found.
    """
    generator = np.random.default_rng(derive_seed(seed, "start"))
    steep: Array | None = None
    for radius in RADII:
        for _ in range(100):
            x = generator.uniform(-radius, radius, density.log_density.dim)
            value, gradient = density(x)
            density.raise_failure()
            if math.isfinite(value) and np.isfinite(gradient).all():
                if abs(value) < STEEPEST:
                    return x
                steep = x if steep is None else steep
        if steep is not None:
            return steep
    raise ProgramError(
        "The log density is not finite at any of 400 points within 2 of the unconstrained origin;"
        " check priors and data."
    )


def nutpie_chain(
    density: Density,
    seed: int,
    tune: int,
    draws: int,
    target_accept: float,
    start: Array | None = None,
) -> Chain:
    """Run one nutpie chain that can be interrupted and survives exceptions in the density.

    A compiled density is called through its C ABI, without Python in the loop. If there is none,
    or if it fails, the chain uses the Python callback. The draws are the same. It begins at
    `start` `[dim]`, by default at `starting_point`.
    """
    start = starting_point(density, seed) if start is None else start
    settings = {"draws": draws, "tune": tune, "seed": seed, "target_accept": target_accept}
    gradient = density.log_density.native_gradient()
    trace = None if gradient is None else _native(density, gradient, start, settings)
    if trace is None:
        trace = _wait(_sampler(_python_model(density, start), settings), density)
    return _decode(trace, density, draws)


def _native(
    density: Density, gradient: NativeGraph, start: Array, settings: dict[str, Any]
) -> Any:
    """Return the trace of a chain that calls the density through its C ABI.

    None if this version of nutpie does not support that, or if the compiled graph failed.
    """
    try:
        sampler = _sampler(native_model(gradient, start), settings)
    except (ImportError, TypeError, AttributeError):
        return None
    trace = None
    try:
        trace = _wait(sampler, density, gradient)
    except ProgramError:
        if not gradient.failed:
            raise
    finally:
        density.calls += gradient.calls
        density.log_density.gradient_evaluations += gradient.calls
    # On None the Python callback reaches the same point and reports the failure.
    return None if gradient.failed else trace


def _python_model(density: Density, start: Array) -> Any:
    import nutpie

    dim = density.log_density.dim
    return nutpie.compiled_pyfunc.from_pyfunc(
        dim,
        lambda: density,
        lambda seed1, seed2, chain: lambda x: {"u": np.array(x, dtype=np.float64)},
        [np.dtype("float64")],
        [(dim,)],
        ["u"],
        make_initial_point_fn=lambda _: start,
    )


def _sampler(model: Any, settings: dict[str, Any]) -> Any:
    import nutpie

    fixed = {
        "chains": 1,
        "cores": 1,
        "progress_bar": False,
        "return_raw_trace": True,
        "low_rank_modified_mass_matrix": True,
    }
    with _panics():
        return nutpie.sample(model, blocking=False, **fixed, **settings)


@contextmanager
def _panics() -> Iterator[None]:
    """Turn a failure or panic of nutpie into one sentence.

    A Rust panic arrives as an exception that does not derive from `Exception`, with a backtrace in
    its text. Ctrl-C and exceptions of signal handlers pass through.
    """
    try:
        yield
    except (TypeError, AttributeError, ImportError):  # a nutpie with another interface
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        reason = (
            (str(error).splitlines() or [""])[0]
            .removeprefix("called `Result::unwrap()` on an `Err` value: ")
            .rstrip(". ")
        )
        raise ProgramError(
            f"nutpie stopped: {reason or type(error).__name__}; check that there is a posterior:"
            " under a flat prior, or if the density grows without bound, the chain diverges until"
            " it overflows."
        ) from error


def _wait(sampler: Any, density: Density, native: NativeGraph | None = None) -> Any:
    """Poll the sampler, so that Ctrl-C or a failed program stops it without a partial trace."""
    try:
        with _panics():
            while True:
                try:
                    trace = sampler.wait(timeout=0.05)
                    break
                except TimeoutError:
                    if density.failure is not None:
                        break
    except BaseException as error:
        failure = density.failure
        # every later call of the worker returns at once
        density.failure = failure or RuntimeError("interrupted")
        if native is not None and not native.failed:
            native.stop()
        _let_go(sampler)
        # Not an interrupt: an exception of the program, if there is one, is the cause.
        if isinstance(error, ProgramError):
            density.failure = failure
            density.raise_failure()
        raise
    if density.failure is not None:
        _let_go(sampler)  # it may have panicked in the meantime
        density.raise_failure()
    return trace


def _let_go(sampler: Any) -> None:
    """Cancel a sampler.

    One that has panicked panics again at every call, including its destructor.
    """
    try:
        with _panics():
            sampler.cancel()
    except ProgramError:
        vars(sampler).pop("_sampler", None)


def _decode(trace: Any, density: Density, draws: int) -> Chain:
    import pyarrow  # type: ignore[import-untyped]

    points, statistics = (pyarrow.record_batch(part[0]) for part in trace.get_arrow_trace())
    u = np.asarray(points.column("u").flatten(), dtype=np.float64).reshape(
        -1, density.log_density.dim
    )[-draws:]
    names = {
        "diverging": "diverging",
        "energy": "energy",
        "lp": "logp",
        "n_steps": "n_steps",
        "tree_depth": "depth",
        "acceptance_rate": "mean_tree_accept",
        "step_size": "step_size",
    }
    stats = {
        ours: statistics.column(theirs).to_numpy(zero_copy_only=False).astype(np.float64)[-draws:]
        for ours, theirs in names.items()
    }
    return Chain(unconstrained=u, stats=stats, gradients=density.calls)
