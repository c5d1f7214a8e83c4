"""The first engine: nutpie (NUTS in Rust, low-rank mass matrix), and what both engines share: the density and the start."""

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
from zoo.density.log_density import LogDensity
from zoo.errors import ProgramError
from zoo.seeds import derive_seed

__all__ = ["Chain", "Density", "nutpie_chain", "starting_point"]

Array = NDArray[np.float64]
RADII = (2.0, 1.0, 0.5, 0.1)
# nats: further down, float64 knows energies to worse than 0.1 nats, and no step can be judged
STEEPEST = 1e15
REJECTED: tuple[type[BaseException], ...] = (torch.linalg.LinAlgError, ArithmeticError)  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class Chain:
    """One chain on its way home: `unconstrained [draw, dim]`, statistics `[draw]`, gradients including warm-up."""

    unconstrained: Array
    stats: Mapping[str, Array]
    gradients: int


class Density:
    """The value and gradient an engine calls, on numpy vectors, counting its calls and never raising.

    A value that cannot be computed (an overflow, a matrix that is not positive definite) is NaN,
    which an engine rejects. Any other exception is a fault of the program: it is kept, every later
    call returns NaN at once, and `raise_failure` raises it after the engine has let go (an
    exception inside nutpie's worker would panic it).
    """

    def __init__(self, log_density: LogDensity) -> None:
        self.log_density = log_density
        self.function = log_density.numpy_gradient()
        self.calls = 0
        self.failure: BaseException | None = None

    def __call__(self, x: Array) -> tuple[float, Array]:
        """Return log density [nats] and its gradient `[dim]` at the unconstrained point `[dim]`."""
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
        """Raise what the program raised, if anything."""
        if isinstance(self.failure, Exception):
            text = (str(self.failure).splitlines() or [""])[0]
            raise ProgramError(
                f"The program failed inside NUTS ({type(self.failure).__name__}: {text}); run it"
                " at that point by hand."
            ) from self.failure
        if self.failure is not None:
            raise self.failure


def starting_point(density: Density, seed: int) -> Array:
    """Return an over-dispersed start: uniform(-2, 2) per coordinate, first of 100 with finite value and gradient.

    A start below -1e15 nats (an explosive autoregression) is taken only where there is no other:
    the energy of a trajectory there is known to so few digits that a chain adapts its step to
    nothing and stays for good. Narrower boxes follow where the density is finite nowhere in the
    wide one.

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
    density: Density, seed: int, tune: int, draws: int, target_accept: float
) -> Chain:
    """Run one chain of nutpie with its low-rank modified mass matrix; interruptible, and safe against exceptions.

    A compiled density is called as a C function, without Python in the loop; where there is none,
    or where it fails, the chain runs on the Python callback. The draws are the same.
    """
    start = starting_point(density, seed)
    settings = {"draws": draws, "tune": tune, "seed": seed, "target_accept": target_accept}
    gradient = density.log_density.native_gradient()
    trace = None if gradient is None else _native(density, gradient, start, settings)
    if trace is None:
        trace = _wait(_sampler(_python_model(density, start), settings), density)
    return _decode(trace, density, draws)


def _native(
    density: Density, gradient: NativeGraph, start: Array, settings: dict[str, Any]
) -> Any:
    """Return the trace of a chain on the C function; None where this nutpie takes none, or the graph failed at some point."""
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
    return (
        None if gradient.failed else trace
    )  # the Python route meets the same point and knows what to say of it


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
    """Say in one sentence why the sampler stopped by itself; Ctrl-C and what a signal's handler raises pass.

    A panic of nutpie, which is written in Rust, arrives as an exception that is no `Exception`,
    with a backtrace in its text.
    """
    try:
        yield
    except (TypeError, AttributeError, ImportError):  # this nutpie has another interface
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
            " under a flat prior, or where the density grows without bound, a chain runs off"
            " until its numbers overflow."
        ) from error


def _wait(sampler: Any, density: Density, native: NativeGraph | None = None) -> Any:
    """Wait in short steps, so that Ctrl-C and a failed program end the sampler instead of a partial trace."""
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
        density.failure = failure or RuntimeError(
            "interrupted"
        )  # makes the worker's calls return at once
        if native is not None and not native.failed:
            native.stop()
        _let_go(sampler)
        if isinstance(
            error, ProgramError
        ):  # not interrupted: what the program raised is the reason, if it raised anything
            density.failure = failure
            density.raise_failure()
        raise
    if density.failure is not None:
        sampler.cancel()
        density.raise_failure()
    return trace


def _let_go(sampler: Any) -> None:
    """End a sampler; one that has panicked panics at every call, also at those it makes when it is forgotten."""
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
