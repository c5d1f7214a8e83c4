"""What a mixture offers beside its card: the class probabilities of each row, for figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.fields import FUNCTION, checked

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.types import Data

__all__ = ["Classes"]


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Functions of the classes of a mixture, `CLASSES` of its file.

    Attributes:
        responsibilities: `(draws, data) -> [*sample, row, class]`, the probability of each class
            given the parameters.
        normals: `(draws, basis) -> (locations, roots, weights)` of normal classes projected to the
            columns of `basis`, None if the classes are no normals.
        co_clustering: `(data, **options) -> [row, row]`, the exact probability that two rows share
            a class, None if it is unknown.

    Raises:
        UsageError: a field that is no function.
    """

    responsibilities: Callable[[Mapping[str, Tensor], Data], Tensor]
    normals: Callable[[Mapping[str, Tensor], Tensor], tuple[Tensor, Tensor, Tensor]] | None = None
    co_clustering: Callable[..., Tensor] | None = None

    def __post_init__(self) -> None:
        """Reject what cannot be called."""
        checked(self, responsibilities=FUNCTION, normals=FUNCTION | None)
        checked(self, co_clustering=FUNCTION | None)
