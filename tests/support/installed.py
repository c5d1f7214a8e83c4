"""A package with entry points on the path, as an installation would put it there."""

import importlib
import shutil
import sys


class Installed:
    """Adds files and entry points of a package `outsider` to the path; `close` removes them."""

    def __init__(self, folder, members):
        self.folder, self.members, self.modules = folder, members, []

    def __call__(self, *lines, package="outsider", **files):
        """Install modules by name and text, and entry points of the group of `members`.

        They replace earlier ones of the same package.
        """
        for name, text in files.items():
            (self.folder / f"{name}.py").write_text(text)
            self.modules.append(name)
        info = self.folder / f"{package}-1.0.dist-info"
        shutil.rmtree(info, ignore_errors=True)
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[{self.members.group}]\n" + "\n".join(lines) + "\n"
        )
        importlib.invalidate_caches()
        self.members.forget()

    def close(self):
        for name in self.modules:
            sys.modules.pop(name, None)
        self.members.forget()
