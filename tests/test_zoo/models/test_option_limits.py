"""Options of entries: the limits that an error states are accepted, what lies beyond is not."""

import re

import pytest

import zoo
from zoo.errors import UsageError

# entry, option, limits that are accepted, values beyond them
LIMITS = [
    ("correlated_gaussian", "d", (1, 2), (0, -1)),
    ("gaussian_mixture", "K", (2, 3), (1, 4)),
    ("gaussian_mixture_exact", "K", (2, 3), (1, 4)),
    ("gaussian_mixture_classes", "K", (2, 9), (1, 10)),
    ("latent_class", "K", (2, 9), (1, 10)),
    ("lda", "documents", (1,), (0,)),
    ("lda", "tokens", (1,), (0,)),
    ("lda", "side", (2, 10), (1, 11)),
    ("lda", "K", (2,), (1,)),
    ("lda", "alpha", (1e-3,), (0.0, -1.0)),
    ("lda", "beta", (1e-3,), (0.0, -1.0)),
    ("lda_digits", "documents", (4, 1797), (3, 1798)),
    ("lora_head", "rank", (1, 4), (0, 5)),
    ("lora_head", "labels", (16, 256), (15, 257)),
    ("vae", "latent", (1,), (0,)),
    ("vae", "hidden", (1,), (0,)),
    ("vae", "layers", (1,), (0,)),
    ("correlated_gaussian", "rho", (-0.99, 0.999), (-1.0, 1.0)),
]


def made(name, option, value):
    """Make data and program."""
    entry = zoo.load(name, **{option: value})
    return entry.program(entry.load_data())


@pytest.mark.parametrize(("name", "option", "good", "bad"), LIMITS)
def test_stated_limits_are_accepted_and_no_further_values(name, option, good, bad):
    for value in good:
        made(name, option, value)
    for value in bad:
        with pytest.raises(UsageError, match="accepted"):
            made(name, option, value)


RANGES = [row for row in LIMITS if len(row[2]) == 2 and row[1] not in ("d", "rho")]


@pytest.mark.parametrize(("name", "option", "good", "bad"), RANGES)
def test_an_error_states_the_limits_that_hold(name, option, good, bad):
    for value in bad:
        with pytest.raises(UsageError) as caught:
            made(name, option, value)
        told = str(caught.value).partition("accepted")[2].replace(",", "")
        assert [int(word) for word in re.findall(r"\d+", told)][:2] == list(good)
