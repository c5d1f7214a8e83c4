"""`docs/results/vae_collapse.md` from the figures of `zoo study vae_collapse`."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.report.theme import DASHES, light
from benchmarks.run.store import finite
from benchmarks.studies.pages import fold

__all__ = ["ROWS", "Row", "page", "picture", "record"]

Row = dict[str, Any]
# name -> objective with a placeholder WARMUP, warm-up as a fraction of the steps, other settings
ROWS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "no schedule": ("elbo", 0.0, {}),
    "linear, 10 % of the steps": ("elbo_linear[warmup=WARMUP]", 0.1, {}),
    "linear, 40 % of the steps": ("elbo_linear[warmup=WARMUP]", 0.4, {}),
    "cyclical, 40 % of the steps": ("elbo_cyclical[warmup=WARMUP]", 0.4, {}),
    "free bits, 3 nats": ("elbo_free_bits[warmup=WARMUP,free_bits=3.0]", 0.4, {}),
    "IWAE-5, no schedule": ("iwae", 0.0, {"num_particles": 5}),
}


def record(found: Mapping[str, Mapping[str, Row]]) -> str:
    """Return the published JSON, one line per run: the histories are long."""
    return json.dumps(finite(found), separators=(",", ":")).replace("},", "},\n") + "\n"


def _range(values: Sequence[float], digits: int = 2) -> str:
    """Return the mean of some seeds, with the smallest and largest."""
    mean, low, high = (f"{f(values):.{digits}f}" for f in (np.mean, np.min, np.max))
    return mean if low == high else f"{mean} ({low} to {high})"


def page(found: Mapping[str, Mapping[str, Row]]) -> str:
    """Return the page as Markdown."""
    names = [n for n in ROWS if found.get(n)]
    lines = [
        HEAD,
        _sentence(found, names),
        "",
        "| schedule | " + " | ".join(HEADS) + " |",
        "|---" * (len(HEADS) + 1) + "|",
    ]
    for name in names:
        rows = list(found[name].values())
        columns = (
            "nll_held_out",
            "minus_elbo_held_out",
            "mean_kl_nats",
            "mutual_information_nats",
        )
        cells = [_range([r[c] for r in rows]) for c in columns]
        units = [", ".join(str(r[c]) for r in rows) for c in ("active_exact", "active_encoder")]
        weight = ", ".join(sorted({f"{r['final_kl_weight']:g}" for r in rows}))
        mark = "" if all(r["grid_ok"] for r in rows) else " (grid not certified)"
        lines.append(f"| {name}{mark} | " + " | ".join([*cells, *units, weight]) + " |")
    seeds, steps = (
        max(len(found[n]) for n in names),
        max(r["steps"] for n in names for r in found[n].values()),
    )
    return fold("\n".join([*lines, "", FOOT.format(seeds=seeds, steps=steps)]))


def _sentence(found: Mapping[str, Mapping[str, Row]], names: Sequence[str]) -> str:
    """Return which schedules keep every unit active, and their cost in nats to the best row."""
    nll = {n: float(np.mean([r["nll_held_out"] for r in found[n].values()])) for n in names}
    best = min(nll, key=lambda n: nll[n])
    full = [
        n
        for n in names
        if all(r["active_exact"] == len(r["variances"]) for r in found[n].values())
    ]
    near = [n for n in full if nll[n] <= nll[best] + 0.1]
    dead = [n for n in names if all(r["active_exact"] == 0 for r in found[n].values())]
    words = f"Lowest held-out NLL: {best} ({nll[best]:.2f} nats). "
    words += f"All units active in every run: {'; '.join(full) if full else 'none'}. "
    words += f"Of these within 0.1 nats of the lowest: {'; '.join(near) if near else 'none'}. "
    return words + f"Collapsed in every run: {'; '.join(dead) if dead else 'none'}."


def picture(found: Mapping[str, Mapping[str, Row]]) -> str:
    """Draw the KL of the first seed over training, one line per schedule."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with matplotlib.rc_context({"svg.hashsalt": "vae_collapse"}):
        figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
        for k, name in enumerate(n for n in ROWS if found.get(n)):
            history = np.array(next(iter(found[name].values()))["history"])
            axes.plot(
                *history.T,
                color=light(f"m{k % 6 + 1}"),
                linestyle=DASHES[k % len(DASHES)],
                linewidth=1.4,
                label=name,
            )
        axes.set(xlabel="step", ylabel="KL(q, prior), nats per image")
        axes.set_ylim(0, None)
        axes.legend(frameon=False, fontsize=8, ncols=2)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(figure)
    return file.getvalue()


HEADS = (
    "exact NLL, held out",
    "-ELBO, held out",
    "KL(posterior, prior)",
    "mutual information",
    "active units, exact posterior",
    "active units, encoder",
    "last weight of the KL",
)
HEAD = """# Posterior collapse: a decoder that can ignore the code

`vae[context=true]`: binary 8 x 8 digits, a two-dimensional code, and a decoder in which each pixel
also depends on the pixels before it,

```
x_j ~ Bernoulli(logit = decoder_theta(z)_j + sum_(k < j) W_jk x_k)
```

The neighbors of a pixel are so informative that the code may remain unused: q becomes the prior and
the KL falls to 0. The mutual information of image and code shows whether this happened, whatever
the encoder reports; here it is exact, by a grid over the codes.
"""
FOOT = """{seeds} seeds (weights and training), at most {steps} steps, 1,438 training and 359 held-out images;
nats per image, mean over seeds (smallest to largest). KL and mutual information are those of the
exact posterior, over 300 training images (at most log 300 = 5.70 nats). A unit is active if the
variance over images of its posterior mean is above 0.01 (Burda et al. 2016). Active units are
counted for the exact posterior and for the encoder, with one number per seed, out of two units. For
the same network and steps without the context see [vae.md](vae.md). A warm-up that would not end is
rejected, and the last weight is asserted to be 1.

![KL over training](vae_collapse.svg)

Made by `zoo study vae_collapse`; the numbers are in [vae_collapse.json](vae_collapse.json).
"""
