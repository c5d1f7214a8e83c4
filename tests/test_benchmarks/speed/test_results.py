"""Ratios of hand-written speeds, and every bar at its limit, just above and just below it."""

import math

import pytest

from benchmarks.speed.results import Bar, bars, pair_ratios, ratios, speeds


def side(nuts=(), **measures):
    """Seconds of every measure, and (ESS per second, seconds per gradient) of NUTS runs."""
    rows = [{"ess_per_second": e, "seconds_per_gradient": g} for e, g in nuts]
    found = {name: [{"seconds": s} for s in seconds] for name, seconds in measures.items()}
    return {"nuts": rows, "measures": found}


def document(targets, **more):
    return {"targets": {name: {"sides": sides} for name, sides in targets.items()}, **more}


def bar(given, name):
    (found,) = [b for b in bars(given) if b.name == name]
    return found


def test_speeds_are_inverse_seconds_and_missing_draws_are_nan():
    given = side(nuts=[(4.0, 0.25), (None, None), (8.0, 0)], gradient=[0.5, 0.25])
    assert speeds(given, "gradient") == [2.0, 4.0]
    assert speeds(given, "batch") == []
    assert speeds({}, "gradient") == speeds({}, "nuts") == speeds({}, "nuts_gradient") == []
    first, second, third = speeds(given, "nuts")
    assert (first, third) == (4.0, 8.0)
    assert math.isnan(second)
    assert speeds(given, "nuts_gradient") == [4.0]


def test_pairs_need_figures_on_both_sides_and_draws_of_the_peer():
    nan, inf = math.nan, math.inf
    assert pair_ratios([8.0, 0.0, nan, 6.0, inf], [2.0, 5.0, 1.0, nan, 1.0]) == [4.0, 0.0]
    assert pair_ratios([8.0, 8.0, 8.0], [0.0, -1.0, 0.5]) == [16.0]
    assert pair_ratios([1.0, 2.0, 3.0], [1.0]) == [1.0]
    assert pair_ratios([3.0, 1.0], [2.0, inf]) == [1.5]


def test_ratios_are_ordered_by_entry_measure_and_peer():
    ours = side(gradient=[1.0, 1.0, 1.0], batch=[2.0])
    peer = side(gradient=[3.0, 9.0, 4.0], batch=[1.0])
    found = ratios(
        document({"a": {"ours": ours, "pyro": peer, "stan": side()}, "b": {"pyro": peer}}),
        ("batch", "gradient"),
    )
    assert [(r.target, r.measure, r.peer) for r in found] == [
        ("a", "batch", "pyro"),
        ("a", "gradient", "pyro"),
    ]
    assert [(r.median, r.low, r.high, r.pairs) for r in found] == [
        (0.5, 0.5, 0.5, 1),
        (4, 3, 9, 3),
    ]


def test_a_run_that_measured_nothing_has_every_bar_unmeasured():
    found = bars(document({}))
    assert [(b.name, b.asked, b.measured, b.met) for b in found] == [
        ("SVI steps/s over stock Pyro, eager step < 3 ms", ">= 20x each", "no such entry", None),
        ("SVI steps/s over stock Pyro, eager step >= 3 ms", ">= 3x each", "no such entry", None),
        ("SVI steps/s over NumPyro", "median >= 2x, never < 1x", "not measured", None),
        *(
            (
                f"NUTS minimum bulk ESS/s over {peer}",
                f"median >= {least}x, never < 0.7x",
                "not measured",
                None,
            )
            for peer, least in (("pyro", 20), ("numpyro", 4), ("stan", 1.5), ("pymc", 1))
        ),
        ("time per gradient within NUTS over Stan's", "median <= 1.5", "not measured", None),
        ("four chains on two cores over one chain", ">= 1.8x throughput", "not measured", None),
        ("zoo compare eight_schools, empty cache", "<= 60 s", "not measured", None),
        ("zoo compare eight_schools, warm", "<= 15 s", "not measured", None),
        ("make report, empty cache", "<= 180 s", "not measured", None),
        ("make report, warm", "<= 180 s", "not measured", None),
        ("growth of the gradient with the rows", "linear: exponent <= 1.1", "not measured", None),
        (
            "growth of a minibatch SVI step",
            "none: largest over smallest <= 1.3",
            "not measured",
            None,
        ),
    ]


@pytest.mark.parametrize(
    ("eager", "ours", "fast", "met"),
    [(2e-3, 1e-4, True, True), (2e-3, 1.1e-4, True, False), (3e-3, 1e-3, False, True)],
)
def test_eager_steps_of_three_milliseconds_and_more_have_the_lower_bar(eager, ours, fast, met):
    given = document(
        {
            "a": {"ours": side(svi_mean_field=[ours]), "pyro": side(svi_mean_field=[eager])},
            "b": {"ours": side(svi_full_rank=[1.0]), "pyro": side(svi_full_rank=[2.8])},
        }
    )
    low = bar(given, "SVI steps/s over stock Pyro, eager step < 3 ms")
    high = bar(given, "SVI steps/s over stock Pyro, eager step >= 3 ms")
    assert low.met is (met if fast else None)
    assert high.met is False
    text = f"{eager / ours:.1f}"
    if fast:
        assert low.measured == f"median {text}x of 1, worst {text}x (a, mean field)"
        assert high.measured == "median 2.8x of 1, worst 2.8x (b, full rank)"
    else:
        assert low.measured == "no such entry"
        assert high.measured == "median 2.9x of 2, worst 2.8x (b, full rank)"


