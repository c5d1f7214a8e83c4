"""What measures the pages of `docs/results/`: one folder per study, each with a record `STUDY`.

`zoo study` lists them, `zoo study NAME` measures one and renders its page.
"""

from benchmarks.studies.record import Rendered, Study, Work

__all__ = ["Rendered", "Study", "Work"]
