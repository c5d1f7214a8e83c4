"""Figures of the autoencoders: reconstructions, latent space, and q against the posterior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.report.panels import panel
from benchmarks.report.section import ReportSection
from benchmarks.report.theme import canvas, light, marks
from guides.base.local import LocalGuide
from guides.families.amortized import AmortizedGuide, features_of
from zoo.models.autoencoders.vae import Vae
from zoo.seeds import seeded
from zoo.truth.grid import LARGEST, LatentGrid

if TYPE_CHECKING:
    from benchmarks.report.inputs import EntryReport

__all__ = ["SECTION", "figures", "mosaic"]

CLASSES = (
    "#4c78a8",
    "#d1660f",
    "#3f8f4f",
    "#c0392b",
    "#8a63b8",
    "#8c564b",
    "#d66fae",
    "#7f7f7f",
    "#a39a1f",
    "#2a9fb0",
)
WIDE, POINTS, SHARES = 430, 700, (0.5, 0.9)


def figures(report: EntryReport) -> list[tuple[Any, str]]:
    """Return figures with captions; those without a fit or two latent dimensions are omitted."""
    fits = {c.posterior.method: c.fit for c in report.comparisons if c.fit is not None}
    trainer = next(iter(fits.values()), None)
    if trainer is None or not isinstance(trainer.program, Vae):
        return []
    program: Any = trainer.program
    made: list[tuple[Any, str] | None] = []
    with torch.no_grad():
        made.append(_reconstructions(report, program))
        made.append(_samples(program))
        if program.latent == 2:
            made.append(_traversal(program))
            if isinstance(trainer.guide, AmortizedGuide):
                made.append(_space(report, trainer))
            made.append(_contours(report, program, fits))
        if len(trainer.history.get("step", ())):
            made.append(_tug_of_war(trainer))
    return [m for m in made if m is not None]


def mosaic(images: Tensor, columns: int, *, gap: float = 0.15) -> np.ndarray[Any, Any]:
    """Tile square images `[n, pixel]` row by row into one array, with light lines between them."""
    n, pixels = images.shape
    side = round(pixels**0.5)
    rows = -(-n // columns)
    sheet = np.full((rows * (side + 1) - 1, columns * (side + 1) - 1), gap)
    for i, image in enumerate(images.double().numpy()):
        top, left = (i // columns) * (side + 1), (i % columns) * (side + 1)
        sheet[top : top + side, left : left + side] = image.reshape(side, side)
    return sheet


def _square(program: Any) -> bool:
    """Return whether the decoder's logits are pixel means of a square image.

    They are not for an autoregressive decoder.
    """
    return program.context is None and round(program.pixels**0.5) ** 2 == program.pixels


def _show(axes: Any, sheet: np.ndarray[Any, Any]) -> None:
    axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=1, interpolation="none")
    axes.set_axis_off()


def _reconstructions(report: EntryReport, program: Any) -> tuple[Any, str] | None:
    """Show each selected image above its expected pixels under the posterior."""
    source = report.reference.posterior or report.comparisons[0].posterior
    if not _square(program) or "z" not in source.draws:
        return None
    z = source.draws["z"].flatten(0, len(source.sample_dims) - 1)  # [draw, image, latent]
    ink = program.decoder(z[:: max(1, len(z) // 200)].double()).sigmoid().mean(0)
    x, half = report.data.train["x"], (len(ink) + 1) // 2
    figure, axes = canvas(WIDE, WIDE * 0.46, 2, 1)
    for a, part in zip(axes, (slice(0, half), slice(half, None)), strict=True):
        _show(a, mosaic(torch.cat([x[part], ink[part]]), len(x[part])))
        a.set_title(
            f"{report.data.coords['image'][part][0]} ... {report.data.coords['image'][part][-1]}"
        )
    words = "the exact posterior" if source.method in ("exact", "analytic") else source.method
    return (
        figure,
        f"The images that are compared, each above the ink the decoder expects under {words}.",
    )


def _samples(program: Any) -> tuple[Any, str] | None:
    if not _square(program):
        return None
    with seeded(0):
        z = program.prior().sample((24,)).double()
        x = torch.bernoulli(program.decoder(z).sigmoid())
    figure, axes = canvas(WIDE, WIDE * 0.24)
    _show(
        axes,
        mosaic(
            torch.cat([program.decoder(z).sigmoid(), x])
            .reshape(2, 2, 12, -1)
            .transpose(0, 1)
            .flatten(0, 2),
            12,
        ),
    )
    return (
        figure,
        (
            "Codes drawn from the prior: the ink they write (first and third row), and binary"
            " images drawn from it (below each)."
        ),
    )


def _traversal(program: Any, number: int = 15) -> tuple[Any, str] | None:
    """Decode a square grid of codes at equal steps of prior probability."""
    if not _square(program):
        return None
    axis = torch.special.ndtri(torch.linspace(0.02, 0.98, number, dtype=torch.float64))
    z = torch.stack(torch.meshgrid(-axis, axis, indexing="ij"), -1).flatten(0, 1).flip(-1)
    figure, axes = canvas(420, 420)
    _show(axes, mosaic(program.decoder(z).sigmoid(), number))
    return (
        figure,
        (
            "What codes write: z1 from left to right, z2 from bottom to top, at equal steps of"
            " prior probability."
        ),
    )


def _space(report: EntryReport, fit: Any) -> tuple[Any, str]:
    """Show where the encoder maps the training images."""
    data = report.entry.load_data()
    rows = torch.linspace(0, len(data.train["x"]) - 1, min(POINTS, len(data.train["x"]))).long()
    loc = fit.guide.encode(features_of(report.entry, {k: v[rows] for k, v in data.train.items()}))[
        0
    ].numpy()
    labels = data.train["label"][rows].numpy()
    figure, axes = canvas(WIDE, 380)
    for c in np.unique(labels):
        own = loc[labels == c]
        color = CLASSES[int(c) % len(CLASSES)] if c >= 0 else light("muted")
        axes.scatter(own[:, 0], own[:, 1], s=9, color=color, alpha=0.75, linewidths=0)
        if c >= 0:
            middle = np.median(own, 0)
            axes.text(
                *middle,
                str(int(c)),
                color=light("ink"),
                fontsize=15,
                weight="bold",
                ha="center",
                va="center",
            )
    axes.set(xlabel="z1", ylabel="z2")
    return (
        figure,
        (
            f"Where the encoder puts {len(rows)} training images (the class, seen by nobody, as"
            " color and number at its median)."
        ),
    )


def _contours(report: EntryReport, program: Any, fits: dict[str, Any]) -> tuple[Any, str] | None:
    """Show exact posteriors of the images that q misses most.

    The regions of equal probability of every guide with units are drawn over them.
    """
    guides = {name: f for name, f in fits.items() if isinstance(f.guide, LocalGuide)}
    x = report.data.train["x"]
    if not guides or program.latent > LARGEST or len(x) != next(iter(guides.values())).guide.size:
        return None
    grid = LatentGrid(program.likelihood, 2, log_prior=program.log_prior, points=181)
    evidence, mean, covariance = grid.moments(x)
    kl = _kl(grid, next(iter(guides.values())), x)
    worst, shown = kl.argsort(descending=True)[:6].tolist(), marks(list(fits))
    figure, axes = canvas(WIDE, WIDE * 0.85, 2, 3)
    for a, i in zip(axes.flat, worst, strict=False):
        near = grid.around(mean[i], covariance[i], points=81, sds=4.0)
        posterior = near.log_joint(x[i : i + 1])[0] - evidence[i]
        ticks = [near.axes[0].numpy(), near.axes[1].numpy()]
        _filled(a, ticks, posterior)
        for name, fit in guides.items():
            log_q = _unit_log_q(fit, near.points, i)
            a.contour(
                *ticks,
                log_q.reshape(81, 81).T.numpy(),
                levels=_levels(log_q)[:1],
                colors=[shown[name].color],
                linewidths=1.4,
                linestyles=[shown[name].dash],
            )
        a.set_title(f"{report.data.coords['image'][i]}\n{kl[i]:.2f} nats", fontsize=9)
        a.tick_params(labelsize=8)
    lines = axes.flat[0]
    for name in guides:
        lines.plot([], [], color=shown[name].color, linestyle=shown[name].dash, label=name)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    first = next(iter(guides))
    return (
        figure,
        (
            "Exact posteriors of the codes (gray: 50 and 90 % regions) of the six images that"
            f" {first} misses most, with KL(q || posterior);"
            " lines: the 90 % regions of the guides."
        ),
    )


def _unit_log_q(fit: Any, points: Tensor, unit: int) -> Tensor:
    guide = fit.guide
    out = guide.numbers(None)[unit : unit + 1]
    w = (points[:, None, :] - guide.center) / guide.spread
    value: Tensor = guide.head.log_prob(out, w)[:, 0] - guide.spread.log().sum()
    return value


def _kl(grid: LatentGrid, fit: Any, x: Tensor) -> Tensor:
    step, out = float(np.exp(grid.log_weight)), []
    for i in range(len(x)):
        posterior = grid.log_joint(x[i : i + 1])[0]
        posterior = posterior - posterior.logsumexp(0) - grid.log_weight
        log_q = _unit_log_q(fit, grid.points, i)
        out.append(float((log_q.exp() * step * (log_q - posterior)).sum()))
    return torch.tensor(out)


def _levels(log_density: Tensor) -> Sequence[float]:
    """Return the log density levels that hold 90 and 50 % of the mass, ascending.

    The grid is equidistant.
    """
    order = log_density.sort(descending=True).values
    mass = (order - order.logsumexp(0)).exp().cumsum(0)
    return [
        float(order[int((mass < share).sum().clamp(max=len(order) - 1))])
        for share in sorted(SHARES, reverse=True)
    ]


def _filled(axes: Any, ticks: list[Any], log_density: Tensor) -> None:
    side = len(ticks[0])
    outer, inner = _levels(log_density)
    values = log_density.reshape(side, side).T.numpy()
    axes.contourf(
        *ticks,
        values,
        levels=[outer, inner, float(values.max()) + 1e-9],
        colors=[light("ref-soft"), light("ref")],
    )
    axes.contour(*ticks, values, levels=[outer, inner], colors=[light("ref-line")], linewidths=0.8)


def _tug_of_war(fit: Any) -> tuple[Any, str]:
    """Show reconstruction and KL of the training images over the steps of the training fit."""
    steps, history = fit.history["step"], fit.history
    figure, axes = canvas(WIDE, 230, 1, 2)
    total = history["reconstruction_nats"] + history["kl_nats"]
    axes[0].plot(steps, total, color=light("ink"), label="their sum")
    axes[0].plot(
        steps,
        history["reconstruction_nats"],
        color=light("m1"),
        linestyle="--",
        label="reconstruction",
    )
    axes[0].plot(steps, history["kl_nats"], color=light("m2"), linestyle=":", label="KL")
    axes[0].set(xlabel="step", ylabel="nats per image", xscale="log", ylim=(0, None))
    decades = [10**k for k in range(int(np.log10(steps[-1])) + 1)]
    axes[0].set_xticks(decades, [f"{t:,}" for t in decades])
    axes[0].legend(frameon=False, fontsize=9, loc="center left")
    axes[1].plot(history["kl_nats"], history["reconstruction_nats"], color=light("m3"))
    axes[1].plot(
        history["kl_nats"][-1:], history["reconstruction_nats"][-1:], "o", color=light("m3")
    )
    low, high = float(total.min()), float(total.max())
    kl = np.array([0.0, float(history["kl_nats"].max()) * 1.05])
    for level in np.linspace(low, high, 5):
        axes[1].plot(kl, level - kl, color=light("line"), linewidth=0.8, zorder=0)
    axes[1].set(
        xlabel="KL, nats",
        ylabel="reconstruction, nats",
        ylim=(max(0.0, float(history["reconstruction_nats"].min()) - 1), high + 0.5),
    )
    return (
        figure,
        (
            "The tug-of-war: minus the expected log likelihood against the KL from the prior, per"
            " training image; right, the path of the fit across lines of equal ELBO. A KL that"
            " stays at 0 is a collapse."
        ),
    )


SECTION = ReportSection(
    name="vae",
    about="reconstructions and latent space",
    order=85,
    tags=frozenset({"deep", "learns", "images"}),
    html=panel(figures),
)
