"""Digits as documents: topics of 1,797 handwritten digits, with pixels as words.

Each 8 x 8 image is a bag of words: pixel v with gray value c (0 to 16) is word v repeated c times,
about 312 tokens per image. A topic is then a distribution over pixels that can be displayed: a
stroke, or a shape that several digits share.

    topic_k     ~ Dirichlet(0.5, ..., 0.5),      k = 1..K         # over 64 pixels, K = 10
    mixture_d   ~ Dirichlet(0.5, ..., 0.5),      d = 1..1797      # over K topics
    word_dn     ~ Categorical(mixture_d topic),  n = 1..total_d   # topics of tokens summed out

Real, complete and in scikit-learn: a corpus of 561,718 tokens on which libraries can be compared
without a download. The model is misspecified in an instructive way (gray values of neighbors are
correlated, tokens are not independent), so that held-out scores measure methods, not truth. There
are many local optima: ten digits are not the best ten topics.

References:
    Blei, Ng and Jordan (2003), Latent Dirichlet allocation, JMLR 3, 993-1022.
    Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, doi:10.24432/C50P49.
"""

from __future__ import annotations

from zoo.errors import UsageError
from zoo.models.topics._corpus import corpus, features, topic_quantities
from zoo.models.topics._topics import check_settings, counts_program
from zoo.types import Data, ModelEntry, Program

IMAGES, PIXELS = 1797, 64


def make_data(seed: int, documents: int, K: int, alpha: float, beta: float) -> Data:
    """Return the first `documents` images as word counts; real data do not depend on the seed.

    Raises:
        UsageError: an option out of range.
    """
    from sklearn.datasets import load_digits

    check_settings("lda_digits", topics=K, alpha=alpha, beta=beta)
    if not 4 <= documents <= IMAGES:
        raise UsageError(f"lda_digits got documents={documents}; accepted: 4 to {IMAGES}.")
    grid = {"image_row": range(1, 9), "image_column": range(1, 9)}
    names = [f"{r},{c}" for r in grid["image_row"] for c in grid["image_column"]]
    return corpus(
        load_digits().data[:documents],
        names,
        source=(
            "Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI,"
            " doi:10.24432/C50P49; the copy of scikit-learn"
        ),
        licence="CC-BY-4.0",
        coords=grid,
    )


def build(data: Data, documents: int, K: int, alpha: float, beta: float) -> Program:
    """Return the program; with `index`, `totals` and `counts` hold a minibatch of images."""
    size = len(data.train["counts"])
    return counts_program(documents=size, vocabulary=PIXELS, topics=K, alpha=alpha, beta=beta)


ENTRY = ModelEntry(
    name="lda_digits",
    title="Topics of handwritten digits: pixels as words",
    make_data=make_data,
    build=build,
    quantities=topic_quantities([0, 1, 2, 3], [19, 20, 27, 28, 36]),
    reference="none",
    families=("dirichlet", "topic_encoder"),
    options={"documents": IMAGES, "K": 10, "alpha": 0.5, "beta": 0.5},
    minibatch=256,
    amortize=features,
    tags=frozenset({"topics", "real", "minibatch", "large"}),
    cites=(
        "Blei, Ng and Jordan (2003), Latent Dirichlet allocation, JMLR 3, 993-1022",
        (
            "Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI,"
            " doi:10.24432/C50P49"
        ),
    ),
    notices=(
        (
            "No reference is known for a corpus of this size; methods are compared on held-out"
            " images, see docs/results/lda.md."
        ),
    ),
)
