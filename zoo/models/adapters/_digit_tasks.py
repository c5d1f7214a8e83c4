"""Shifted tasks for a frozen digit classifier, with out-of-distribution (OOD) images.

| task | images | OOD images |
|---|---|---|
| `rotation` | rotated by 30 degrees | rotated by 75 degrees; held-out classes |
| `inversion` | 1 - x plus noise of sd 0.2, clipped | rotated by 75 degrees; held-out classes |
| `new_classes` | clean | clean images of the training classes |

Tasks have few labels. The classes are the seven of the backbone, for `new_classes` the three
held-out ones on the first three output units. Pixels lie in [0, 1]. No image that trained the
backbone is used. The OOD sets get the same change as the task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zoo.errors import UsageError
from zoo.models.adapters._backbone import CLASSES, HELD_OUT, digits, training_rows
from zoo.seeds import derive_seed

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LABELS", "TASKS", "Task", "make_task"]

TASKS = ("rotation", "inversion", "new_classes")
LABELS = (64, 128, 256)
ANGLE, FAR_ANGLE, NOISE = 30.0, 75.0, 0.2  # degrees, degrees, sd of pixels in [0, 1]
TEST = {"rotation": 350, "inversion": 350, "new_classes": 250}


@dataclass(frozen=True, kw_only=True)
class Task:
    """Images `[row, 8, 8]`, output units `[row]` and classes of a task; OOD images by name."""

    train: np.ndarray
    train_unit: np.ndarray
    test: np.ndarray
    test_unit: np.ndarray
    classes: tuple[int, ...]
    outside: dict[str, np.ndarray]


def make_task(task: str, labels: int, seed: int) -> Task:
    """Make a task; equal seeds give nested sets of labels.

    Args:
        task: name of the task.
        labels: number of labeled images.
        seed: decides which images are labeled and which are tested.

    Raises:
        UsageError: an unknown task, or a number of labels outside 16 to 256.
    """
    if task not in TASKS:
        raise UsageError(f"Option task of lora_head got {task!r}; accepted: {', '.join(TASKS)}.")
    if not 16 <= labels <= max(LABELS):
        raise UsageError(
            f"Option labels of lora_head got {labels}; accepted: 16 to {max(LABELS)} labeled"
            " images."
        )
    images, digit = digits()
    classes = HELD_OUT if task == "new_classes" else CLASSES
    unseen = np.setdiff1d(np.arange(len(digit)), training_rows())
    own = unseen[np.isin(digit[unseen], classes)]
    order = np.random.default_rng(derive_seed("lora_head", task, seed)).permutation(own)
    train, test = order[:labels], order[len(order) - TEST[task] :]
    others = CLASSES if task == "new_classes" else HELD_OUT
    strangers = unseen[np.isin(digit[unseen], others)][: TEST[task]]
    unit = {c: i for i, c in enumerate(classes)}
    outside = {"other classes": _change(images[strangers], task, strangers)}
    if task != "new_classes":
        outside["other rotation"] = _change(
            _turn(images[test], FAR_ANGLE if task == "inversion" else FAR_ANGLE - ANGLE),
            task,
            test,
        )
    return Task(
        train=_change(images[train], task, train),
        train_unit=np.array([unit[c] for c in digit[train]]),
        test=_change(images[test], task, test),
        test_unit=np.array([unit[c] for c in digit[test]]),
        classes=classes,
        outside=outside,
    )


def _turn(images: np.ndarray, degrees: float) -> np.ndarray:
    from scipy.ndimage import rotate

    return np.clip(rotate(images, degrees, axes=(2, 1), reshape=False, order=1), 0.0, 1.0)


def _change(images: np.ndarray, task: str, rows: np.ndarray) -> np.ndarray:
    """Change images as the task does; an image gets the same noise in every set."""
    if task == "rotation":
        return _turn(images, ANGLE)
    if task == "inversion":
        noise = np.random.default_rng(derive_seed("lora_head", "noise")).normal(
            0.0, NOISE, (len(digits()[1]), 8, 8)
        )
        return np.clip(1.0 - images + noise[rows], 0.0, 1.0)
    return images
