# ruff: noqa: E501 (lines of the page)
"""Re-make `docs/results/vae_collapse.md`: what schedules of the KL do for a decoder that can ignore the code.

    python -c "from benchmarks.studies.vae.collapse import main; main()" [--steps 2000] [--seeds 3] [--out docs/results]

The program is `vae[context=true]`: every pixel also sees the pixels before it. Every number is exact but for the grid: log p(x), the
posterior of every code, the mutual information of image and code. What is known is kept in `vae_collapse.json`; a run goes on there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report.theme import DASHES, light
from benchmarks.studies.vae.measure import ACTIVE, elbo_per_image
from guides.objectives.records import objective_of
from guides.types import Fit
from zoo.truth.grid import LatentGrid
from zoo.types import Data

__all__ = ["ROWS", "main", "measure", "page"]

# words -> objective with WARMUP to be filled in, warm-up as a share of the steps, other settings
ROWS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "no schedule": ("elbo", 0.0, {}),
    "linear, 10 % of the steps": ("elbo_linear[warmup=WARMUP]", 0.1, {}),
    "linear, 40 % of the steps": ("elbo_linear[warmup=WARMUP]", 0.4, {}),
    "cyclical, 40 % of the steps": ("elbo_cyclical[warmup=WARMUP]", 0.4, {}),
    "free bits, 3 nats": ("elbo_free_bits[warmup=WARMUP,free_bits=3.0]", 0.4, {}),
    "IWAE-5, no schedule": ("iwae", 0.0, {"num_particles": 5}),
}
INFORMED = 300  # training images of mutual information and active units
POINTS = 81
Row = dict[str, Any]


def train(row: str, steps: int, seed: int, **options: Any) -> Fit:
    """Train decoder and encoder together by one schedule."""
    import guides
    import zoo

    objective, share, more = ROWS[row]
    entry = zoo.load("vae", context=True, init=seed, **options)
    settings = {
        "steps": steps,
        "patience": max(50, steps // 8),
        "anneal": steps // 2,
        "compile": "off",
        **more,
    }
    goal = objective.replace("WARMUP", str(int(share * steps)))
    return guides.fit(entry, "amortized", seed=seed, objective=goal, **settings)


def part(data: Data, tensors: Mapping[str, torch.Tensor], rows: int) -> Data:
    """Return data whose images are the first rows of these tensors."""
    few = {k: v[:rows] for k, v in tensors.items()}
    return dataclasses.replace(data, train=few, test=None, size=len(few["x"]), coords={**data.coords, "image": []})


def measure(fit: Fit) -> Row:
    """Return exact negative log likelihood, KL, active units and mutual information, in nats per image."""
    import guides

    program: Any = fit.program
    assert fit.data.test is not None
    train_part, held = part(fit.data, fit.data.train, INFORMED), part(fit.data, fit.data.test, len(fit.data.test["x"]))
    grid = LatentGrid(program.likelihood, program.latent, log_prior=program.log_prior, points=POINTS)
    sample = torch.cat([train_part.train["x"][::50], held.train["x"][::50]])
    checked = grid.check(sample)
    if not checked.ok:
        grid = grid.sufficient(sample)
        checked = grid.check(sample)
    _, mean, _ = grid.moments(train_part.train["x"])
    moved = guides.transfer(fit, train_part)
    with torch.no_grad():
        encoder = moved.guide.numbers(None)[:, : program.latent] * moved.guide.spread  # type: ignore[operator]
    evidence = grid.log_evidence(held.train["x"])
    return {
        "nll_held_out": -float(evidence.mean()), "nll_held_out_se": float(evidence.std() / len(evidence) ** 0.5),
        "minus_elbo_held_out": -float(elbo_per_image(guides.transfer(fit, held), held.train["x"]).mean()),
        "active_exact": int((mean.var(0) > ACTIVE).sum()), "active_encoder": int((encoder.var(0) > ACTIVE).sum()),
        "variances": [round(v, 5) for v in mean.var(0).tolist()], **grid.information(train_part.train["x"]),
        "grid_ok": checked.ok,
        "final_kl_weight": objective_of(fit.config.objective).kl_weight(fit.cost.steps), "steps": fit.cost.steps, "stop": fit.stop.status,
        "history": [[float(s), round(float(v), 4)] for s, v in zip(fit.history["step"], fit.history["kl_nats"], strict=True)],
    }  # fmt: skip


# -- the page -----------------------------------------------------------------------------------------------------------


def _range(values: Sequence[float], digits: int = 2) -> str:
    """Return the mean of some seeds, with the smallest and largest."""
    mean, low, high = (f"{f(values):.{digits}f}" for f in (np.mean, np.min, np.max))
    return mean if low == high else f"{mean} ({low} to {high})"


def page(found: Mapping[str, Mapping[str, Row]], steps: int) -> str:
    """Return the page as Markdown."""
    names = [n for n in ROWS if found.get(n)]
    lines = [HEAD, _sentence(found, names), "", "| schedule | " + " | ".join(HEADS) + " |", "|---" * (len(HEADS) + 1) + "|"]
    for name in names:
        rows = list(found[name].values())
        columns = ("nll_held_out", "minus_elbo_held_out", "mean_kl_nats", "mutual_information_nats")
        cells = [_range([r[c] for r in rows]) for c in columns]
        units = [", ".join(str(r[c]) for r in rows) for c in ("active_exact", "active_encoder")]
        weight = ", ".join(sorted({f"{r['final_kl_weight']:g}" for r in rows}))
        mark = "" if all(r["grid_ok"] for r in rows) else " (grid not certified)"
        lines.append(f"| {name}{mark} | " + " | ".join([*cells, *units, weight]) + " |")
    seeds = max(len(found[n]) for n in names)
    return "\n".join([*lines, "", FOOT.format(seeds=seeds, steps=steps)])


def _sentence(found: Mapping[str, Mapping[str, Row]], names: Sequence[str]) -> str:
    """Say which schedules keep every unit active, and what that costs in nats against the best row."""
    nll = {n: float(np.mean([r["nll_held_out"] for r in found[n].values()])) for n in names}
    best = min(nll, key=lambda n: nll[n])
    full = [n for n in names if all(r["active_exact"] == len(r["variances"]) for r in found[n].values())]
    near = [n for n in full if nll[n] <= nll[best] + 0.1]
    dead = [n for n in names if all(r["active_exact"] == 0 for r in found[n].values())]
    words = f"Lowest held-out NLL: {best} ({nll[best]:.2f} nats). "
    words += f"All units active in every run: {'; '.join(full) if full else 'none'}. "
    words += f"Of these within 0.1 nats of the lowest: {'; '.join(near) if near else 'none'}. "
    return words + f"Collapsed in every run: {'; '.join(dead) if dead else 'none'}."


def draw(found: Mapping[str, Mapping[str, Row]], path: Path) -> None:
    """Draw the KL of the first seed over training, one line per schedule."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with matplotlib.rc_context({"svg.hashsalt": "vae_collapse"}):
        figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
        for k, name in enumerate(n for n in ROWS if found.get(n)):
            history = np.array(next(iter(found[name].values()))["history"])
            axes.plot(*history.T, color=light(f"m{k % 6 + 1}"), linestyle=DASHES[k % len(DASHES)], linewidth=1.4, label=name)
        axes.set(xlabel="step", ylabel="KL(q, prior), nats per image")
        axes.set_ylim(0, None)
        axes.legend(frameon=False, fontsize=8, ncols=2)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, then write page and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    store = options.out / "vae_collapse.json"
    found: dict[str, dict[str, Row]] = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    torch.set_num_threads(1)
    for seed in range(options.seeds):
        for name in ROWS:
            if str(seed) in found.get(name, {}):
                continue
            began = time.process_time()
            row = measure(train(name, options.steps, seed))
            row["seconds"] = round(time.process_time() - began, 1)
            found.setdefault(name, {})[str(seed)] = row
            store.write_text(json.dumps(found, separators=(",", ":")).replace("},", "},\n") + "\n", encoding="utf-8")
            print(name, seed, {k: v for k, v in row.items() if k != "history"}, flush=True)
    draw(found, options.out / "vae_collapse.svg")
    (options.out / "vae_collapse.md").write_text(page(found, options.steps), encoding="utf-8")


