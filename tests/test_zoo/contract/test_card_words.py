"""Sentences of the checks of a card, of one and of several."""

from types import SimpleNamespace

import pytest

from zoo.contract.card import citation
from zoo.contract.subject import Skipped


@pytest.mark.parametrize(
    ("number", "said"), [(1, "Cites 1 source."), (2, "Cites 2 sources."), (3, "Cites 3 sources.")]
)
def test_sources_are_counted(number, said):
    subject = SimpleNamespace(entry=SimpleNamespace(cites=("Author (2020), title",) * number))
    assert citation(subject) == said


def test_a_card_without_a_source_is_advised_to_name_one():
    with pytest.raises(Skipped, match="cites nothing; add cites="):
        citation(SimpleNamespace(entry=SimpleNamespace(cites=())))
