"""`zoo bench`: time this project and its peers; write JSON, Markdown and a figure."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.run.store import strict_json
from benchmarks.speed.sides import MEASURES, PEERS, Settings, missing
from benchmarks.speed.worker import SINGLE_THREAD
from zoo.errors import UsageError

__all__ = ["bench"]

BESIDE = ("growth", "commands")


def bench(
    out: Path,
    quick: bool,
    peers: list[str] | None,
    only: list[str],
    pairs: int | None,
    cold: bool,
    page: Path | None,
) -> int:
    """Run the benchmark.

    `peers` None means those installed; an empty `only` means all eight entries, growth and
    commands. What `only` names (an entry, `growth`, `commands`) replaces its figures from an
    earlier run in the same folder.

    Raises:
        UsageError: an unknown entry or peer, or fewer than one pair.
    """
    os.environ.update(SINGLE_THREAD)
    from benchmarks.speed.merge import earlier, merge
    from benchmarks.speed.plot import draw
    from benchmarks.speed.runner import Bench, execute
    from benchmarks.speed.table import insert, markdown
    from benchmarks.speed.targets import TARGETS, find

    if pairs is not None and pairs < 1:
        raise UsageError(f"--pairs is {pairs}; accepted: at least 1.")
    targets = (
        tuple(find(name).name for name in only if name not in BESIDE) if only else tuple(TARGETS)
    )
    asked = [name for name in PEERS if not missing(name)] if peers is None else peers
    for name in asked:
        missing(name)
    sides = ("ours", "pyro", *(name for name in asked if name != "pyro"))
    if quick:
        settings = Settings(slice_seconds=0.2, slow_draws=100, slow_seconds=5.0, slow_runs=1)
        # one graph less to compile per entry
        measures = tuple(m for m in MEASURES if m != "svi_full_rank")
        plan = Bench(
            targets=targets,
            sides=sides,
            pairs=pairs or 3,
            settings=settings,
            measures=measures,
            cold=False,
            growth=(1_000, 100_000),
            commands=(),
            quick=True,
        )
    else:
        plan = Bench(
            targets=targets, sides=sides, pairs=pairs or 5, settings=Settings(), cold=cold
        )
    if only:
        plan = replace(
            plan,
            growth=plan.growth if "growth" in only else (),
            commands=plan.commands if "commands" in only else (),
        )
    before = earlier(out) if only else None
    out.mkdir(parents=True, exist_ok=True)
    document = execute(
        plan, out / "logs", lambda line: print(f"zoo: {line}", file=sys.stderr, flush=True)
    )
    document = document if before is None else merge(before, document)
    text = markdown(document)
    (out / "bench.json").write_text(strict_json(document) + "\n", encoding="utf8")
    (out / "bench.md").write_text(text, encoding="utf8")
    draw(document, out / "bench.svg")
    if page is not None:
        insert(page, f"![Ratios and growth]({page.stem}.svg)\n\n{text}")
        draw(document, page.with_suffix(".svg"))
    print(text)
    return 0
