"""Digits of numbers with errors, at the ends of every rule."""

import math

import pytest

from benchmarks.metrics.numbers import digits_for, rounded, value_with_error


@pytest.mark.parametrize(
    ("se", "decimals"),
    [
        (0.1, 2),  # the first digit is 1: two digits
        (0.199, 2),
        (0.2, 1),
        (0.99, 1),
        (1.0, 1),
        (1.99, 1),
        (2.0, 0),
        (15.0, 0),  # never 1 before the point
        (250.0, 0),
        (0.0021, 3),
        (0.0012, 4),
        (0.00021, 4),
        (0.00012, 4),  # at most four
        (1e-9, 4),
    ],
)
def test_an_error_has_one_digit_and_two_if_the_first_is_one(se, decimals):
    assert digits_for(se) == decimals


@pytest.mark.parametrize(
    ("value", "se", "sign", "text"),
    [
        (1.23456, 0.03, False, "1.23"),
        (1.23456, 0.03, True, "+1.23"),
        (-1.23456, 0.03, True, "-1.23"),
        (-0.004, 0.03, False, "0.00"),
        (-0.004, 0.03, True, "+0.00"),
        (-0.006, 0.03, False, "-0.01"),
        (0.123456, 0.0, False, "0.123"),  # exact: three digits
        (1.23456, 0.0, False, "1.23"),
        (12.3456, 0.0, False, "12.3"),
        (123.456, 0.0, False, "123"),
        (1234.56, 0.0, False, "1235"),
        (-0.0123456, 0.0, False, "-0.0123"),
        (0.00123456, 0.0, False, "0.0012"),  # at most four decimals
        (0.0, 0.0, False, "0"),
        (1.23456, math.inf, False, "1.23"),
        (1.23456, math.nan, False, "1.23"),
        (1.23456, -1.0, False, "1.23"),
        (math.inf, 0.1, False, "not finite"),
        (math.nan, 0.1, True, "not finite"),
    ],
)
def test_a_number_has_the_digits_of_its_error_or_three(value, se, sign, text):
    assert rounded(value, se, sign=sign) == text


@pytest.mark.parametrize(
    ("value", "se", "sign", "text"),
    [
        (0.2512, 0.034, False, "0.25 +- 0.03"),
        (0.2512, 0.034, True, "+0.25 +- 0.03"),
        (0.2512, 0.014, False, "0.251 +- 0.014"),
        (12.3, 4.0, False, "12 +- 4"),
        (0.5, 1e-7, False, "0.5000 +- 0.0001"),  # an error is never shown as zero
        (0.5, 0.0, False, "0.500"),
        (0.5, 0.0, True, "+0.500"),
        (0.5, math.inf, False, "0.500"),
    ],
)
def test_a_number_stands_before_its_error(value, se, sign, text):
    assert value_with_error(value, se, sign=sign) == text
