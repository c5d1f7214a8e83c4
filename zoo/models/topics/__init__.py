"""Topic models: latent Dirichlet allocation, and entries from the user's own corpus.

from zoo.models.topics import corpus, corpus_from_texts, topic_entry
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.models.topics._corpus import corpus as corpus
    from zoo.models.topics._corpus import corpus_from_texts as corpus_from_texts
    from zoo.models.topics._corpus import topic_entry as topic_entry

__all__ = ["corpus", "corpus_from_texts", "topic_entry"]


def __getattr__(name: str) -> Any:
    """Import the corpus tools on first use, so that listing entries stays cheap."""
    if name not in __all__:
        raise AttributeError(f"module 'zoo.models.topics' has no attribute {name!r}")
    from zoo.models.topics import _corpus

    return getattr(_corpus, name)
