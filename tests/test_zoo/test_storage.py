"""Digests of data: equal for equal content in every process, different otherwise."""

import dataclasses
import functools
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from zoo import storage
from zoo.storage import TEMPORARY, content, digest_of, write_whole, written


@dataclasses.dataclass
class Options:
    depth: int
    names: tuple = ()


class Plain:
    def __init__(self, value):
        self.value = value


class Slotted:
    __slots__ = ("value",)


def double(x):
    return 2 * x


def long(middle):
    x = np.zeros(5000)
    x[2500] = middle
    return x


def ring():
    x = Plain(1)
    x.itself = x
    return x


PAIRS = {
    "arrays": (long(0.0), long(1.0)),
    "tensors": (torch.from_numpy(long(0.0)), torch.from_numpy(long(1.0))),
    "shape": (np.zeros((2, 3)), np.zeros((3, 2))),
    "type": (np.zeros(2), np.zeros(2, dtype=np.int64)),
    "tensor type": (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
    "half precision": (torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
    "scalars": (torch.tensor(1.0), torch.tensor(2.0)),
    "text arrays": (np.array(["a", "b"], dtype=object), np.array(["a", "c"], dtype=object)),
    "frames": (pd.DataFrame({"a": [1.0, 2.0]}), pd.DataFrame({"b": [1.0, 2.0]})),
    "frame values": (pd.DataFrame({"a": [1.0, 2.0]}), pd.DataFrame({"a": [1.0, 3.0]})),
    "lists of arrays": ([np.zeros(2), np.ones(3)], [np.zeros(2), np.zeros(3)]),
    "where lists break": ([np.zeros(1), np.zeros(2)], [np.zeros(2), np.zeros(1)]),
    "dicts": ({"a": np.zeros(2), "b": 1}, {"a": np.zeros(2), "b": 2}),
    "objects": (Plain(1), Plain(2)),
    "dataclasses": (Options(1, (2,)), Options(1, (3,))),
    "networks": (torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)),
    "modes": (torch.nn.Linear(1, 1, bias=False).train(), torch.nn.Linear(1, 1, bias=False).eval()),
    "partials": (functools.partial(double, 1), functools.partial(double, 2)),
    "functions": (double, long),
    "plain values": (1, "1"),
    "rings": (ring(), Plain(1)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_other_content_is_another_digest(name):
    one, other = PAIRS[name]
    assert content(one) == content(one)
    assert content(one) != content(other)


def test_order_of_names_does_not_matter_and_names_do():
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"b": 1})
    assert content({"x": np.ones(1), "y": 2}) == content({"y": 2, "x": np.ones(1)})
    assert content({3, 1, 2}) == content({2, 3, 1})


def test_tensors_and_plain_values_keep_the_digest_of_earlier_files():
    """`guide.pt` of earlier versions stores this digest of its data."""
    x = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    expected = hashlib.sha256(
        b"n3" + b"x" + b"torch.float64(2, 3)" + x.numpy().tobytes()
    ).hexdigest()
    assert digest_of({"x": x, "n": 3}) == expected
    assert digest_of({"x": x.t().contiguous().t(), "n": 3}) == expected


def test_objects_without_a_stable_text_have_one_digest_in_every_process():
    code = (
        "import torch, zoo.storage as d\nclass Link:\n    def __call__(self, x): return"
        " x\nprint(d.digest_of({'link': Link(), 'f': lambda x: x, 'g': torch.Generator(), 'o':"
        " object()}))\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(said) == 1


def test_what_has_no_attributes_is_its_class():
    assert content(Slotted()) == content(Slotted())


# -- files -------------------------------------------------------------------------------------


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    with written(path) as place:
        place.write_text("half")
        assert not path.exists()
        place.write_text("whole")
    assert path.read_text() == "whole"

    def stopped():
        with written(path) as place:
            place.write_text("other")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped()
    assert path.read_text() == "whole"
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "missing" / "a", b"x")
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_never_replaces_another(tmp_path, monkeypatch, links):
    """Also where the file system has no hard links."""
    if not links:
        monkeypatch.setattr(
            "os.link",
            lambda *a: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted")),
        )
    path = tmp_path / "a.txt"
    with written(path, new=True) as place:
        place.write_text("mine")
    with pytest.raises(FileExistsError), written(path, new=True) as place:
        place.write_text("yours")
    assert path.read_text() == "mine"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644)])
def test_the_umask_decides_the_mode(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_nobody_elses_file_is_touched(tmp_path):
    (tmp_path / f"{TEMPORARY}abcdefgh").write_text("mine")
    write_whole(tmp_path / "a", b"x")
    assert names(tmp_path) == [f"{TEMPORARY}abcdefgh", "a"]


def test_one_module_writes_whole_files():
    """Temporary names and renames of files occur only in `zoo.storage`.

    Folders of cells, and builds of the compiler, have their own.
    """
    root = Path(__file__).parents[2]
    own = {
        "zoo/storage.py",
        "zoo/compiler/cache.py",
        "zoo/compiler/standalone.py",
        "benchmarks/run/store.py",
    }
    users = {
        p.relative_to(root).as_posix()
        for room in ("zoo", "guides", "benchmarks")
        for p in (root / room).rglob("*.py")
        if re.search(r"mkstemp|os\.replace\(|os\.rename\(", p.read_text(encoding="utf-8"))
    }
    assert users <= own


@pytest.mark.parametrize("home", ["/proc/1/none", None])
def test_a_home_that_cannot_be_written_is_replaced_by_a_temporary_folder(home, tmp_path):
    """Importing ArviZ makes a folder in the home; service accounts often have none."""
    code = (
        "import os; from zoo.storage import usable_cache_home; usable_cache_home();"
        " print(os.environ.get('XDG_CACHE_HOME', ''))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "XDG_CACHE_HOME"}
    environment["HOME"] = home or str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    place = done.stdout.strip()
    assert bool(place) == (home is not None)
    assert not place or not Path(place).exists()  # removed with the process


def test_a_cache_folder_that_exists_but_is_read_only_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(storage.os, "access", lambda path, mode: False)
    storage.usable_cache_home()
    assert os.environ["XDG_CACHE_HOME"] != str(tmp_path)
    assert Path(os.environ["XDG_CACHE_HOME"]).is_dir()
