"""Plug-ins as an installation puts them on the path."""

import importlib
import sys

import pytest
from support.model_files import write

from zoo import registry


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
