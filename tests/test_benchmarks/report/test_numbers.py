"""Numbers of a report as a reader sees them, at the ends of every rule."""

import math

import pytest

from benchmarks.report.numbers import count, duration, plain, short_count, with_error

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    ("value", "se", "options", "text"),
    [
        (None, 0.1, {}, DASH),
        (math.nan, 0.1, {}, DASH),
        (math.inf, None, {}, DASH),
        (0.2512, 0.034, {}, "0.25 ± 0.03"),
        (0.2512, 0.014, {}, "0.251 ± 0.014"),
        (0.2512, 0.034, {"sign": True}, "+0.25 ± 0.03"),
        (0.2512, 0.034, {"times": True}, "×0.25 ± 0.03"),
        (-1234.5, 3.0, {}, f"{MINUS}1,234 ± 3"),
        (0.2512, None, {}, "0.251"),
        (0.2512, None, {"times": True}, "×0.251"),
        (0.2512, None, {"sign": True}, "+0.251"),
        (0.2512, math.inf, {}, "0.251"),
        (0.2512, math.nan, {}, "0.251"),
        (0.2512, 0.0, {}, "0.251"),
        (0.2512, -1.0, {}, "0.251"),
        # an error that four decimals would show as 0.0000
        (0.25123456, 0.000049, {}, "0.2512"),
        (0.25123456, 0.000049, {"times": True}, "×0.2512"),
        (0.25123456, 0.000051, {}, "0.2512 ± 0.0001"),
        (-0.00001, 0.03, {"sign": True}, "0.00 ± 0.03"),
    ],
)
def test_a_value_stands_before_its_error(value, se, options, text):
    assert with_error(value, se, **options) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, DASH),
        (math.nan, DASH),
        (0, "0"),
        (1.23456, "1.23"),
        (-1.23456, f"{MINUS}1.23"),
        (0.000123456, "0.000123"),
        (0.0000999, f"1.0e{MINUS}4"),  # its first two digits are rounded, not cut
        (0.0000994, f"9.9e{MINUS}5"),
        (0.0000123, f"1.2e{MINUS}5"),
        (123.456, "123"),
        (12345.6, "12,346"),
        (999_999, "999,999"),
        (1_000_000, "1.0e6"),
        (-2_340_000, f"{MINUS}2.3e6"),
        (9_960_000, "1.0e7"),
    ],
)
def test_a_number_without_an_error_has_three_digits_and_a_power_if_far_from_one(value, text):
    assert plain(value) == text


def test_other_digits_and_signs_can_be_asked_for():
    assert plain(1.23456, 2) == "1.2"
    assert plain(1.23456, 5) == "1.2346"
    assert plain(1.23456, 2, sign=True) == "+1.2"
    assert plain(1.5e7, 2, sign=True) == "+1.5e7"
    assert plain(0, sign=True) == "0"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, DASH), (math.inf, DASH), (0, "0"), (999.6, "1,000"), (1234567, "1,234,567")],
)
def test_a_count_has_separators(value, text):
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (1, "1"),
        (1.5, "1.5"),  # a tick of a short axis, beside that at 2
        (2, "2"),
        (9.96, "9.96"),
        (11.6, "12"),
        (950, "950"),
        (999, "999"),
        (999.4, "999"),
        (999.6, "1.0k"),
        (1000, "1k"),
        (1500, "1.5k"),
        (9900, "9.9k"),
        (9940, "9.9k"),
        (9960, "10k"),
        (10_000, "10k"),
        (12_400, "12k"),
        (999_400, "999k"),
        (999_600, "1.0M"),
        (3_400_000, "3.4M"),
        (2_000_000_000, "2G"),
        (-3_400, "-3.4k"),
    ],
)
def test_a_short_count_has_at_most_four_characters(value, text):
    assert short_count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, DASH),
        (math.nan, DASH),
        (0.0123, "12 ms"),
        (0.0994, "99 ms"),
        (0.1, "0.1 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (119.4, "119 s"),
        (120, "2 min 0 s"),
        (150.6, "2 min 31 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (7380, "2 h 3 min"),
    ],
)
def test_a_duration_is_in_the_unit_of_its_size(seconds, text):
    assert duration(seconds) == text
