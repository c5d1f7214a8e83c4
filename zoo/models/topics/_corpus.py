"""Corpora for topic models, from a matrix of counts or from texts.

    from zoo.models.topics import corpus_from_texts, topic_entry

    data = corpus_from_texts(sorted(Path("letters").glob("*.txt")), min_df=5, stop_words="english")
    ENTRY = topic_entry(data, name="letters", topics=8)

In a file `letters.py` these lines make `zoo compare letters.py --guides all` work; `zoo check
letters.py` checks it against the contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import DataError, UsageError
from zoo.models.topics._topics import (
    check_settings,
    co_occurrence,
    counts_of,
    counts_program,
    topic_sharing,
    word_share,
)
from zoo.types import Data, ModelEntry, Program, Quantity

__all__ = ["corpus", "corpus_from_texts", "features", "topic_entry", "topic_quantities"]

LARGEST = 50_000_000  # entries of a dense matrix
Array = np.ndarray[Any, Any]


def corpus(
    counts: Any,
    vocabulary: Sequence[str] | None = None,
    *,
    source: str = "given by the user",
    licence: str = "not stated",
    coords: Mapping[str, Sequence[Any]] | None = None,
) -> Data:
    """Return the data of a topic model.

    Args:
        counts: word counts `[document, word]`: a scipy sparse matrix, an array or a tensor of
            whole numbers.
        vocabulary: the words, one per column; default their indices.
        source: where the corpus comes from.
        licence: its terms.
        coords: further coordinates, e.g. `image_row` and `image_column` if the words are the
            pixels of an image.

    Raises:
        DataError: not a matrix, too large, negative or fractional counts, documents without words,
            or a vocabulary of another length.
    """
    matrix = _dense(counts)
    documents, words = matrix.shape
    names = [str(v) for v in range(words)] if vocabulary is None else [str(v) for v in vocabulary]
    if len(names) != words:
        raise DataError(
            f"The corpus has {words} columns but the vocabulary {len(names)} words; give one each."
        )
    empty = np.flatnonzero(matrix.sum(1) == 0)
    if len(empty):
        raise DataError(
            f"{len(empty)} of {documents} documents have no words (first: row {empty[0]}); drop"
            " them, as in m[m.sum(1) > 0]."
        )
    table = torch.as_tensor(matrix, dtype=torch.float64)
    return Data(
        train={"totals": table.sum(1), "counts": table},
        observed=("counts",),
        batched=("totals", "counts"),
        size=documents,
        coords={"word": names, **(coords or {})},
        dims={
            "totals": ("document",),
            "counts": ("document", "word"),
            "topic": ("topic_number", "word"),
            "mixture": ("document", "topic_number"),
        },
        source=source,
        licence=licence,
    )


def _dense(counts: Any) -> Array:
    """Check counts and return them as a dense matrix."""
    shape = tuple(getattr(counts, "shape", ()))
    if len(shape) != 2 or 0 in shape:
        raise DataError(
            f"Word counts have shape {shape or type(counts).__name__}; accepted: a matrix"
            " [document, word]."
        )
    if shape[0] * shape[1] > LARGEST:
        raise DataError(
            f"The corpus has {shape[0]:,} x {shape[1]:,} counts; accepted: at most {LARGEST:,},"
            " keep fewer words (min_df=5)."
        )
    matrix = np.asarray(
        counts.toarray() if hasattr(counts, "toarray") else counts, dtype=np.float64
    )
    bad = int((~np.isfinite(matrix)).sum() + (matrix < 0).sum())
    if bad:
        raise DataError(
            f"{bad} word counts are negative, NaN or infinite; accepted: whole numbers, 0 or more."
        )
    broken = matrix[matrix != np.round(matrix)]
    if broken.size:
        raise DataError(
            f"{broken.size} word counts are no whole numbers (first: {broken[0]:.4g}); give raw"
            " counts, not tf-idf weights."
        )
    return matrix


def corpus_from_texts(
    texts: Sequence[str | Path], *, licence: str = "not stated", **options: Any
) -> Data:
    """Return the data of a topic model from texts, counted by scikit-learn's `CountVectorizer`.

    Args:
        texts: strings, or paths of text files in UTF-8.
        licence: the terms of the texts.
        **options: options of `CountVectorizer`, such as `min_df=5`, `stop_words="english"`.

    Raises:
        DataError: a file that cannot be read, no words left, or documents without any of the
            remaining words.
        UsageError: an option that `CountVectorizer` does not have.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    try:
        vectorizer = CountVectorizer(**options)
    except TypeError as error:
        raise UsageError(
            f"CountVectorizer rejects these options: {error}; see scikit-learn."
        ) from error
    contents = []
    for text in texts:
        try:
            contents.append(
                text.read_text(encoding="utf-8") if isinstance(text, Path) else str(text)
            )
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{text} cannot be read as UTF-8 text ({type(error).__name__}); fix or omit"
                " that file."
            ) from error
    try:
        counts = vectorizer.fit_transform(contents)
    except ValueError as error:
        raise DataError(
            f"No words can be counted in {len(contents)} texts: {error}; loosen min_df, max_df or"
            " stop_words."
        ) from error
    source = f"{len(contents)} texts given by the user, counted by scikit-learn's CountVectorizer"
    return corpus(
        counts, vectorizer.get_feature_names_out().tolist(), source=source, licence=licence
    )


