"""The file of a new model."""

import pytest

import zoo
from zoo.errors import InfrastructureError, UsageError, ZooError, command_line
from zoo.user_models import scaffold
from zoo.user_models.scaffold import new_model


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


# -- the sentences -------------------------------------------------------------------------------


def said(*given):
    with pytest.raises(ZooError) as caught:
        new_model(*given)
    return str(caught.value)


def test_the_title_of_a_new_model_is_its_name_in_words(tmp_path):
    path = new_model("my_first_model", tmp_path)
    assert path == tmp_path / "my_first_model.py"
    text = path.read_text(encoding="utf-8")
    assert "My first model" in text
    assert text.endswith("\n")
    assert "{{" not in text
    assert zoo.load(str(new_model("a_", tmp_path))).title.startswith("A")


@pytest.mark.parametrize("name", ["a", "a" * 64, "a1_"])
def test_the_shortest_and_the_longest_name(tmp_path, name):
    assert new_model(name, tmp_path).stem == name


@pytest.mark.parametrize("name", ["class", "a" * 65, "1a", "_a", "A", None])
def test_a_name_that_is_not_accepted_is_shown(tmp_path, name):
    assert said(name, tmp_path) == (
        f"Model name {name!r} is not accepted: use [a-z][a-z0-9_]*, at most 64 characters, no word"
        " of Python."
    )


def test_a_name_is_shown_up_to_eighty_characters(tmp_path):
    assert said("A" * 200, tmp_path).startswith(f"Model name '{'A' * 79} is not accepted")


def test_the_cure_is_spelled_as_the_caller_writes_it(tmp_path):
    gone = tmp_path / "gone"
    start = f"Folder {str(gone)!r} does not exist; make it first, or choose another with"
    assert said("fine", gone) == f"{start} directory=."
    with command_line():
        assert said("fine", gone) == f"{start} --dir."


def test_an_existing_file_is_not_changed(tmp_path):
    path = new_model("fine", tmp_path)
    path.write_text("mine")
    assert said("fine", tmp_path) == (
        f"File {str(path)!r} exists already and is not changed; choose another name or folder."
    )
    assert path.read_text() == "mine"


def test_a_folder_that_cannot_be_written_to_is_no_fault_of_the_request(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scaffold, "written", full)
    path = tmp_path / "fine.py"
    with pytest.raises(InfrastructureError) as caught:
        new_model("fine", tmp_path)
    assert str(caught.value) == (
        f"Cannot write {str(path)!r} (No space left on device); choose a writable folder with"
        " directory=."
    )


def test_a_new_model_is_made_here_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert new_model("here").is_file()
    assert (tmp_path / "here.py").is_file()
