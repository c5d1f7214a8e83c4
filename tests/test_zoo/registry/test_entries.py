"""Entries by name: built-in models, plug-ins, options in brackets."""

import ast
import dataclasses
import importlib
import subprocess
import sys

import pytest
from support.model_files import refused, write

import zoo
from zoo import registry
from zoo.errors import UnknownNameError, UsageError
from zoo.registry import entries

# -- own models --------------------------------------------------------------------------------


def test_every_listed_entry_loads_under_its_name():
    infos = zoo.catalog()
    assert {"coin", "eight_schools", "correlated_gaussian"} <= {i.name for i in infos}
    for info in infos:
        assert info.error is None
        entry = zoo.load(info.name)
        assert (entry.name, entry.title, entry.tags, entry.reference) == (
            info.name,
            info.title,
            info.tags,
            info.reference,
        )
    assert zoo.names() == sorted(i.name for i in infos)


def test_listing_imports_no_torch_and_no_model():
    code = (
        "import sys, zoo; assert zoo.names(); bad = {'torch', 'pyro', 'zoo.models.conjugate.coin'}"
        " & set(sys.modules); sys.exit(bool(bad))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_options_in_brackets_and_as_arguments():
    assert (
        zoo.load("correlated_gaussian[d=5, rho=0.5]").key
        == zoo.load("correlated_gaussian", d=5, rho=0.5).key
    )
    assert zoo.load("correlated_gaussian[d=5]").settings["d"] == 5
    assert zoo.load("correlated_gaussian[]").key == "correlated_gaussian"
    with pytest.raises(UsageError, match="brackets and as an argument"):
        zoo.load("correlated_gaussian[d=5]", d=5)
    refused("correlated_gaussian[dd=5]", "did you mean 'd'", UnknownNameError)
    refused("correlated_gaussian[d=five]", "type int")
    refused("correlated_gaussian[d]", "option=value")
    refused("correlated_gaussian[d=5,d=6]", "twice")
    refused("correlated_gaussian[d=5", "Cannot read")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "a\0b",
        "x" * 300,
        "Coin",
        "coin ",
        "cоin",
        "",
        "coin/../coin",
        "-h",
        "a[b]c",
    ],
)
def test_names_are_checked_before_any_path(name):
    if name.strip() == "coin":
        assert zoo.load(name).name == "coin"
    else:
        refused(name, "not accepted|Cannot read")


def test_a_near_miss_is_guessed():
    refused("eight_school", "did you mean 'eight_schools", UnknownNameError)


def test_a_file_that_changes_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(entries, "MODELS", tmp_path)
    for title in ("first", "second"):
        write(tmp_path, f'ENTRY = ModelEntry(name="mine", title="{title}")', "mine.py")
        assert [i.title for i in registry.catalog() if i.name == "mine"] == [title]


def test_broken_own_models_are_listed_with_their_error(tmp_path, monkeypatch):
    write(tmp_path, "x = = 1", "torn.py")
    write(tmp_path, "x = 1", "empty.py")
    write(
        tmp_path,
        'ENTRY = ModelEntry(name="fine", title="A title", tags=frozenset({"a"}),'
        ' reference="stored")',
        "fine.py",
    )
    write(tmp_path, 'NAMES = ("one", "two")\nENTRIES = [entry(n) for n in NAMES]', "many.py")
    monkeypatch.setattr(entries, "MODELS", tmp_path)
    infos = {i.name: i for i in registry.catalog()}
    assert "line 1" in infos["torn"].error
    assert "no ENTRY" in infos["empty"].error
    assert (infos["fine"].title, infos["fine"].tags, infos["fine"].reference) == (
        "A title",
        frozenset({"a"}),
        "stored",
    )
    assert registry.names() == ["fine", "one", "two"]
    refused("torn", "line 1")


# -- what is read without importing --------------------------------------------------------------


