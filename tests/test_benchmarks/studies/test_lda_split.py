"""The split of the digits that the page of the study states."""

import torch

import zoo
from benchmarks.studies.lda import measure


def test_1500_images_train_and_the_other_297_are_held_out():
    train, held = measure.digits()
    assert [len(train), len(held)] == [1500, 297]
    whole = zoo.load("lda_digits").load_data().train["counts"]
    assert torch.equal(torch.cat([train, held]).sum(0), whole.sum(0))  # each is in one part
