"""Entries of a model file: every fault is one sentence, and nothing stays behind."""

import sys
from types import SimpleNamespace

import pytest
import torch
from support.model_files import refused, write

import zoo
from zoo import registry
from zoo.errors import UnknownNameError, UsageError
from zoo.user_models import model_file


def test_files_of_the_same_stem_do_not_collide(tmp_path):
    paths = []
    for folder, name in (("a", "first"), ("b", "second")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "helper.py").write_text(f"NAME = {name!r}\n")
        paths.append(write(tmp_path / folder, "import helper\nENTRY = entry(helper.NAME)"))
    assert [zoo.load(str(p)).name for p in (*paths, *paths)] == ["first", "second"] * 2
    assert "helper" not in sys.modules
    assert str(tmp_path / "a") not in sys.path


def test_an_edited_file_is_read_anew(tmp_path):
    path = write(tmp_path, 'ENTRY = entry("before")')
    assert zoo.load(str(path)).name == "before"
    write(tmp_path, 'ENTRY = entry("after")')
    assert zoo.load(str(path)).name == "after"


def test_one_of_several_entries_of_a_file(tmp_path):
    path = write(tmp_path, 'ENTRIES = (entry("one"), entry("two"))')
    assert zoo.load(f"{path}:two[k=4]").settings == {"k": 4}
    refused(path, "choose one: .*mine.py:one")
    refused(f"{path}:tow", "did you mean 'two'", UnknownNameError)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x = 1\ny = = 2", "does not parse at line 2"),
        ("x = 1", "has no ENTRY"),
        ("x = 1\n\n1 / 0", "ZeroDivisionError at line 3"),
        ("import sys\nsys.exit(3)", "SystemExit at line 2"),
        ("import not_there_at_all", "ModuleNotFoundError at line 1"),
        ("ENTRY = 3", "ENTRY of mine.py is a int"),
        ('ENTRY = ModelEntry(name="a")', "TypeError at line"),
        ('ENTRY = entry("Not A Name")', "not accepted"),
    ],
)
def test_bad_files_are_one_sentence_with_the_line(tmp_path, text, match):
    before = set(sys.modules)
    refused(write(tmp_path, text), match)
    assert (
        not {m for m in set(sys.modules) - before if m.startswith("zoo_file_")}
        or "ENTRY = 3" in text
        or text == "x = 1"
    )


def test_missing_folders_and_bytes(tmp_path):
    refused(tmp_path / "gone.py", "does not exist")
    (tmp_path / "folder.py").mkdir()
    refused(tmp_path / "folder.py", "is a folder")
    refused("a\0b.py", "NUL")
    (tmp_path / "latin.py").write_bytes(b"x = '\xff'")
    refused(tmp_path / "latin.py", "cannot be read")


def test_a_file_in_a_folder_whose_path_looks_like_a_name_is_a_file(tmp_path, monkeypatch):
    """`models/m.py` has the form of an entry of posteriordb."""
    (tmp_path / "models").mkdir()
    source = (
        "import pyro, pyro.distributions as dist, zoo\n"
        "def program():\n"
        "    pyro.sample('x', dist.Normal(0.0, 1.0))\n"
        "ENTRY = zoo.from_program(program, {}, observed=())\n"
    )
    (tmp_path / "models" / "m.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    for request in ("models/m.py", "models/m.py:my_model"):
        registry.require(request)
        assert zoo.load(request).name == "my_model"
    with pytest.raises(UnknownNameError, match="Unknown entry 'models/m'"):
        registry.require("models/m")


# -- the sentences -------------------------------------------------------------------------------


def said(request):
    with pytest.raises(UsageError) as caught:
        model_file.load_file(str(request))
    return str(caught.value)


def test_a_path_that_is_no_file_is_refused(tmp_path):
    gone, folder = tmp_path / "gone.py", tmp_path / "folder.py"
    folder.mkdir()
    cure = "give the path of a .py file, or make one with `zoo new NAME`."
    assert said(gone) == f"Model file {str(gone)!r} does not exist; {cure}"
    assert said(f"{gone}:name") == f"Model file {str(gone)!r} does not exist; {cure}"
    assert said(folder) == f"Model file {str(folder)!r} is a folder; {cure}"


def test_a_path_with_a_nul_or_too_long_is_refused():
    sentence = "The path of the model file has a NUL character or is too long; give a .py file."
    assert said("a\0.py") == sentence
    assert said("a" * 4094 + ".py") == sentence
    whole = "a/" * 2046 + "b.py"  # 4,096 characters, more than Linux takes
    cure = "cannot be read: File name too long; give the path of a .py file."
    assert said(whole) == f"Model file 'b.py' {cure}"
    assert said("a" * 300 + ".py") == f"Model file '{'a' * 80}' {cure}"


def test_a_file_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, 'ENTRY = entry("at_home")')
    assert model_file.load_file("~/mine.py").name == "at_home"