HEADS = (
    "exact NLL, held out", "-ELBO, held out", "KL(posterior, prior)", "mutual information", "active units, exact posterior",
    "active units, encoder", "last weight of the KL",
)  # fmt: skip
HEAD = """# Posterior collapse: a decoder that can do without the code

`vae[context=true]`: binary 8 x 8 digits, two latent numbers, and a decoder whose pixels also see the pixels before them,

```
x_j ~ Bernoulli(logit = decoder_theta(z)_j + sum_(k < j) W_jk x_k)
```

A pixel's neighbors say so much that the code may be left unused: q becomes the prior and the KL falls to 0. The mutual information of image and
code says whether that happened, whatever the encoder claims; here it is exact, by a grid over the codes.
"""
FOOT = """{seeds} seeds (weights and training), at most {steps} steps, 1,438 training and 359 held-out images; nats per image, mean over seeds (smallest
to largest). KL and mutual information are those of the exact posterior, over 300 training images (at most log 300 = 5.70 nats). A unit is
active when the variance over images of its posterior mean is above 0.01 (Burda et al. 2016), of the exact posterior and of the encoder;
one number per seed, of two units. Without the context, the same network and steps are in [vae.md](vae.md). A warm-up that would not end is
refused, and the last weight is asserted to be 1.

![KL over training](vae_collapse.svg)

Made by `python -c "from benchmarks.studies.vae.collapse import main; main()"`; the numbers are in [vae_collapse.json](vae_collapse.json).
"""
