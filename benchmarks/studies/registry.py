"""Studies by name, from the folders of `benchmarks/studies` and from plug-ins."""

from __future__ import annotations

from benchmarks.studies.record import Study
from zoo.errors import UnknownNameError
from zoo.registry.members import Members

__all__ = ["GROUP", "STUDIES", "load"]

GROUP = "posterior_zoo.studies"  # entry point: `my_study = "my_package.my_module:STUDY"`


STUDIES: Members[Study] = Members(
    Study,
    noun="study",
    group=GROUP,
    folders=("benchmarks.studies",),
    attribute="STUDY",
    file="study",
    accepted="benchmarks.studies.Study",
)


def load(name: str) -> Study:
    """Return a study by name.

    Raises:
        UnknownNameError: no such study.
        UsageError: a plug-in that cannot be loaded.
    """
    if name not in STUDIES:
        raise UnknownNameError("study", name, STUDIES, hint="`zoo study` lists them.")
    return STUDIES[name]
