import importlib
import subprocess
import sys

import pytest

import zoo
from zoo import registry
from zoo.errors import UnknownNameError, UsageError
from zoo.registry import entries
from zoo.user_models.scaffold import new_model

MODEL = """
import pyro, pyro.distributions as dist, torch
from zoo import Data, ModelEntry, Quantity
from zoo.quantities import site
def build(data, k=1):
    def program(y=None):
        return pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)
    return program
def make_data(seed, k=1):
    return Data(train={"y": torch.zeros(())}, observed=("y",))
def entry(name):
    return ModelEntry(name=name, title="t", make_data=make_data, build=build,
        quantities={"z": Quantity(fn=site("z"))}, reference="nuts", options={"k": 1})
"""


def write(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(MODEL + text if "ENTR" in text else text, encoding="utf-8")
    return path


def refused(request_, match, kind=UsageError):
    with pytest.raises(kind, match=match) as caught:
        zoo.load(str(request_))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


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


# -- plug-ins ----------------------------------------------------------------------------------


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """Install plug-ins by their metadata: `plugins(dist, {name: target}, {module: text})`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = []

    def install(distribution, points, files):
        folder = tmp_path / f"{distribution}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        lines = [f"[{registry.GROUP}]", *(f"{k} = {v}" for k, v in points.items())]
        (folder / "entry_points.txt").write_text("\n".join(lines))
        for module, text in files.items():
            write(tmp_path, text, f"{module}.py")
            modules.append(module)
        importlib.invalidate_caches()

    yield install
    for module in modules:
        sys.modules.pop(module, None)


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


# -- files -------------------------------------------------------------------------------------


def test_files_of_the_same_stem_do_not_collide(tmp_path):
    paths = []
    for folder, name in (("a", "first"), ("b", "second")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "helper.py").write_text(f"NAME = {name!r}\n")
        paths.append(write(tmp_path / folder, "import helper\nENTRY = entry(helper.NAME)"))
    before = set(sys.modules)
    assert [zoo.load(str(p)).name for p in (*paths, *paths)] == ["first", "second"] * 2
    assert not {m for m in set(sys.modules) - before if not m.startswith("zoo_file_")}
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


# -- scaffold ----------------------------------------------------------------------------------


def test_a_new_model_loads_and_is_never_overwritten(tmp_path):
    path = new_model("my_first_model", tmp_path)
    assert zoo.load(str(path)).name == "my_first_model"
    text = path.read_text()
    with pytest.raises(UsageError, match="exists already"):
        new_model("my_first_model", tmp_path)
    assert path.read_text() == text
    assert [p.name for p in tmp_path.iterdir() if p.suffix] == ["my_first_model.py"]


@pytest.mark.parametrize("name", ["../x", "a b", "class", "", "x" * 70, 'a"""', "{{ 1 }}"])
def test_bad_names_of_new_models(tmp_path, name):
    with pytest.raises(UsageError, match="not accepted"):
        new_model(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_for_a_new_model(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        new_model("fine", tmp_path / "gone")


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