def scanned(tmp_path, text, name="some.py"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return entries._scan(path, "room.some", "theirs")


def test_a_card_is_read_from_its_literals(tmp_path):
    text = (
        'ENTRY = ModelEntry(name="one", title="The one", tags=frozenset({"a", "b"}),'
        ' reference="exact", options=dict(k=1), **more)\n'
    )
    assert scanned(tmp_path, text) == (
        entries.EntryInfo(
            name="one",
            title="The one",
            tags=frozenset({"a", "b"}),
            reference="exact",
            source="theirs",
            target="room.some:one",
        ),
    )


def test_what_is_computed_is_left_empty_and_the_name_is_that_of_the_file(tmp_path):
    for text in ("ENTRY = made()", "ENTRY = card", "ENTRY = ModelEntry(name=NAME, title=T())"):
        (info,) = scanned(tmp_path, text)
        assert info == entries.EntryInfo(name="some", source="theirs", target="room.some:some")


def test_an_entry_and_a_group_are_all_listed(tmp_path):
    text = (
        'ENTRY: ModelEntry = ModelEntry(name="one")\nUNSET: int\na.b = c[0] = 3\n'
        'ENTRIES = [ModelEntry(name="two"), ModelEntry(name="three", tags=["x"])]\n'
    )
    found = scanned(tmp_path, text)
    assert [(i.name, i.target) for i in found] == [
        ("one", "room.some:one"),
        ("two", "room.some:two"),
        ("three", "room.some:three"),
    ]
    assert found[2].tags == {"x"}
    assert [i.name for i in scanned(tmp_path, 'ENTRIES = (ModelEntry(name="four"),)')] == ["four"]


@pytest.mark.parametrize("text", ["x = 1", "ENTRIES = made()", "ENTRIES = []"])
def test_a_file_without_entries_says_so(tmp_path, text):
    (info,) = scanned(tmp_path, text)
    assert info.error == "some.py has no ENTRY; end the file with ENTRY = zoo.from_program(...)."
    assert (info.name, info.source, info.target) == ("some", "theirs", "room.some")


def test_a_module_of_many_entries_lists_their_names_and_what_they_share(tmp_path):
    text = (
        '"""About many.\n\nMore."""\nNAMES = {"one": "First", "two": "Second"}\n'
        'TAGS = frozenset({"t"})\nREFERENCE = "stored"\nENTRIES = [make(n) for n in NAMES]\n'
    )
    found = scanned(tmp_path, text)
    assert [(i.name, i.title, i.target) for i in found] == [
        ("one", "First", "room.some:one"),
        ("two", "Second", "room.some:two"),
    ]
    assert {(i.tags, i.reference, i.source) for i in found} == {
        (frozenset({"t"}), "stored", "theirs")
    }
    (alone,) = scanned(tmp_path, '"""About many.\n\nMore."""\nNAMES = tuple(["one"])')
    assert (alone.name, alone.title) == ("one", "About many.")
    assert (alone.tags, alone.reference) == (frozenset(), "")
    assert scanned(tmp_path, "NAMES = made()") == ()
    (bare,) = scanned(tmp_path, 'NAMES = ["one"]\nTAGS = made()\nREFERENCE = made()')
    assert (bare.title, bare.tags, bare.reference) == ("", frozenset(), "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': 1}", {"a": 1}),
        ("frozenset({'a'})", {"a"}),
        ("tuple(['a'])", ["a"]),
        ("set(('a',))", ("a",)),
        ("frozenset()", None),
        ("sorted(['a'])", None),
        ("a.frozenset({'a'})", None),
        ("name", None),
        ("{[]: 1}", None),
    ],
)
def test_a_literal_is_read_and_anything_else_is_nothing(text, value):
    assert entries._literal(ast.parse(text, mode="eval").body) == value


def test_a_file_that_cannot_be_read_says_why_and_where(tmp_path):
    assert scanned(tmp_path, "x = 1\ny = = 2")[0] == entries.EntryInfo(
        name="some",
        source="theirs",
        target="room.some",
        error="some.py cannot be read at line 2: invalid syntax",
    )
    (tmp_path / "latin.py").write_bytes(b"\xff")
    (latin,) = entries._scan(tmp_path / "latin.py", "room.latin", "zoo")
    assert latin.error.startswith("latin.py cannot be read: 'utf-8' codec can't decode")
    (gone,) = entries._scan(tmp_path / "gone.py", "room.gone", "zoo")
    assert gone.error.startswith("gone.py cannot be read: [Errno 2] No such file")


def test_the_first_line_of_an_error_is_its_message_or_its_kind():
    assert entries._first_line(ValueError("one\ntwo")) == "one"
    assert entries._first_line(ValueError()) == "ValueError"
    assert entries._first_line(SyntaxError("short", ("file", 3, 1, "text"))) == "short"


