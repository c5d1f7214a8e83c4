"""Places of a series at which a model shows its latent function."""

import itertools

import zoo


def test_volatility_is_shown_in_every_second_year_of_the_whole_series():
    entry = zoo.load("stochastic_volatility")
    data = entry.load_data()
    when, shown = data.coords["quarter"], data.coords["shown"]
    places = [when.index(q) for q in shown]
    assert places[0] == 0
    assert len(when) - 8 <= places[-1] < len(when)
    dates = [tuple(map(int, q.split("q"))) for q in shown]
    for (year, quarter), (later, same) in itertools.pairwise(dates):
        assert (later - year, same) == (2, quarter)
