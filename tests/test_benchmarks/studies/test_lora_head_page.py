"""The first table of the page of the digits: criteria that are met, missed or open."""

from benchmarks.studies.lora_head import render


def test_a_criterion_is_met_missed_or_open(monkeypatch):
    bars = [("one", "0.1", True), ("two", "0.9", False), ("three", "-", None)]
    monkeypatch.setattr(render, "bars", lambda rows: bars)
    lines = render.page([]).splitlines()
    at = lines.index("| criterion | measured | |")
    assert lines[at + 2 : at + 5] == [
        "| one | 0.1 | met |",
        "| two | 0.9 | **missed** |",
        "| three | - | open |",
    ]
