"""Numbers as text, with no more digits than their standard error warrants."""

from __future__ import annotations

from math import floor, isfinite, log10

__all__ = ["digits_for", "rounded", "value_with_error"]

MOST_DECIMALS = 4


def digits_for(se: float) -> int:
    """Return the decimals for a standard error: one digit, two if the first digit is 1.

    At most four decimals; sentences and tables both use this rule, so that they show one number.
    """
    exponent = floor(log10(se))
    return max(0, min(MOST_DECIMALS, -exponent + (1 if se / 10**exponent < 2 else 0)))


def rounded(value: float, se: float, *, sign: bool = False) -> str:
    """Round a number to the digits of its error; an exact number gets three significant digits."""
    if not isfinite(value):
        return "not finite"
    decimals = digits_for(se) if se > 0 and isfinite(se) else _digits_of(value)
    shown = value if round(value, decimals) else 0.0  # never "-0.00"
    return f"{shown:{'+' if sign else ''}.{decimals}f}"


def _digits_of(value: float) -> int:
    """Return the decimals that show three significant digits of an exact number."""
    return min(max(0, 2 - floor(log10(abs(value)))), MOST_DECIMALS) if value else 0


def value_with_error(value: float, se: float, *, sign: bool = False) -> str:
    """Return `0.25 +- 0.03`; no error for an exact value."""
    if not (se > 0 and isfinite(se)):
        return rounded(value, 0.0, sign=sign)
    decimals = digits_for(se)
    return f"{rounded(value, se, sign=sign)} +- {max(se, 10.0**-decimals):.{decimals}f}"
