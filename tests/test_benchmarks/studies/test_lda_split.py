"""The split of the digits that the page of the study states."""

from types import SimpleNamespace

import torch

from benchmarks.studies.lda import measure


def test_1500_images_train_and_the_other_297_are_held_out(monkeypatch):
    """The 1,797 images are their own numbers here."""
    data = SimpleNamespace(train={"counts": torch.arange(1797)})
    entry = SimpleNamespace(load_data=lambda: data)
    monkeypatch.setattr(measure.zoo, "load", {"lda_digits": entry}.__getitem__)
    train, held = measure.digits()
    assert [len(train), len(held)] == [1500, 297]
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(1797))
