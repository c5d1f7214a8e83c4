"""User corpora and generated ones: what is accepted, refusals, and the generator."""

import numpy as np
import pytest
import scipy.sparse
import torch

import zoo
from zoo.errors import DataError, UsageError
from zoo.models.topics._corpus import corpus, corpus_from_texts, topic_entry
from zoo.models.topics.lda import bars, generate

MATRIX = np.array([[2, 0, 1], [0, 3, 0]])


def test_a_sparse_matrix_with_a_vocabulary_becomes_an_entry():
    data = corpus(scipy.sparse.csr_matrix(MATRIX), ["a", "b", "c"])
    assert data.train["counts"].tolist() == MATRIX.tolist()
    assert data.train["totals"].tolist() == [3.0, 3.0]
    entry = topic_entry(data, name="mine", topics=2)
    assert entry.load_data() is data
    assert entry.with_options(K=3).program(data) is not None
    with pytest.raises(UsageError, match="at least 2"):
        topic_entry(data, name="mine", topics=1)


@pytest.mark.parametrize(
    ("counts", "vocabulary", "said"),
    [
        (np.zeros((0, 3)), None, "accepted: a matrix"),
        ([1.0, 2.0], None, "accepted: a matrix"),
        (MATRIX, ["a", "b"], "3 columns but the vocabulary 2 words"),
        (MATRIX - 1, None, "negative"),
        (MATRIX * 0.5, None, "no whole numbers"),
        (MATRIX * np.nan, None, "NaN"),
        (MATRIX * np.array([[1], [0]]), None, "row 1"),
        (scipy.sparse.csr_matrix((60_000, 1_000)), None, "at most 50,000,000"),
    ],
)
def test_broken_corpora_are_refused_with_what_to_do(counts, vocabulary, said):
    with pytest.raises(DataError, match=said):
        corpus(counts, vocabulary)


def test_texts_are_counted(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("money bank money", encoding="utf-8")
    data = corpus_from_texts([path, "river bank"])
    assert list(data.coords["word"]) == ["bank", "money", "river"]
    assert data.train["counts"].tolist() == [[1, 2, 0], [1, 0, 1]]


def test_texts_that_cannot_be_counted_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        corpus_from_texts([tmp_path / "missing.txt"])
    with pytest.raises(DataError, match="loosen"):
        corpus_from_texts(["a b", "c d"])
    with pytest.raises(UsageError, match="CountVectorizer"):
        corpus_from_texts(["a b"], no_such_option=1)
    with pytest.raises(DataError, match="no words"):
        corpus_from_texts(["money bank", "money river", "xx"], min_df=2)


def test_bars_are_rows_then_columns_and_the_recipe_repeats():
    topics = bars(3)
    assert topics.shape == (6, 9)
    assert topics.sum(1).tolist() == pytest.approx([1.0] * 6)
    assert topics[0].nonzero().flatten().tolist() == [0, 1, 2]
    assert topics[3].nonzero().flatten().tolist() == [0, 3, 6]
    a, b, c = generate(topics, 4, 20, 0), generate(topics, 4, 20, 0), generate(topics, 4, 20, 1)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert a.sum(1).tolist() == [20.0] * 4


def test_generated_words_have_the_shares_of_the_topics():
    topics = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], dtype=torch.float64)
    share = generate(topics, 400, 50, 3).sum(0) / 20_000
    # mixtures vary, so documents are the independent units: sd of a document's share of word 0 is
    # at most 0.3
    assert (share - topics.mean(0)).abs().max() < 5 * 0.3 / 400**0.5


def test_digits_are_the_documents_of_scikit_learn():
    data = zoo.load("lda_digits").load_data()
    assert tuple(data.train["counts"].shape) == (1797, 64)
    assert data.train["counts"].sum() == 561_718
    with pytest.raises(UsageError, match="4 to 1797"):
        zoo.load("lda_digits", documents=2000).load_data()
    with pytest.raises(UsageError, match="side from 2 to 10"):
        zoo.load("lda", side=1).load_data()
