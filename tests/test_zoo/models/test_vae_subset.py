"""The evaluation subset of the autoencoders, on rows that are their own numbers."""

import pytest
import torch

from zoo.models.autoencoders.vae import judged
from zoo.types import Data


def data_of(train, held):
    """Return data whose pixels are the row numbers, from 100 for held-out rows."""

    def part(labels, first):
        label = torch.tensor(labels)
        return {"x": (torch.arange(len(label)) + first)[:, None], "label": label}

    return Data(
        train=part(train, 0),
        test=part(held, 100),
        observed=("x",),
        batched=("x", "label"),
        size=len(train),
        coords={"image": [str(i) for i in range(len(train))], "latent": ["z1"]},
        dims={"x": ("image", "pixel"), "label": ("image",), "z": ("image", "latent")},
    )


def test_the_subset_is_the_first_image_of_each_class_of_each_part():
    chosen = judged(data_of([2, 0, 2, 1, 0, 1, 1], [1, 1, 0, -1, 0, 2]))
    assert chosen.train["x"][:, 0].tolist() == [1, 3, 0, 102, 100, 105]
    assert chosen.train["label"].tolist() == [0, 1, 2, 0, 1, 2]
    assert chosen.coords["image"] == [
        *("0 train", "1 train", "2 train"),
        *("0 held out", "1 held out", "2 held out"),
    ]
    assert chosen.coords["latent"] == ["z1"]
    assert chosen.size == 6
    assert chosen.test is None


@pytest.mark.parametrize("label", [-1, 4])
@pytest.mark.parametrize("rows", [9, 10, 11])
def test_without_classes_the_subset_is_the_first_ten_images_of_each_part(label, rows):
    """Ten, as many as there are digits: also of one class, and of images without labels."""
    chosen = judged(data_of([label] * rows, [label] * 3))
    first = list(range(min(rows, 10)))
    assert chosen.train["x"][:, 0].tolist() == [*first, 100, 101, 102]
    assert chosen.coords["image"] == [
        *(f"{r} train" for r in first),
        *("0 held out", "1 held out", "2 held out"),
    ]


def test_of_more_than_ten_classes_the_first_ten_are_taken():
    chosen = judged(data_of(list(range(12))[::-1], [0, 1]))
    assert chosen.train["label"].tolist() == [*range(10), 0, 1]


def test_data_without_held_out_images_are_the_subset():
    data = data_of([0, 1], [0, 1])
    whole = Data(train=data.train, observed=("x",), batched=("x", "label"), size=2)
    assert judged(whole) is whole
