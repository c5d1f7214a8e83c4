"""Eager batched functions: one pass of a program for many points.

`batched` turns a function of one point into a function of many. It tries `torch.func.vmap`, checks
the result against a plain loop at random points, and keeps the loop if they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyro
import torch
from pyro.ops.einsum import torch_log
from torch import Tensor

from zoo.compiler.torch_private import is_traced, silent_fallbacks
from zoo.errors import UsageError

__all__ = ["MOST", "Compiled", "batched", "close", "value_and_gradient", "vmappable"]

MOST = 512  # points of one vectorized call


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A tensor function with a record of how it runs; `used` says whether it is compiled."""

    function: Callable[[Tensor], Tensor]
    shape: tuple[int | None, ...]
    dtype: torch.dtype
    used: bool = False
    vectorized: bool = False
    reason: str = "eager"

    def __call__(self, u: Tensor) -> Tensor:
        """Call the function; other dtypes or shapes are rejected because a graph computes garbage.

        Raises:
            UsageError: the dtype or the shape differs from the declared one.
        """
        if (
            u.dtype != self.dtype
            or u.ndim != len(self.shape)
            or any(s not in (None, n) for s, n in zip(self.shape, u.shape, strict=True))
        ):
            raise UsageError(
                f"Expected points of shape {self.shape} and dtype {self.dtype}, got"
                f" {tuple(u.shape)} and {u.dtype}."
            )
        return self.function(u)


def batched(
    function: Callable[[Tensor], Tensor], *, dim: int, dtype: torch.dtype, chunk: int = MOST
) -> Compiled:
    """Return `[n, dim] -> [n]` for a scalar function of `[dim]`; vectorized if results agree.

    At most `chunk` points are evaluated at once outside of a trace, whose graph must not repeat.
    """

    def loop(u: Tensor) -> Tensor:
        return torch.stack([function(row) for row in u])

    def vectorized(u: Tensor) -> Tensor:
        with vmappable():
            mapped = torch.func.vmap(function)
            return torch.cat([mapped(part) for part in u.split(MOST if is_traced(u) else chunk)])

    shape = (None, dim)
    generator = torch.Generator().manual_seed(20231)
    points = 0.5 * torch.randn(3, dim, dtype=dtype, generator=generator)
    try:
        value, gradient = value_and_gradient(vectorized, points)
    except Exception as error:
        return Compiled(
            function=loop,
            shape=shape,
            dtype=dtype,
            reason=f"points one by one: {type(error).__name__} under vmap",
        )
    plain, slope = value_and_gradient(loop, points)
    if not (close(value, plain) and close(gradient, slope)):
        return Compiled(
            function=loop,
            shape=shape,
            dtype=dtype,
            reason="points one by one: vmap failed its self-check",
        )
    return Compiled(function=vectorized, shape=shape, dtype=dtype, vectorized=True)


def value_and_gradient(
    function: Callable[[Tensor], Tensor], points: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the values `[n]` of a function at points `[n, dim]`, and its gradients `[n, dim]`."""
    u = points.detach().requires_grad_(True)
    with torch.enable_grad():
        value = function(u)
        (gradient,) = torch.autograd.grad(value.sum(), u)
    return value.detach(), gradient


def close(a: Tensor, b: Tensor, scale: float = 0.0) -> bool:
    """Whether tensors are equal, including their non-finite entries.

    The tolerance is relative to the largest entry (or `scale`): 1e-9 in float64, 1e-4 in float32.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.dtype.is_floating_point:
        return torch.equal(a, b)
    tolerance = 1e-9 if a.dtype == torch.float64 else 1e-4
    finite = torch.isfinite(b)
    largest = max(scale, b[finite].abs().max().item() if finite.any() else 0.0)
    return torch.allclose(a, b, rtol=0.0, atol=tolerance * (1 + largest), equal_nan=True)


class _SafeLog(torch.autograd.Function):
    """Pyro's `safe_log` in a form that torch.func can transform, with equal results."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return log x."""
        return x.log()

    @staticmethod
    def setup_context(
        ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor], output: Tensor
    ) -> None:
        """Keep x for the gradient."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        """Return grad / max(x, eps)."""
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad / x.clamp(min=torch.finfo(x.dtype).eps)


@contextmanager
def vmappable() -> Iterator[None]:
    """Replace what torch.func cannot map in Pyro; disable value-dependent validation."""
    before = torch_log.safe_log
    torch_log.safe_log = _SafeLog.apply
    try:
        with pyro.validation_enabled(False), silent_fallbacks():
            yield
    finally:
        torch_log.safe_log = before
