"""Cost of a posterior over adapters: a step of variational inference and of plain training.

The model is a transformer encoder of PyTorch with random weights and rank-4 adapters on its
feed-forward layers. Time is CPU time, the median of several steps; memory is what a step keeps for
its backward pass, counted exactly by hooks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal
from torch import Tensor, nn

from benchmarks.studies.record import Work
from zoo.seeds import seeded
from zoo.user_models.lora import add_lora, to_pyro

__all__ = ["Encoder", "measure", "step_cost"]

STEPS = 9
WIDTH, LAYERS, LENGTH, BATCH, WORDS, CLASSES, RANK = 128, 4, 32, 32, 1000, 4, 4


class Encoder(nn.Module):
    """Classifier from token indices `[row, position]` to logits `[row, class]`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(self.encoder(self.embed(tokens)).mean(1))
        return logits


def kept_bytes(loss: Callable[[], Tensor]) -> int:
    """Return the bytes of distinct storages kept for the backward pass of a loss."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss().backward()
    return sum(seen.values())


def step_cost(
    loss: Callable[[], Tensor], parameters: list[Any], steps: int = STEPS
) -> tuple[float, float, int]:
    """Return the cost of one step of Adam.

    CPU milliseconds, megabytes kept for the backward pass, and number of trained parameters.
    """
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    times = []
    for _ in range(steps + 2):
        before = time.process_time()
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        times.append(1000 * (time.process_time() - before))
    return statistics.median(times[2:]), kept_bytes(loss) / 1e6, sum(p.numel() for p in parameters)


def measure(work: Work) -> list[dict[str, Any]]:
    """Return one row per kind of step: time, memory, and number of trained parameters."""
    with seeded(0):
        found = _costs(3 if work.quick else STEPS)
    names = ("milliseconds", "megabytes", "numbers")
    return [
        {"name": name, **dict(zip(names, values, strict=True))} for name, values in found.items()
    ]


def _costs(steps: int) -> dict[str, tuple[float, float, int]]:
    layers = [f"encoder.layers.{i}.linear{k}" for i in range(LAYERS) for k in (1, 2)]
    module = add_lora(Encoder().eval(), layers, rank=RANK)
    tokens, label = torch.randint(WORDS, (BATCH, LENGTH)), torch.randint(CLASSES, (BATCH,))
    trained = [p for p in module.parameters() if p.requires_grad]
    rows = {
        "plain adapter training": step_cost(
            lambda: nn.functional.cross_entropy(module(tokens), label), trained, steps
        )
    }
    program: Any = to_pyro(module, prior=0.1)
    for particles in (1, 4):
        with pyro.settings.context(module_local_params=True):
            guide = AutoDiagonalNormal(program)
            step = Trace_ELBO(num_particles=particles)(program, guide)
            step(tokens=tokens, label=label)
            loss = partial(step, tokens=tokens, label=label)
            name = f"one step of SVI, mean field, {particles} draw{'s' if particles > 1 else ''}"
            rows[name] = step_cost(loss, [p for p in step.parameters() if p.requires_grad], steps)
    return rows