def test_one_of_several_entries_must_be_chosen(tmp_path):
    path = write(tmp_path, 'ENTRIES = {"a": entry("one"), "b": entry("two")}\nx = "ENTRY"')
    assert said(path) == (
        f"Model file {str(path)!r} has 2 entries; choose one: {path}:one, {path}:two."
    )
    path = write(tmp_path, 'ENTRIES = [entry("one"), 3]\nENTRY = entry("first")')
    assert f"has 3 entries; choose one: {path}:first, {path}:one." in said(path)
    assert said(f"{path}:one") == (
        "ENTRY of mine.py is a int; accepted: a zoo.ModelEntry (zoo.from_program makes one)."
    )
    path = write(tmp_path, 'ENTRIES = [entry("only")]')
    assert model_file.load_file(str(path)).name == "only"
    with pytest.raises(
        UnknownNameError, match=r"Unknown entry of mine.py 'other'.*accepted: only"
    ):
        model_file.load_file(f"{path}:other")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1\ny = = 2", "Model file mine.py does not parse at line 2: invalid syntax."),
        (
            "x = 1",
            "mine.py has no ENTRY; end the file with ENTRY = zoo.from_program(program, data,"
            " name=...) (see docs/your_own_model.md).",
        ),
        (
            "def f():\n    raise ValueError('one.\\ntwo')\nf()",
            "Model file mine.py raises ValueError at line 2: one; fix the file.",
        ),
        ("raise ValueError", "Model file mine.py raises ValueError at line 1: ; fix the file."),
        (
            "import json\njson.loads('')",
            "Model file mine.py raises JSONDecodeError at line 2: Expecting value: line 1 column"
            " 1 (char 0); fix the file.",
        ),
    ],
)
def test_a_fault_of_a_file_is_this_sentence(tmp_path, text, sentence):
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    assert said(path) == sentence


def test_a_file_that_fails_leaves_the_module_of_an_earlier_load(tmp_path):
    path = write(tmp_path, 'ENTRY = entry("before")')
    entry = model_file.load_file(str(path))
    name = entry.build.__module__
    module = sys.modules[name]
    assert name.startswith("zoo_file_")
    assert len(name) == len("zoo_file_") + 16
    write(tmp_path, "1 / 0")
    said(path)
    assert sys.modules[name] is module
    del sys.modules[name]
    said(path)
    assert name not in sys.modules


def test_modules_of_the_folder_are_found_last_and_unloaded_again(tmp_path):
    """A file `json.py` beside the model does not hide that of Python."""
    (tmp_path / "json.py").write_text("raise SystemExit")
    (tmp_path / "beside_the_model.py").write_text("NAME = 'beside'")
    text = "import json, colorsys, beside_the_model\nENTRY = entry(beside_the_model.NAME)"
    sys.modules.pop("colorsys", None)
    before = list(sys.path)
    assert model_file.load_file(str(write(tmp_path, text))).name == "beside"
    assert sys.path == before
    assert "beside_the_model" not in sys.modules
    assert "colorsys" in sys.modules, "only modules of the folder are unloaded"


def test_what_loading_a_file_changes_is_put_back_and_told(tmp_path):
    text = (
        "torch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\n"
        'ENTRY = entry("dirty")'
    )
    entry = model_file.load_file(str(write(tmp_path, text)))
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert len(model_file.side_effects(entry)) == 2
    assert "dtype" in " ".join(model_file.side_effects(entry))
    clean = model_file.load_file(str(write(tmp_path, 'ENTRY = entry("clean")', "other.py")))
    assert model_file.side_effects(clean) == ()


def test_a_module_exports_an_entry_and_a_group():
    both = SimpleNamespace(ENTRY=1, ENTRIES=(2, 3))
    assert model_file.entries_of(both, "m") == [1, 2, 3]
    assert model_file.entries_of(SimpleNamespace(ENTRIES={"a": 2}), "m") == [2]
    assert model_file.entries_of(SimpleNamespace(ENTRY=None), "m") == [None]
    with pytest.raises(UsageError, match=r"^m has no ENTRY"):
        model_file.entries_of(SimpleNamespace(ENTRIES=()), "m")


def test_a_name_that_a_file_lacks_is_named(tmp_path):
    """`vae.py:NOPE` was told that the file has no ENTRY."""
    path = tmp_path / "mine.py"
    path.write_text("x = 1")
    with pytest.raises(UsageError, match=r"^mine\.py has no NOPE; end the file with ENTRY = zoo"):
        model_file.load_file(f"{path}:NOPE")
