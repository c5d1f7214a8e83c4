"""Native code is loaded only from files that nobody else can write."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.compiler import cache

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    place = tmp_path / "compiled"
    place.mkdir(mode=0o700)
    return place


def put(folder, content=b"library"):
    return cache.store("k", lambda path: str(Path(path).write_bytes(content) and path), ".so")


def test_a_file_comes_back(folder):
    assert put(folder) == folder / "k.so"
    assert cache.find("k", ".so") == folder / "k.so"


def test_a_folder_of_ours_that_others_can_write_is_closed(folder):
    folder.chmod(0o777)
    assert cache.directory() == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_that_others_can_write_is_not_loaded(folder):
    put(folder)
    (folder / "k.so").chmod(0o666)
    assert cache.find("k", ".so") is None


def test_a_folder_of_another_user_is_not_used(folder, monkeypatch, caplog):
    """Anyone can make the folder first where the cache is shared, and put libraries into it."""
    put(folder)
    me = os.geteuid()
    cache._temporary.cache_clear()
    monkeypatch.setattr(cache.os, "geteuid", lambda: me + 1)
    place = cache.directory()
    assert place != folder
    assert cache.directory() == place
    assert cache.find("k", ".so") is None
    said = [r.getMessage() for r in caplog.records if "belongs to another user" in r.getMessage()]
    assert len(said) == 1
    cache._temporary.cache_clear()


def test_a_link_is_not_followed(tmp_path, folder, monkeypatch):
    cache._temporary.cache_clear()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert cache.directory() != folder
    cache._temporary.cache_clear()


@pytest.mark.parametrize("chosen", [None, "default", "own"])
def test_the_files_of_inductor_are_private(tmp_path, chosen):
    """Its default folder in the temporary one can be made by any user."""
    environment = {**os.environ, "ZOO_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    code = "import json, os; import zoo.compiler.cache; print(json.dumps(dict(os.environ)))"
    if chosen == "default":  # torch sets it as soon as something is traced
        code = (
            "from torch._inductor.runtime.cache_dir_utils import cache_dir; cache_dir(); " + code
        )
    if chosen == "own":
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "mine")
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)["TORCHINDUCTOR_CACHE_DIR"]
    assert found == str(tmp_path / ("mine" if chosen == "own" else "inductor"))