def test_a_long_text_is_cut_to_eighty_characters():
    assert entries._short("a" * 78) == repr("a" * 78)
    assert entries._short("a" * 79) == "'" + "a" * 76 + "...'"


def test_helpers_and_hidden_files_are_no_models(tmp_path, monkeypatch):
    monkeypatch.setattr(entries, "MODELS", tmp_path)
    (tmp_path / "kind").mkdir()
    for name in ("kind/mine.py", "kind/_shared.py", "__init__.py"):
        (tmp_path / name).write_text("ENTRY = made()", encoding="utf-8")
    (only,) = entries._own()
    assert (only.name, only.source, only.target) == ("mine", "zoo", "zoo.models.kind.mine:mine")


def test_the_catalog_is_sorted_with_the_zoo_before_others(tmp_path, monkeypatch):
    monkeypatch.setattr(entries, "MODELS", tmp_path)
    (tmp_path / "b.py").write_text("ENTRY = made()", encoding="utf-8")

    def plugins():
        for name, source in (("c", "late"), ("b", "early"), ("a", "z"), ("b", "alone")):
            yield entries.EntryInfo(name=name, source=source, target=f"{source}:E")

    monkeypatch.setattr(entries, "_plugins", plugins)
    listed = entries.catalog()
    assert [(i.name, i.source) for i in listed] == [
        ("a", "z"),
        ("b", "zoo"),
        ("b", "alone"),
        ("b", "early"),
        ("c", "late"),
    ]
    clash = (
        "Entry name 'b' is claimed by zoo (zoo.models.b:b) and alone (alone:E) and early"
        " (early:E); rename or remove one."
    )
    assert [i.error for i in listed] == [None, clash, clash, clash, None]
    assert registry.names() == ["a", "c"]


def test_a_deep_listing_has_what_the_entry_itself_says(plugins):
    text = 'name = "deep_one"\nENTRY = entry(name)'
    plugins("acme", {"deep_one": "deep_models:ENTRY"}, {"deep_models": text})
    shallow, deep = (
        next(i for i in zoo.catalog(deep=d) if i.name == "deep_one") for d in (False, True)
    )
    assert (shallow.title, shallow.reference) == ("", "")
    assert (deep.title, deep.reference, deep.error) == ("t", "nuts", None)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (
            {"Bad": "m:ENTRY"},
            "Plug-in name 'Bad' of acme is not accepted: use [a-z][a-z0-9_]*, at most 64"
            " characters.",
        ),
        (
            {"bad": "my module:ENTRY"},
            "Plug-in 'bad' of acme has the target 'my module:ENTRY'; accepted:"
            " my_package.my_module:ENTRY.",
        ),
        (
            {"bad": "gone.away:ENTRY"},
            "Plug-in 'bad' of acme points to module 'gone.away', which is not installed.",
        ),
    ],
)
def test_a_plug_in_that_cannot_be_found_is_one_sentence(plugins, points, said):
    plugins("acme", points, {})
    (info,) = (i for i in zoo.catalog() if i.source == "acme")
    assert info.error == said
    assert info.name == next(iter(points))
    assert info.target == next(iter(points.values()))


def test_a_plug_in_has_the_card_of_its_name_or_the_only_one(plugins, tmp_path):
    two = 'ENTRIES = (ModelEntry(name="a", title="A"), ModelEntry(name="b", title="B"))'
    one = 'ENTRY = ModelEntry(name="x", title="X")'
    points = {"b": "two:ENTRIES", "c": "two:ENTRIES", "d": "one:ENTRY", "e": "bare:make()"}
    plugins("acme", points, {"two": two, "one": one})
    (tmp_path / "bare.py").write_text("def make(): ...", encoding="utf-8")
    found = {i.name: i for i in zoo.catalog() if i.source == "acme"}
    assert [(n, found[n].title, found[n].target) for n in "bcde"] == [
        ("b", "B", "two:ENTRIES"),
        ("c", "", "two:ENTRIES"),
        ("d", "X", "one:ENTRY"),
        ("e", "", "bare:make()"),
    ]
    assert {i.error for i in found.values()} == {None}


def test_the_source_of_a_module_is_found_without_importing_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "outer" / "__init__.py").write_text("raise SystemExit")
    (tmp_path / "outer" / "inner" / "__init__.py").write_text("raise SystemExit")
    (tmp_path / "outer" / "inner" / "leaf.py").write_text("raise SystemExit")
    importlib.invalidate_caches()
    assert entries._find("outer.inner.leaf") == tmp_path / "outer" / "inner" / "leaf.py"
    assert entries._find("outer.inner") == tmp_path / "outer" / "inner" / "__init__.py"
    assert entries._find("outer.other") is None
    assert entries._find("outer.inner.leaf.more") is None
    assert entries._find("math") is None or entries._find("math").suffix == ".py"


