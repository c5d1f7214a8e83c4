"""Alternatives to an adapter posterior: point estimates, temperature scaling, ensemble.

All are trained on the labels the posteriors use, by 2,000 full-batch steps of Adam at rate 0.02,
from the usual initialization of adapters (B A = 0: A standard normal, B zero; small random values
for the other forms). All training runs of one call form one batch, so that together they cost
little more than one.

    mle                    no prior
    map                    with the standard normal prior of the program
    temperature scaling    softmax(mle logits / T); T minimizes the log loss of five held-out
                           folds of the same labels
    ensemble               mean of the probabilities of five mle runs from different starts
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from zoo.models.adapters._backbone import backbone, features
from zoo.models.adapters._digit_tasks import make_task
from zoo.models.adapters._updates import adapted, layer_input, shapes
from zoo.seeds import derive_seed
from zoo.types import Baselines, Data

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["baselines", "fit_temperature"]

MEMBERS, FOLDS, STEPS, RATE = 5, 5, 2000, 0.02
START = 0.1  # sd of the random start of the other forms

ABOUT = {
    "mle": "no prior, 2,000 steps of Adam",
    "map": "the same with the program's prior",
    "temperature scaling": (
        "mle, its logits divided by a temperature chosen on five held-out folds of the labels"
    ),
    "ensemble": "mean of five mle runs from different starts",
}


def baselines(
    data: Data, seed: int = 0, *, form: str, rank: int, task: str, labels: int
) -> Baselines:
    """Train the point estimates; return their class probabilities on test and OOD images.

    Args:
        data: the data of `lora_head` with the same options.
        seed: seed of starts and folds.
        form: as in `zoo.models.adapters._updates`.
        rank: as in `zoo.models.adapters._updates`.
        task: as in `zoo.models.adapters._digit_tasks`.
        labels: number of labeled images.
    """
    assert data.test is not None
    classes = tuple(data.coords["class"])
    made = make_task(task, labels, int(data.coords["data_seed"][0]))
    sets = {
        "test": data.test["x"],
        **{n: layer_input(form, features(v, backbone())) for n, v in made.outside.items()},
    }
    logits = adapted(len(classes))
    trained, held = _train(
        logits, shapes(form, rank, len(classes)), data.train["x"], data.train["label"], seed
    )

    def predict(draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            return {name: logits(draws, x).softmax(-1) for name, x in sets.items()}

    out = {
        name: logits({k: v for k, v in trained.items()}, x).detach() for name, x in sets.items()
    }  # set -> [member, row, class]
    temperature = fit_temperature(*held)
    probabilities = {
        "mle": {name: v[0].softmax(-1) for name, v in out.items()},
        "map": {name: v[-1].softmax(-1) for name, v in out.items()},
        "temperature scaling": {name: (v[0] / temperature).softmax(-1) for name, v in out.items()},
        "ensemble": {name: v[:MEMBERS].softmax(-1).mean(0) for name, v in out.items()},
    }
    about = {
        **ABOUT,
        "temperature scaling": f"{ABOUT['temperature scaling']} (T = {temperature:.2f})",
    }
    return Baselines(
        labels=data.test["label"],
        classes=classes,
        probabilities=probabilities,
        predict=predict,
        about=about,
        images=torch.as_tensor(made.test),
    )


def _train(
    logits: Callable[[Mapping[str, Tensor], Tensor], Tensor],
    sites: dict[str, tuple[int, ...]],
    x: Tensor,
    label: Tensor,
    seed: int,
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """Train ensemble members, folds and MAP as one batch.

    Returns:
        The parameters, and the held-out logits `[row, class]` with their labels.
    """
    number, total = len(label), MEMBERS + FOLDS + 1
    generator = torch.Generator().manual_seed(derive_seed(seed, "lora baselines"))
    values: dict[str, Tensor] = {}
    for name, shape in sites.items():
        start = torch.randn((MEMBERS, *shape), dtype=torch.float64, generator=generator) * (
            1.0 if name == "A" else START
        )
        start = torch.zeros_like(start) if name == "B" else start
        # The folds and MAP start where the first member does: a temperature depends on the start.
        values[name] = (
            torch.cat([start, start[:1].expand(FOLDS + 1, *shape)]).clone().requires_grad_(True)
        )
    fold = torch.arange(number)[torch.randperm(number, generator=generator)] % FOLDS  # [row]
    weight = torch.ones(total, number, dtype=torch.float64)
    for k in range(FOLDS):
        weight[MEMBERS + k, fold == k] = 0.0
    prior = torch.zeros(total, dtype=torch.float64)
    prior[-1] = 1.0
    optimizer = torch.optim.Adam(values.values(), lr=RATE)
    picked = label.expand(total, number).unsqueeze(-1)
    with torch.enable_grad():
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
            likelihood = (
                logits(values, x).log_softmax(-1).gather(-1, picked).squeeze(-1)
            )  # [member, row]
            penalty = torch.stack(
                [0.5 * v.square().reshape(total, -1).sum(-1) for v in values.values()]
            ).sum(0)
            # Mean over labels, as in training; the factor does not affect Adam, and MAP keeps the
            # balance with its prior.
            loss = (-(weight * likelihood).sum(-1) + prior * penalty) / number
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
    trained = {name: v.detach() for name, v in values.items()}
    held = logits({name: v[MEMBERS : MEMBERS + FOLDS] for name, v in trained.items()}, x)[
        fold, torch.arange(number)
    ]
    return trained, (held, label)


def fit_temperature(logits: Tensor, label: Tensor) -> float:
    """Return the temperature in [0.05, 50] with minimal log loss of logits `[row, class]`."""
    import scipy.optimize

    def loss(log_temperature: Any) -> float:
        scaled = (logits / math.exp(float(log_temperature))).log_softmax(-1)
        return -float(scaled.gather(-1, label.unsqueeze(-1)).mean())

    return math.exp(
        scipy.optimize.minimize_scalar(
            loss, bounds=(math.log(0.05), math.log(50.0)), method="bounded"
        ).x
    )
