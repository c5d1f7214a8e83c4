"""Studies, which measure the pages of `docs/results/`: one folder and `STUDY` record each.

`zoo study` lists them, `zoo study NAME` measures one and renders its page.
"""

from benchmarks.studies.record import Rendered, Study, Work

__all__ = ["Rendered", "Study", "Work"]