def topic_quantities(documents: Sequence[int], words: Sequence[int]) -> dict[str, Quantity]:
    """Return label-safe quantities on a few documents and words, for large corpora.

    Raises:
        UsageError: a document or a word is named twice, so that two components would be one.
    """
    for what, chosen in (("documents", documents), ("words", words)):
        if len(set(chosen)) < len(chosen):
            raise UsageError(f"The {what} are {list(chosen)}; accepted: each of them once.")
    return {
        "word_share": Quantity(
            fn=word_share(documents, words),
            dims=("some_document", "some_word"),
            description="chance of a word as next token of a document",
        ),
        "topic_sharing": Quantity(
            fn=topic_sharing(list(combinations(documents, 2))),
            dims=("document_pair",),
            description="chance that two documents share a topic",
        ),
        "co_occurrence": Quantity(
            fn=co_occurrence(list(combinations(words, 2))),
            dims=("word_pair",),
            description="chance that one random topic gives both words",
        ),
    }


def features(tensors: Mapping[str, Any]) -> Tensor:
    """Return the encoder input of each document, `[document, word + 1]`.

    It consists of the square roots of word shares and of the log length.
    """
    counts: Tensor = tensors["counts"]
    total = counts.sum(-1, keepdim=True)
    return torch.cat([(counts / total).sqrt(), total.log()], -1)


def topic_entry(
    data: Data,
    *,
    name: str,
    topics: int = 10,
    alpha: float = 0.5,
    beta: float = 0.5,
    title: str = "",
    minibatch: int | None = 256,
) -> ModelEntry:
    """Return an entry for a corpus made by `corpus` or `corpus_from_texts`.

    Args:
        data: the corpus.
        name: name of the entry, `[a-z][a-z0-9_]*`.
        topics: K, also an option of the entry, as in `letters.py[K=20]`.
        alpha: concentration of the mixtures; an option too.
        beta: concentration of the topics; an option too.
        title: one line for tables.
        minibatch: documents per step of iteratively trained guides.

    Raises:
        UsageError: fewer than two topics, or a concentration that is not positive.
    """
    check_settings(name, topics=topics, alpha=alpha, beta=beta)
    counts = counts_of(data.train, 0)
    common = counts.sum(0).argsort(descending=True)[:4].tolist()

    def build(data: Data, K: int, alpha: float, beta: float) -> Program:
        check_settings(name, topics=K, alpha=alpha, beta=beta)
        documents, words = data.train["counts"].shape
        return counts_program(
            documents=documents, vocabulary=words, topics=K, alpha=alpha, beta=beta
        )

    return ModelEntry(
        name=name,
        title=title or f"Topics of {len(counts)} documents over {counts.shape[1]} words",
        make_data=lambda seed, **options: data,
        build=build,
        quantities=topic_quantities(list(range(min(4, len(counts)))), common),
        reference="none",
        families=("dirichlet", "topic_encoder"),
        amortize=features,
        options={"K": topics, "alpha": alpha, "beta": beta},
        minibatch=minibatch,
        tags=frozenset({"topics", "minibatch"}),
        cites=("Blei, Ng and Jordan (2003), Latent Dirichlet allocation, JMLR 3, 993-1022",),
        notices=(
            (
                "Topics have no names, and different starts find different ones; no reference is"
                " known for a corpus of this size."
            ),
        ),
    )
