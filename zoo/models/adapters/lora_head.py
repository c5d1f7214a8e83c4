"""Bayesian LoRA: a low-rank update of a frozen digit classifier, learned from 64 labels.

A small network classifies clean handwritten digits well. The images are now rotated by 30 degrees
(option `task`: or inverted with noise, or of classes it never saw), only 64 (`labels`) of them
have labels, and only a rank-one update of one layer (`form`, `rank`) may change, as in low-rank
adaptation of large models.

    A_kj     ~ Normal(0, 1),   k = 1..r, j = 1..64
    B_ik     ~ Normal(0, 1),   i = 1..32
    h_n      = tanh((W_2 + s B A) f_n + b_2)
    label_n  ~ Categorical(logits = W_3 h_n + b_3),   n = 1..64

The features f_n of the first layer and all weights W, b are frozen. Only B A matters: (R^-1 A, B
R) is the same update for every invertible R, so the posterior of raw A and B has mirrored modes
(rank 1) or a whole orbit of them (rank 2 and more), and every quantity here is a function of the
update: its entries in the singular directions of W_2, and the log odds of test images. With few
labels the update is weakly determined and the posterior far from normal, and a point estimate is
overconfident.

Forms `core` (r by r numbers between singular directions of W_2, as in LoRA-XS) and `subspace` (r
numbers) are small enough for quadrature; `last_layer` adapts the output layer instead.

References:
    Hu et al. (2022), LoRA: Low-Rank Adaptation of Large Language Models, ICLR.
    Yang, Robeyns, Wang and Aitchison (2024), Bayesian low-rank adaptation for large language
    models, ICLR. Balazy et al. (2024), LoRA-XS: Low-rank adaptation with extremely small number of
    parameters, arXiv:2405.17604. Alpaydin and Kaynak (1998), Optical recognition of handwritten
    digits, UCI Machine Learning Repository.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.models.adapters._backbone import backbone, features
from zoo.models.adapters._baselines import baselines
from zoo.models.adapters._digit_tasks import make_task
from zoo.models.adapters._updates import (
    DIRECTIONS,
    adapted,
    directions,
    frozen_logits,
    layer_input,
    shapes,
)
from zoo.types import Data, ModelEntry, Program, Quantity

# test images whose log odds are judged, from the hardest to the easiest for the frozen network
PROBES = 12


def make_data(seed: int, form: str, rank: int, task: str, labels: int) -> Data:
    """Return layer inputs and labels of a shifted task; the seed selects labeled images.

    Raises:
        UsageError: an unknown form, rank or task, or a number of labels outside 16 to 256.
    """
    made = make_task(task, labels, seed)
    sites = shapes(form, rank, len(made.classes))
    weights = backbone()
    train, test = features(made.train, weights), features(made.test, weights)
    unit, test_unit = torch.as_tensor(made.train_unit), torch.as_tensor(made.test_unit)
    rows = probe_rows(len(made.classes), test, test_unit)
    named = [f"test {int(i)}, a {made.classes[int(test_unit[i])]}" for i in rows]
    coords: dict[str, Sequence[Any]] = {
        "probe": named,
        "probe_row": [int(i) for i in rows],
        "direction": [str(k) for k in range(1, DIRECTIONS + 1)],
        "class": [str(c) for c in made.classes],
        "data_seed": [seed],
    }
    axes = {name: tuple(f"{name}_{i}" for i in range(len(shape))) for name, shape in sites.items()}
    return Data(
        train={"x": layer_input(form, train), "label": unit},
        test={"x": layer_input(form, test), "label": test_unit},
        observed=("label",),
        coords=coords,
        dims={"x": ("image", "feature"), "label": ("image",), **axes},
        source=(
            "scikit-learn's copy of the Optical Recognition of Handwritten Digits data (Alpaydin"
            f" and Kaynak 1998, doi:10.24432/C50P49), task {task} as in"
            " zoo.models.adapters._digit_tasks"
        ),
        licence="CC-BY-4.0",
    )


def probe_rows(classes: int, hidden: Tensor, unit: Tensor) -> Tensor:
    """Return `PROBES` test rows, evenly spaced in the backbone's log odds of the true class."""
    logits = frozen_logits(classes, hidden)
    order = log_odds_of(logits, unit).argsort(stable=True)
    return order[torch.linspace(0, len(order) - 1, PROBES + 2).round().long()[1:-1]]


def log_odds_of(logits: Tensor, unit: Tensor) -> Tensor:
    """Return log p_true - log(1 - p_true) from logits `[*sample, row, class]`, in nats.

    Args:
        logits: class logits.
        unit: the true output units `[row]`.
    """
    true = torch.nn.functional.one_hot(unit, logits.shape[-1]).bool()
    return logits.where(true, logits.new_zeros(())).sum(-1) - logits.masked_fill(
        true, -torch.inf
    ).logsumexp(-1)


def build(data: Data, form: str, rank: int, task: str, labels: int) -> Program:
    """Return the program: standard normal adapter sites and categorical labels."""
    classes = len(data.coords["class"])
    sites, logits = shapes(form, rank, classes), adapted(classes)

    def program(x: Tensor, label: Tensor | None = None) -> None:
        adapter = {
            name: pyro.sample(name, dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))
            for name, shape in sites.items()
        }
        with pyro.plate("image", x.shape[0]):
            pyro.sample("label", dist.Categorical(logits=logits(adapter, x)), obs=label)

    return program


def log_odds(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return the log odds of the true class of the probe images, `[*sample, probe]`, in nats."""
    assert data.test is not None
    rows = torch.as_tensor(data.coords["probe_row"])
    return log_odds_of(
        adapted(len(data.coords["class"]))(draws, data.test["x"][rows]), data.test["label"][rows]
    )


ENTRY = ModelEntry(
    name="lora_head",
    title="Bayesian low-rank adapter of a frozen digit classifier, 64 labels",
    make_data=make_data,
    build=build,
    quantities={
        "log_odds": Quantity(
            fn=log_odds,
            dims=("probe",),
            description="log odds of the true class of test images, hard to easy, nats",
        ),
        "update": Quantity(
            fn=lambda draws, data: directions(draws),
            dims=("direction",),
            description="the update in the k-th singular direction of the adapted layer",
        ),
    },
    reference="nuts",
    families=("mean_field", "full_rank", "low_rank", "laplace", "flow"),
    options={"form": "rank", "rank": 1, "task": "rotation", "labels": 64},
    baselines=baselines,
    tags=frozenset({"classification", "neural network", "adapter"}),
    cites=(
        "Hu et al. (2022), LoRA: Low-Rank Adaptation of Large Language Models, ICLR",
        (
            "Yang, Robeyns, Wang and Aitchison (2024), Bayesian low-rank adaptation for large"
            " language models, ICLR"
        ),
    ),
)
