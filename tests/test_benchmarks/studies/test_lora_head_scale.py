"""Laplace's evidence of adapters: exact for a normal likelihood, and the scales that are asked."""

import math
from types import SimpleNamespace

import pytest
import torch

from benchmarks.studies.lora_head import scale
from benchmarks.studies.record import Work


class Normal:
    """Logits of a model whose log likelihood is -((B - t)^2 + (A - 3)^2) / 2, t = (1, -2)."""

    def __init__(self, draws):
        self.draws = draws

    def log_softmax(self, axis):
        assert axis == -1
        b = self.draws["B"].flatten(-2)  # [start, 2]
        a = self.draws["A"].flatten(-1)
        target = torch.tensor([1.0, -2.0], dtype=torch.float64)
        row = -0.5 * (b - target).square().sum(-1, keepdim=True) - 0.5 * (a - 3.0).square()
        other = torch.full_like(row, -50.0)
        return torch.stack([other, row], -1)  # [start, row = 1, class]


@pytest.mark.parametrize("stretch", [1.0, 2.0])
def test_the_evidence_of_a_normal_likelihood_is_exact(stretch):
    """exp(-(s b - t)^2 / 2) under Normal(0, 1) integrates to N(t; 0, 1 + s^2) sqrt(2 pi).

    Only `B` is stretched; `A` is as it is.
    """
    found = scale.laplace_evidence(
        lambda draws, x: Normal(draws),
        {"A": (1,), "B": (2, 1)},
        torch.zeros(1, 1, dtype=torch.float64),
        torch.tensor([1]),
        stretch,
        steps=400,
    )

    def part(target, s):
        variance = 1 + s**2
        return -0.5 * target**2 / variance - 0.5 * math.log(variance)

    expected = part(1.0, stretch) + part(-2.0, stretch) + part(3.0, 1.0)
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_saddle_has_no_evidence():
    """The joint density of a likelihood exp(+u^2) has no mode: its Hessian is not positive."""

    class Saddle(Normal):
        def log_softmax(self, axis):
            row = self.draws["head"].square().sum(-1, keepdim=True)
            return torch.stack([row, row], -1)

    found = scale.laplace_evidence(
        lambda draws, x: Saddle(draws),
        {"head": (1,)},
        torch.zeros(1, 1, dtype=torch.float64),
        torch.tensor([1]),
        1.0,
        steps=3,
    )
    assert math.isnan(found)


def test_scales_are_relative_to_the_entrys_own(monkeypatch):
    calls = []
    data = SimpleNamespace(coords={"class": ["a", "b", "c"]}, train={"x": "x", "label": "label"})

    def load(name, form):
        return SimpleNamespace(load_data=lambda seed: calls.append((name, form, seed)) or data)

    monkeypatch.setattr(scale.zoo, "load", load)
    monkeypatch.setattr(scale, "shapes", lambda form, rank, classes: (form, rank, classes))
    monkeypatch.setattr(scale, "adapted", lambda classes: f"logits of {classes}")

    def laplace(logits, sites, x, label, stretch, *, steps):
        calls.append((logits, sites, x, label, steps))
        return stretch

    monkeypatch.setattr(scale, "laplace_evidence", laplace)
    for form, own in (
        ("rank", scale.adapters.RANK_SCALE),
        ("last_layer", scale.adapters.LAST_SCALE),
    ):
        calls.clear()
        assert scale.evidences(form, (0.5, 2.0), (7, 8), 30) == [[0.5 / own, 2.0 / own]] * 2
        one = ("logits of 3", (form, 1, 3), "x", "label", 30)
        assert calls == [("lora_head", form, 7), one, one, ("lora_head", form, 8), one, one]


@pytest.mark.parametrize("quick", [False, True])
def test_every_form_and_seed_has_a_row(monkeypatch, tmp_path, quick):
    calls = []

    def evidences(form, scales, seeds, steps):
        calls.append((form, steps))
        return [[float(seed)] * len(scales) for seed in seeds]

    monkeypatch.setattr(scale, "evidences", evidences)
    rows = scale.measure(Work(quick=quick, jobs=1, out=tmp_path, progress=None))
    seeds = (100,) if quick else (100, 101, 102)
    assert calls == [(form, 300 if quick else 3000) for form in ("rank", "last_layer")]
    assert rows == [
        {"form": form, "scales": scales, "seed": seed, "nats": [float(seed)] * 4}
        for form, scales in (("rank", [0.25, 0.5, 1.0, 2.0]), ("last_layer", [0.5, 1.0, 2.0, 4.0]))
        for seed in seeds
    ]
