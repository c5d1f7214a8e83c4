"""Every record that others may write rejects a field of a wrong type with one sentence."""

import dataclasses
from dataclasses import replace

import pytest

import guides
import zoo
from benchmarks.metrics.metric import METRICS
from benchmarks.report.section import SECTIONS
from benchmarks.studies.registry import STUDIES
from benchmarks.verdicts import VERDICTS
from guides.objectives.records import OBJECTIVES
from zoo.contract import structure
from zoo.errors import UsageError

COIN = zoo.load("coin")
RECORDS = {
    "family": guides.FAMILIES["mean_field"],
    "metric": METRICS["sd_ratio"],
    "distance": METRICS["c2st"],
    "verdict": VERDICTS["shifted"],
    "section": SECTIONS["story"],
    "study": STUDIES["posteriordb"],
    "rule": structure.CHECKS["runs"],
    "entry": COIN,
    "quantity": next(iter(COIN.quantities.values())),
    "data": COIN.load_data(),
    "config": guides.FitConfig(),
    **OBJECTIVES,
}


class Odd:
    """A value that no field accepts."""


@pytest.mark.parametrize(
    ("record", "field"),
    [(r, f.name) for r, record in RECORDS.items() for f in dataclasses.fields(record)],
)
def test_no_field_takes_any_value(record, field):
    for value in (Odd(), b"bytes", 1.5j):
        with pytest.raises(UsageError, match=rf"{field}.*accepted:"):
            replace(RECORDS[record], **{field: value})


@pytest.mark.parametrize(
    ("record", "fields", "says"),
    [
        ("section", {"order": "late"}, "'story' has order='late' .str.; accepted: a number"),
        ("section", {"tags": "classic"}, "tags='classic' .str.; accepted: a set of texts"),
        ("family", {"build": 3}, "Family 'mean_field' has build=3 .int.; accepted: a function"),
        ("family", {"richer": "full_rank"}, "accepted: a tuple of texts"),
        ("family", {"options": "abc"}, "accepted: a tuple of texts"),
        ("family", {"slot": 99}, "slot=99; accepted: 0 to 9"),
        ("family", {"slot": True}, "slot=True .bool.; accepted: an integer, or None"),
        ("family", {"defaults": {"steps": "many"}}, "defaults that fail: FitConfig has steps"),
        ("family", {"q": 3}, "Family 'mean_field' has q=3"),
        ("family", {"name": 3}, "Family has name=3"),
        ("metric", {"columns": "gap"}, "columns='gap' .str.; accepted: a tuple"),
        ("metric", {"compute": None}, "compute=None .NoneType.; accepted: a function"),
        ("metric", {"order": "x"}, "order='x'"),
        ("metric", {"order": float("nan")}, "order=nan"),
        ("metric", {"term": None}, "term=None"),
        ("distance", {"measure": 3}, "measure=3"),
        ("verdict", {"kind": "banana"}, "accepted: agreement, finding, unknown, failure"),
        ("verdict", {"severity": "high"}, "severity='high'"),
        ("verdict", {"ink": "#zzzzzz"}, "'#zzzzzz'; accepted: #rrggbb"),
        ("rule", {"body": 3}, "Rule 'runs' has body=3"),
        ("config", {"objective": 3}, "objective=3 .int.; accepted: a spec such as 'elbo'"),
        ("config", {"steps": 10.5}, "steps=10.5 .float.; accepted: an integer"),
        ("entry", {"quantities": {"x": 3}}, "accepted: a mapping of names to zoo.Quantity"),
        ("entry", {"dtype": "float64"}, "accepted: a torch dtype"),
    ],
)
def test_the_sentence_says_what_is_accepted(record, fields, says):
    with pytest.raises(UsageError, match=says):
        replace(RECORDS[record], **fields)


def test_a_list_is_stored_as_the_tuple_or_set_that_is_meant():
    assert replace(RECORDS["section"], tags=["classic"]).tags == frozenset({"classic"})
    assert replace(RECORDS["family"], richer=["full_rank"]).richer == ("full_rank",)
    assert replace(COIN, tags=["classic"], families=["laplace"]).families == ("laplace",)
