"""Numbers as text, with no more digits than their standard error warrants."""

from __future__ import annotations

from math import floor, isfinite, log10

__all__ = ["rounded", "value_with_error"]

MOST_DECIMALS = 4


def rounded(value: float, se: float, *, sign: bool = False) -> str:
    """Round a number to the first significant digit of its error.

    An exact number gets three significant digits.
    """
    if not isfinite(value):
        return "not finite"
    if se > 0 and isfinite(se):
        decimals = min(max(0, -floor(log10(se))), MOST_DECIMALS)
    else:
        decimals = min(max(0, 2 - floor(log10(abs(value)))), MOST_DECIMALS) if value else 0
    shown = value if round(value, decimals) else 0.0  # never "-0.00"
    return f"{shown:{'+' if sign else ''}.{decimals}f}"


def value_with_error(value: float, se: float, *, sign: bool = False) -> str:
    """Return `0.25 +- 0.03`, the error to one significant digit; no error for an exact value."""
    if not (se > 0 and isfinite(se)):
        return rounded(value, 0.0, sign=sign)
    decimals = min(max(0, -floor(log10(se))), MOST_DECIMALS)
    return f"{rounded(value, se, sign=sign)} +- {max(se, 10.0**-decimals):.{decimals}f}"
