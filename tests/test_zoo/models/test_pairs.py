"""Pairs of flowers whose classes are compared: what their labels say and what is computed."""

import math

import pytest
import torch

import zoo


def test_pairs_are_neighbors_and_flowers_across_the_gap():
    """The gap between the short and the long petals is 2.8 cm wide, from 1.6 to 4.4 cm."""
    entry = zoo.load("gaussian_mixture_exact")
    data = entry.load_data()
    pairs = [tuple(map(float, p.removesuffix(" cm").split(" and "))) for p in data.coords["pair"]]
    petals = [round(p, 1) for p in data.train["petal"].tolist()]
    assert all(p in petals and q in petals and p < q for p, q in pairs)
    assert pairs[0] == (petals[0], 1.6)  # both ends of the short ones
    assert pairs[1] == (petals[0], 4.4)  # the shortest and the first beyond the gap
    assert all(low >= 4.4 for low, _ in pairs[2:])


def test_two_flowers_share_a_class_with_the_odds_of_their_responsibilities():
    entry = zoo.load("gaussian_mixture_exact")
    data = entry.load_data()
    draws = {k: v[:3] for k, v in entry.exact(data).sample(3, 0).items()}
    odds = entry.quantities["co_assignment"].fn(draws, data)
    density = (
        torch.distributions.Normal(draws["location"], draws["variance"].sqrt())
        .log_prob(data.train["petal"][:, None, None])
        .permute(1, 0, 2)
    )
    r = (draws["weight"].log()[:, None] + density).softmax(-1)  # [draw, flower, class]
    for k, label in enumerate(data.coords["pair"]):
        ends = [float(v) for v in label.removesuffix(" cm").split(" and ")]
        i, j = (int((data.train["petal"] - v).abs().argmin()) for v in ends)
        same = (r[:, i] * r[:, j]).sum(-1)
        assert odds[:, k].tolist() == pytest.approx(
            [math.log(p / (1 - p)) for p in same.tolist()], rel=1e-5
        )
