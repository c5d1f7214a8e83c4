"""Plug-ins are listed without being imported, and a broken one breaks nothing else."""

import sys

from support.model_files import refused

import zoo
from zoo.errors import UnknownNameError
from zoo.registry import entries


def test_a_plug_in_is_listed_lazily_and_loaded_on_use(plugins):
    plugins(
        "acme", {"acme_one": "acme_models:ENTRY"}, {"acme_models": 'ENTRY = entry("acme_one")'}
    )
    info = next(i for i in zoo.catalog() if i.name == "acme_one")
    assert (info.source, info.error) == ("acme", None)
    assert "acme_models" not in sys.modules
    assert zoo.load("acme_one[k=3]").settings == {"k": 3}


def test_a_broken_plug_in_breaks_nothing_else(plugins):
    files = {
        "raises": "import nowhere_to_be_found\nENTRY = 1",
        "torn_plugin": "x = = 1",
        "wrong": "ENTRY = 3",
        "other_name": 'ENTRY = entry("hers")',
    }
    points = {
        "malformed": "1 2 3",
        "raises": "raises:ENTRY",
        "torn": "torn_plugin:ENTRY",
        "gone": "not_installed.models:ENTRY",
        "wrong": "wrong:ENTRY",
    }
    plugins("acme", {**points, "Bad-Name": "raises:ENTRY", "his": "other_name"}, files)
    infos = {i.name: i for i in zoo.catalog()}
    assert (
        "has the target '1 2 3'; accepted: my_package.my_module:ENTRY" in infos["malformed"].error
    )
    refused("malformed", "1 2 3")
    assert "line 1" in infos["torn"].error
    assert "not installed" in infos["gone"].error
    assert "not accepted" in infos["Bad-Name"].error
    assert infos["raises"].error is None
    deep = {i.name: i for i in zoo.catalog(deep=True)}
    assert "ModuleNotFoundError" in deep["raises"].error
    assert deep["coin"].error is None
    refused("raises", "nowhere_to_be_found")
    refused("wrong", "ModelEntry")
    refused("his", "hers", UnknownNameError)
    assert zoo.load("coin").name == "coin"


def test_a_duplicate_name_is_an_error_naming_both_sources(plugins):
    plugins(
        "acme",
        {"coin": "acme_models:ENTRY", "twin": "acme_models:ENTRY"},
        {"acme_models": 'ENTRY = entry("coin")'},
    )
    plugins("bolt", {"twin": "bolt_models:ENTRY"}, {"bolt_models": 'ENTRY = entry("twin")'})
    refused("coin", r"zoo \(zoo.models.conjugate.coin:coin\) and acme \(acme_models:ENTRY\)")
    refused("twin", r"acme .* and bolt ")
    assert "eight_schools" in zoo.names()
    assert not {"coin", "twin"} & set(zoo.names())


def test_an_entry_point_names_one_of_several_entries(tmp_path, monkeypatch):
    module = tmp_path / "two_entries.py"
    module.write_text(
        "from dataclasses import replace\nimport zoo\n"
        "FIRST = zoo.load('coin')\nSECOND = replace(FIRST, name='second')\n"
        "ENTRIES = [FIRST, SECOND]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def entry(attribute):
        target = f"two_entries:{attribute}"
        return entries._entry(entries.EntryInfo(name="second", source="theirs", target=target))

    assert entry("SECOND").name == entry("ENTRIES").name == "second"
    assert entry("FIRST").name == "coin"  # it is asked for by its attribute, not by the name
