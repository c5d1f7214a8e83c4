"""Tables of `lora_head` beside its bars.

Small forms against their exact posterior, prior scale, cost, laplace-torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["GUIDES", "SECTIONS", "sections"]

GUIDES = ("laplace", "mean_field", "full_rank", "flow")  # compared with the exact evidence
Rows = Sequence[Mapping[str, Any]]


def truth(rows: Rows) -> list[str]:
    """Return the table of small forms: evidence by a grid, and NUTS and guides against it."""
    above = f"evidence above the ELBO of {', '.join(GUIDES)}"
    heads = ("form", "log evidence, nats", "NUTS to exact, total variation (floor)", above)
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---|"]
    for r in rows:
        gaps = [
            "–" if r["gaps"][f] is None else f"{r['gaps'][f][0]:.3f} ± {r['gaps'][f][1]:.3f}"
            for f in GUIDES
        ]
        evidence = f"{r['log_evidence']:.6f} ± {r['error']:.1g}"
        near = f"{r['distance']:.4f} ({r['floor']:.4f})"
        lines.append(
            f"| {r['form']}, rank {r['rank']} | {evidence} | {near} | {', '.join(gaps)} |"
        )
    return lines


def scale(rows: Rows) -> list[str]:
    """Return the evidence of the training labels over scales of the prior, a table per form."""
    lines = []
    for form in dict.fromkeys(r["form"] for r in rows):
        own = [r for r in rows if r["form"] == form]
        scales = own[0]["scales"]
        lines += [
            f"| {form}, s = | " + " | ".join(f"{s:g}" for s in scales) + " |",
            "|---" * (len(scales) + 1) + "|",
        ]
        lines += [
            f"| data seed {r['seed']} | " + " | ".join(map(_nats, r["nats"])) + " |" for r in own
        ]
        values = np.array([r["nats"] for r in own], dtype=float)
        lines += ["| mean | " + " | ".join(map(_nats, values.mean(0))) + " |", ""]
    return lines[:-1]


def _nats(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.1f}"


def cost(rows: Rows) -> list[str]:
    """Return the cost of a step of inference relative to one of plain training."""
    base = rows[0]
    lines = [
        "| | time, ms | ratio to plain | kept for backward, MB | ratio to plain | trained parameters |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        time, memory = r["milliseconds"], r["megabytes"]
        cells = (
            f"{time:.1f}",
            f"{time / base['milliseconds']:.2f}",
            f"{memory:.1f}",
            f"{memory / base['megabytes']:.2f}",
        )
        lines.append(f"| {r['name']} | {' | '.join(cells)} | {r['numbers']:,} |")
    return lines


def peer(rows: Rows) -> list[str]:
    """Return laplace-torch beside the families of this project."""
    lines = [
        "| method | accuracy | log loss | ECE | total variation to NUTS |",
        "|---|---|---|---|---|",
    ]
    for r in rows:
        away = f"{r['distance']:.3f}" if r["distance"] is not None else f"floor {r['floor']:.3f}"
        lines.append(
            f"| {r['method']} | {r['accuracy']:.3f} | {r['log_loss']:.3f} | {r['ece']:.3f} |"
            f" {away} |"
        )
    return lines


SECTIONS: dict[str, tuple[str, Callable[[Rows], list[str]]]] = {  # part -> heading, its table
    "truth": ("Small forms and their exact posteriors", truth),
    "scale": ("The prior scale: evidence of the training labels, nats", scale),
    "cost": ("Cost of a step", cost),
    "peer": ("laplace-torch beside our families, last layer", peer),
}


def sections(rows: Mapping[str, Rows]) -> str:
    """Return the sections that were measured."""
    found = [
        (heading, make(rows[part])) for part, (heading, make) in SECTIONS.items() if rows.get(part)
    ]
    return "".join(f"\n## {heading}\n\n" + "\n".join(lines) + "\n" for heading, lines in found)
