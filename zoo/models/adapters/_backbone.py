"""A small frozen classifier of handwritten digits, trained on seven classes.

    h_1 = tanh(W_1 x + b_1)  [64],   h_2 = tanh(W_2 h_1 + b_2)  [32],   logits = W_3 h_2 + b_3  [7]

The clean images are scikit-learn's copy of the UCI digits (1,797 of 8 by 8 pixels). Training is
full-batch Adam in float64 from a seeded start. The weights are then rounded to multiples of 2^-12,
so that their last bits, which differ between CPUs, do not change the data of the models built on
the network. Training takes about two seconds, once per machine; the result is cached in the user's
cache folder and read only if its SHA-256 matches.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from zoo.compiler.cache import directory
from zoo.storage import write_whole

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

__all__ = ["CLASSES", "HELD_OUT", "SHAPES", "backbone", "digits", "features", "training_rows"]

CLASSES = (0, 1, 2, 3, 4, 5, 6)  # the training classes
HELD_OUT = (7, 8, 9)  # never seen in training
SHAPES = {"w1": (64, 64), "b1": (64,), "w2": (32, 64), "b2": (32,), "w3": (7, 32), "b3": (7,)}
TRAINING = 900  # images of all classes, of which those in CLASSES are used for training
STEPS, RATE, DECAY, SEED = 100, 0.01, 3e-4, 20
GRID = 2.0**12


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images `[row, 8, 8]` in [0, 1] and classes `[row]`, in one fixed shuffled order."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(labels))
    return images[order].reshape(-1, 8, 8) / 16.0, labels[order].astype(np.int64)


def training_rows() -> np.ndarray:
    """Return the rows of `digits` that trained the backbone; no task uses them again."""
    return np.flatnonzero(np.isin(digits()[1][:TRAINING], CLASSES))


def features(images: np.ndarray, weights: dict[str, Tensor]) -> Tensor:
    """Return the first hidden layer `[row, 64]` of images `[row, 8, 8]`.

    It is rounded to multiples of 2^-30, more finely than the weights.
    """
    x = torch.as_tensor(images, dtype=torch.float64).reshape(len(images), -1)
    return (torch.tanh(x @ weights["w1"].T + weights["b1"]) * 2.0**30).round() / 2.0**30


@functools.cache
def _weights() -> dict[str, Tensor]:
    path = _path()
    found = _read(path)
    if found is None:
        found = _train()
        _store(path, found)
    return found


def backbone() -> dict[str, Tensor]:
    """Return the frozen float64 weights by name (see `SHAPES`), trained once and then cached."""
    return {name: value.clone() for name, value in _weights().items()}


def _train() -> dict[str, Tensor]:
    images, labels = digits()
    rows = training_rows()
    x = torch.as_tensor(images[rows], dtype=torch.float64).reshape(len(rows), -1)
    y = torch.as_tensor(labels[rows])
    generator = torch.Generator().manual_seed(SEED)
    values = {}
    for name, shape in SHAPES.items():
        start = torch.randn(shape, dtype=torch.float64, generator=generator) / shape[-1] ** 0.5
        values[name] = (
            start if name.startswith("w") else torch.zeros(shape, dtype=torch.float64)
        ).requires_grad_(True)
    optimizer = torch.optim.Adam(values.values(), lr=RATE)
    with torch.enable_grad():
        for _ in range(STEPS):
            hidden = torch.tanh(
                torch.tanh(x @ values["w1"].T + values["b1"]) @ values["w2"].T + values["b2"]
            )
            penalty = torch.stack([values[n].square().sum() for n in ("w1", "w2", "w3")]).sum()
            loss = F.cross_entropy(hidden @ values["w3"].T + values["b3"], y) + DECAY * penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: (value.detach() * GRID).round() / GRID for name, value in values.items()}


# -- the cache ---------------------------------------------------------------------------------


def _path() -> Path:
    recipe = (
        CLASSES,
        sorted(SHAPES.items()),
        TRAINING,
        STEPS,
        RATE,
        DECAY,
        SEED,
        GRID,
        torch.__version__,
    )
    key = hashlib.sha256(repr(recipe).encode()).hexdigest()[:20]
    return directory().parent / "backbones" / f"digits-{key}.pt"


def _read(path: Path) -> dict[str, torch.Tensor] | None:
    """Return the cached weights if their SHA-256 and their shapes are as expected, else None."""
    try:
        content = path.read_bytes()
        recorded = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if hashlib.sha256(content).hexdigest() != recorded:
        return None
    found = torch.load(io.BytesIO(content), weights_only=True)
    return found if {k: tuple(v.shape) for k, v in found.items()} == SHAPES else None


def _store(path: Path, weights: dict[str, Tensor]) -> None:
    """Write weights and digest atomically; an unwritable folder only costs time."""
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    note = json.dumps(
        {"sha256": hashlib.sha256(buffer.getvalue()).hexdigest(), "torch": torch.__version__}
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for place, content in (
            (path, buffer.getvalue()),
            (path.with_suffix(".json"), note.encode()),
        ):
            write_whole(place, content)
    except OSError:
        return