# -- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("coin", ("coin", {})),
        (" coin ", ("coin", {})),
        ("coin[]", ("coin", {})),
        ("coin[ a = 1 , b=x=y,]", ("coin", {"a": "1", "b": "x=y"})),
        ("dir/a.py:name[k=2]", ("dir/a.py:name", {"k": "2"})),
    ],
)
def test_a_request_is_a_name_and_its_options(request_, expected):
    assert registry.parse(request_) == expected


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (
            "coin[a=1",
            "Cannot read 'coin[a=1'; accepted: NAME, NAME[option=value,...], FILE.py or"
            " FILE.py:NAME.",
        ),
        (3, "Cannot read 3; accepted: NAME, NAME[option=value,...], FILE.py or FILE.py:NAME."),
        ("coin[a]", "Cannot read option 'a' of 'coin'; write it as option=value."),
        ("coin[1a=2]", "Cannot read option '1a=2' of 'coin'; write it as option=value."),
        ("coin[a=]", "Cannot read option 'a=' of 'coin'; write it as option=value."),
        ("coin[a=1,a=2]", "Option 'a' of 'coin' is given twice; keep one."),
    ],
)
def test_a_request_that_cannot_be_read_is_refused(request_, said):
    with pytest.raises(UsageError) as caught:
        registry.parse(request_)
    assert str(caught.value) == said


def test_an_option_in_brackets_and_as_an_argument_is_refused():
    with pytest.raises(UsageError) as caught:
        zoo.load("correlated_gaussian[rho=0.5,d=5]", rho=0.5, d=5)
    assert str(caught.value) == "Option 'd' is given in brackets and as an argument; keep one."


@pytest.mark.parametrize("request_", ["coin", "coin[a=1]", "gone.py", "a.py:b", "No Name", "a[b"])
def test_what_exists_or_is_left_to_loading_is_not_refused(request_):
    assert registry.require(request_) is None


def test_a_name_that_does_not_exist_is_refused_before_loading(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for request_ in ("conx", "conx[a=1]"):
        with pytest.raises(UnknownNameError) as caught:
            registry.require(request_)
        assert str(caught.value).startswith("Unknown entry 'conx'")
        assert str(caught.value).endswith(" Run `zoo list` to see all.")


def test_a_model_file_of_this_name_or_near_it_is_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert entries._file_here("my_model") == ""
    (tmp_path / "my_model.py").touch()
    offer = " There is a model file 'my_model.py': to use it, write its name with .py."
    assert entries._file_here("my_model") == offer
    assert entries._file_here("my_modl") == offer
    assert entries._file_here("other") == ""
    assert entries._file_here("a\0") == ""
    assert entries._file_here("a" * 253) == ""
    with pytest.raises(UnknownNameError) as caught:
        zoo.load("my_modl")
    assert str(caught.value).endswith(offer)
    with pytest.raises(UsageError) as caught:
        zoo.load("My_Model")
    assert str(caught.value) == (
        "Entry name 'My_Model' is not accepted: use [a-z][a-z0-9_]*, at most 64 characters, or"
        f" the path of a .py file.{offer}"
    )


def test_the_longest_name_of_a_file_is_looked_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    longest = "a" * 252  # with its ending, 255 characters
    (tmp_path / f"{longest}.py").touch()
    assert entries._file_here(longest).startswith(" There is a model file 'aaa")


def test_an_entry_that_fails_on_import_names_its_owner(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "raising.py").write_text("raise ValueError('one\\ntwo')")
    importlib.invalidate_caches()
    for source, owner in (("zoo", "Model"), ("acme", "Plug-in of acme:")):
        info = entries.EntryInfo(name="m", source=source, target="raising:ENTRY")
        with pytest.raises(UsageError) as caught:
            entries._entry(info)
        assert str(caught.value) == f"{owner} 'm' fails on import: ValueError: one"


def test_what_the_catalog_tells_cannot_be_changed_by_a_reader():
    info = zoo.catalog()[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.error = "broken"
    assert len({info, dataclasses.replace(info)}) == 1
