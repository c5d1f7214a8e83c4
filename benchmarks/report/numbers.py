"""Numbers as text, with no more digits than their standard error warrants."""

from __future__ import annotations

from math import floor, isfinite, log10

from benchmarks.metrics.numbers import MOST_DECIMALS, digits_for

__all__ = ["count", "duration", "plain", "short_count", "with_error"]

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
TINY = 0.5 * 10.0**-MOST_DECIMALS


def with_error(
    value: float | None, se: float | None = None, *, sign: bool = False, times: bool = False
) -> str:
    """Format `value ± se` with the digits of `digits_for(se)`; three digits without an error."""
    if value is None or not isfinite(value):
        return DASH
    mark = "×" if times else ""
    if se is None or not isfinite(se) or se <= 0:
        return mark + plain(value, sign=sign)
    if se < TINY:  # exact for the purposes of a report
        return mark + _fixed(value, MOST_DECIMALS, sign)
    decimals = digits_for(se)
    return f"{mark}{_fixed(value, decimals, sign)} ± {_fixed(se, decimals, False)}"


def plain(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """Format a number without an error to a number of significant digits."""
    if value is None or not isfinite(value):
        return DASH
    if value == 0:
        return "0"
    exponent = floor(log10(abs(value)))
    if exponent >= 6 or exponent < -4:
        exponent = int(f"{value:.1e}".partition("e")[2])  # 9.99e-5 is 1.0e-4, not 10.0e-5
        mantissa = _fixed(value / 10**exponent, 1, sign)
        return f"{mantissa}e{str(exponent).replace('-', MINUS)}"
    return _fixed(value, max(0, digits - 1 - exponent), sign)


def _fixed(value: float, decimals: int, sign: bool) -> str:
    text = f"{value:{'+' if sign else ''},.{decimals}f}"
    if not any(c in "123456789" for c in text):
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def count(value: float | None) -> str:
    """Format a count with thousands separators."""
    return DASH if value is None or not isfinite(value) else f"{round(value):,}"


def short_count(value: float) -> str:
    """Format a count in at most four characters: 950, 12k, 3.4M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:  # what would be 1000 of the smaller unit
            scaled = value / size
            return (
                f"{scaled:.1f}" if scaled < 9.95 and scaled != round(scaled) else f"{scaled:.0f}"
            ) + suffix
    return f"{value:.0f}" if value >= 10 or value == round(value) else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Format seconds for a reader."""
    if seconds is None or not isfinite(seconds):
        return DASH
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
