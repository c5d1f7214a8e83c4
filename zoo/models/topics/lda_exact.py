"""Topics, exactly: three documents of six words, with all assignments of topics summed.

The corpus is Steyvers and Griffiths' "bank" (of a river, or for money): one document about money,
one about a river, one about both.

    topic_k     ~ Dirichlet(beta, ..., beta),       k = 1..K     # over 5 words
    mixture_d   ~ Dirichlet(alpha, ..., alpha),     d = 1..3     # over K topics
    z_dn        ~ Categorical(mixture_d),           n = 1..6     # topic of a token, summed out
    word_dn     ~ Categorical(topic_{z_dn})

Given the assignments z everything is conjugate, and there are K^18 of them: 262,144 for K = 2, 387
million for K = 3, which `zoo.truth.lda_enumeration` sums through tables of counts. So the
evidence, the probability that two tokens share a topic, and independent posterior draws
(assignments first, then Dirichlets) are exact for the kind of model whose posterior is otherwise
unknown. It is still hard for a guide: eighteen tokens leave the topics very uncertain, the K!
labelings overlap, and a normal approximation covers one of them or lies between them. Labels are
free, so raw sites are never compared.

References:
    Blei, Ng and Jordan (2003), Latent Dirichlet allocation, JMLR 3, 993-1022.
    Steyvers and Griffiths (2007), Probabilistic topic models, in Handbook of Latent Semantic
    Analysis (the bank example). Griffiths and Steyvers (2004), Finding scientific topics, PNAS
    101, 5228-5235 (the collapsed posterior).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from zoo.errors import UsageError
from zoo.models.topics._topics import (
    check_settings,
    co_occurrence,
    counts_of,
    tokens_program,
    topic_sharing,
    word_share,
)
from zoo.quantities import co_assignment
from zoo.truth.lda_enumeration import TopicTables
from zoo.types import Analytic, Data, ModelEntry, Program, Quantity

WORDS = ("river", "stream", "bank", "money", "loan")
DOCUMENTS = (
    "money loan bank bank money loan",
    "river stream bank river stream bank",
    "bank money river loan bank stream",
)
EACH = 6  # tokens of a document
PAIRS = list(combinations(range(3), 2))  # of documents
WORD_PAIRS = [(0, 1), (3, 4), (0, 3), (2, 3), (0, 2), (2, 2)]
# Tokens as (document, position): two moneys, money and loan, bank beside money and beside river,
# money in two documents, ...
TOKENS = [
    ((0, 0), (0, 4)),
    ((0, 0), (0, 1)),
    ((0, 0), (0, 2)),
    ((0, 2), (1, 2)),
    ((0, 0), (1, 0)),
    ((0, 0), (2, 1)),
    ((2, 1), (2, 2)),
]


def _name(place: tuple[int, int]) -> str:
    return f"{DOCUMENTS[place[0]].split()[place[1]]} in {place[0] + 1}"


def make_data(seed: int, K: int, alpha: float, beta: float, words: str) -> Data:
    """Return the corpus; it does not depend on the seed.

    Raises:
        UsageError: an option out of range.
    """
    check_settings("lda_exact", topics=K, alpha=alpha, beta=beta)
    if words not in ("summed", "enumerated"):
        raise UsageError(f"Option words of lda_exact got {words!r}; accepted: summed, enumerated.")
    tokens = torch.tensor([[WORDS.index(w) for w in text.split()] for text in DOCUMENTS])
    return Data(
        train={"words": tokens},
        observed=("words",),
        batched=("words",),
        size=len(tokens),
        coords={
            "document": ("money", "river", "both"),
            "word": WORDS,
            "document_pair": [f"{d + 1} and {e + 1}" for d, e in PAIRS],
            "word_pair": [f"{WORDS[v]}, {WORDS[w]}" for v, w in WORD_PAIRS],
            "token_pair": [f"{_name(a)}, {_name(b)}" for a, b in TOKENS],
        },
        dims={
            "words": ("document", "token"),
            "topic": ("topic_number", "word"),
            "mixture": ("document", "topic_number"),
        },
        source="written for this entry after Steyvers and Griffiths (2007)",
        licence="CC0-1.0",
    )


def build(data: Data, K: int, alpha: float, beta: float, words: str) -> Program:
    """Return the program with the topic of every token summed out, by hand or enumerated."""
    documents, tokens = data.train["words"].shape
    sizes: dict[str, Any] = {
        "documents": documents,
        "tokens": tokens,
        "vocabulary": len(WORDS),
        "topics": K,
    }
    return tokens_program(**sizes, alpha=alpha, beta=beta, enumerated=words == "enumerated")


def responsibilities(draws: Mapping[str, Tensor], data: Data) -> Tensor:
    """Return p(topic of a token | word, mixture, topics), `[*sample, token, topic]`.

    Tokens are counted over all documents.
    """
    tokens = data.train["words"]
    chosen = draws["topic"][..., tokens.reshape(-1)].transpose(-1, -2)  # [*sample, token, topic]
    joint = draws["mixture"].repeat_interleave(tokens.shape[1], -2) * chosen
    return joint / joint.sum(-1, keepdim=True)


def analytic(data: Data, K: int, alpha: float, beta: float, words: str) -> Analytic:
    """Return exact draws, and the log evidence in nats of the eighteen words in their order."""
    tables = TopicTables(counts_of(data.train, len(WORDS)).numpy(), K, alpha, beta)

    def sample(n: int, seed: int) -> Mapping[str, Tensor]:
        topics, mixtures = tables.sample(n, seed)
        return {"topic": torch.as_tensor(topics), "mixture": torch.as_tensor(mixtures)}

    return Analytic(sample=sample, log_evidence=tables.log_evidence)


def amortize(tensors: Mapping[str, Any]) -> Tensor:
    """Return the encoder input of each document: root word counts, `[document, word]`."""
    return counts_of(tensors, len(WORDS)).sqrt()


ENTRY = ModelEntry(
    name="lda_exact",
    title="Topics of three documents of six words, evidence and posterior by enumeration",
    make_data=make_data,
    build=build,
    quantities={
        "word_share": Quantity(
            fn=word_share(),
            dims=("document", "word"),
            description="chance of a word as the next token of a document",
        ),
        "topic_sharing": Quantity(
            fn=topic_sharing(PAIRS),
            dims=("document_pair",),
            description="chance that tokens of two documents share a topic",
        ),
        "co_occurrence": Quantity(
            fn=co_occurrence(WORD_PAIRS),
            dims=("word_pair",),
            description="chance that two tokens of one random topic are these words",
        ),
        "co_assignment": Quantity(
            fn=co_assignment(
                responsibilities, [(d * EACH + n, e * EACH + m) for (d, n), (e, m) in TOKENS]
            ),
            dims=("token_pair",),
            description="chance that two tokens have the same topic",
        ),
    },
    reference="analytic",
    families=("mean_field", "full_rank", "low_rank", "laplace", "amortized", "dirichlet"),
    analytic=analytic,
    amortize=amortize,
    options={"K": 2, "alpha": 1.0, "beta": 0.5, "words": "summed"},
    tags=frozenset({"topics", "discrete", "enumeration", "minibatch"}),
    cites=(
        "Blei, Ng and Jordan (2003), Latent Dirichlet allocation, JMLR 3, 993-1022",
        (
            "Steyvers and Griffiths (2007), Probabilistic topic models, Handbook of Latent"
            " Semantic Analysis"
        ),
    ),
    notices=(
        (
            "Topics have no names: the posterior has K! identical parts, and only quantities that"
            " no relabeling changes are compared."
        ),
    ),
)