def test_the_eager_limit_is_of_the_median_step():
    ours = side(svi_mean_field=[1e-4] * 3)
    peer = side(svi_mean_field=[1e-3, 4e-3, 5e-3])
    found = bar(
        document({"a": {"ours": ours, "pyro": peer}}),
        "SVI steps/s over stock Pyro, eager step >= 3 ms",
    )
    assert found.measured == "median 40.0x of 1, worst 40.0x (a, mean field)"
    assert found.met is True


@pytest.mark.parametrize(
    ("ratio_a", "ratio_b", "met"),
    [(3.0, 1.0, True), (3.1, 0.9, False), (2.8, 1.1, False), (2.0, 2.0, True)],
)
def test_numpyro_asks_for_a_median_of_two_and_never_below_one(ratio_a, ratio_b, met):
    given = document(
        {
            name: {"ours": side(svi_mean_field=[1.0]), "numpyro": side(svi_mean_field=[value])}
            for name, value in (("a", ratio_a), ("b", ratio_b))
        }
    )
    found = bar(given, "SVI steps/s over NumPyro")
    assert found.met is met
    middle, worst = (ratio_a + ratio_b) / 2, min(ratio_a, ratio_b)
    place = "b" if ratio_b < ratio_a else "a"
    assert found.measured == f"median {middle:.2g}x of 2, worst {worst:.2g}x ({place})"


@pytest.mark.parametrize(
    ("peer", "ess", "met"),
    [
        ("pyro", (20.0, 20.0), True),
        ("pyro", (19.0, 20.0), False),
        ("numpyro", (4.0, 4.0), True),
        ("stan", (2.4, 0.6), False),
        ("stan", (2.3, 0.7), True),
        ("pymc", (1.3, 0.7), True),
        ("pymc", (1.2, 0.7), False),
    ],
)
def test_nuts_bars_are_of_median_and_worst_entry(peer, ess, met):
    given = document(
        {
            name: {"ours": side(nuts=[(value, 1.0)]), peer: side(nuts=[(1.0, None)])}
            for name, value in zip("ab", ess, strict=True)
        }
    )
    found = bar(given, f"NUTS minimum bulk ESS/s over {peer}")
    assert found.met is met
    others = [b.met for b in bars(given) if b.name.startswith("NUTS") and b != found]
    assert others == [None] * 3


@pytest.mark.parametrize(
    ("over", "met"), [((1.0, 2.0), True), ((1.2, 1.9), False), ((0.5, 2.5), True)]
)
def test_the_gradient_of_nuts_is_compared_with_stans_in_time(over, met):
    given = document(
        {
            name: {
                "ours": side(nuts=[(1.0, value)]),
                "stan": side(nuts=[(1.0, 1.0)]),
                "pyro": side(nuts=[(1.0, 50.0)]),
            }
            for name, value in zip("ab", over, strict=True)
        }
    )
    found = bar(given, "time per gradient within NUTS over Stan's")
    assert found == Bar(
        name="time per gradient within NUTS over Stan's",
        asked="median <= 1.5",
        measured=f"median {sum(over) / 2:.2f}, worst {max(over):.2f}",
        met=met,
    )


LIMITS = {
    "compare_cold": ("zoo compare eight_schools, empty cache", 60.0),
    "compare_warm": ("zoo compare eight_schools, warm", 15.0),
    "report_cold": ("make report, empty cache", 180.0),
    "report_warm": ("make report, warm", 180.0),
}


@pytest.mark.parametrize("key", LIMITS)
def test_a_command_may_take_its_limit_and_no_more(key):
    name, limit = LIMITS[key]
    at = bar(document({}, commands={key: limit}), name)
    assert (at.measured, at.met) == (f"{limit:.1f} s", True)
    over = bar(document({}, commands={key: limit + 0.1}), name)
    assert (over.measured, over.met) == (f"{limit + 0.1:.1f} s", False)


def test_only_warm_commands_tell_their_second_run():
    done = {"compare_cold": 9.0, "compare_second": 7.0, "compare_warm": 3.0}
    given = document({}, commands=done)
    assert bar(given, "zoo compare eight_schools, warm").measured == "3.0 s (second run 7.0 s)"
    assert bar(given, "zoo compare eight_schools, empty cache").measured == "9.0 s"


@pytest.mark.parametrize(("gain", "met"), [(1.8, True), (1.79, False)])
def test_four_chains_gain_at_least_the_bar(gain, met):
    found = bar(
        document({}, commands={"chains_gain": gain}), "four chains on two cores over one chain"
    )
    assert (found.measured, found.met) == (f"{gain:.2f}x", met)


def test_growth_is_the_slope_of_the_two_largest_sizes():
    """log(8e-3 / 2e-3) / log(10,000 / 1,000) = log 4 / log 10 = 0.60, whatever row is first."""
    rows = [
        {"rows": 10, "gradient": 1e-9, "svi_mean_field": 2.0},
        {"rows": 1_000, "gradient": 2e-3, "svi_mean_field": 2.6},
        {"rows": 10_000, "gradient": 8e-3},
    ]
    gradient, step = bars(document({}, growth=rows))[-2:]
    assert (gradient.measured, gradient.met) == ("exponent 0.60 from 1,000 to 10,000 rows", True)
    assert (step.measured, step.met) == ("1.30", True)
    steep = [{"rows": 10, "gradient": 1.0}, {"rows": 100, "gradient": 10**1.11}]
    assert bars(document({}, growth=steep))[-2].met is False
    steps = [{"rows": n, "svi_mean_field": s} for n, s in ((1, 1.0), (2, 1.31))]
    assert bars(document({}, growth=steps))[-1].met is False
    assert bars(document({}, growth=steps))[-2].met is None
    assert [b.met for b in bars(document({}, growth=rows[:1]))[-2:]] == [None, None]
