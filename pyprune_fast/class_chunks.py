"""One pass over the images of some classes after the other, so that only the counts of those need memory.

Letters: K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from torch import Tensor

from ._checks import check_count
from .estimators import ChunkedInformation, Estimator, LabelInformation
from .inputs import chosen, tensors_of
from .observe import named
from .ops._common import classes as checked_labels

Batches = Iterable[tuple[Any, Tensor | None]]


class ClassChunks:
    """Observers and batches of a pass in which estimators see `size` classes at a time; see ChunkedInformation.

    Run the model on `batches` with `observers` in place; `informations` then hold what estimators of all K classes would.

    Args:
        estimators: layer name -> an estimator with levels and num_classes, AuraInformation or ChannelInformation; not changed.
        size: classes of a chunk.
        read: gives all batches, once for each chunk.

    Raises:
        ValueError: an estimator without num_classes; while batches are read, labels that are no classes, or NaN.
    """

    def __init__(self, estimators: Mapping[str, Estimator], size: int, read: Callable[[], Batches]) -> None:
        self.informations = {layer: ChunkedInformation() for layer in estimators}
        self.observers: dict[str, Estimator] = {layer: copy.copy(e).reset() for layer, e in estimators.items()}
        self.images = 0  # of those counted
        self._size, self._read = size, read
        classes = next(iter(estimators.values())).num_classes
        if classes is None:
            raise ValueError("class_chunk: wanted num_classes, since the model's output is not (N, K), got None")
        self._classes = classes

    def batches(self) -> Iterator[tuple[Any, Tensor]]:
        """The images of each chunk after the other, with labels that count from the chunk's first class."""
        for low in range(0, self._classes, self._size):
            high = min(low + self._size, self._classes)
            for observer in self.observers.values():
                observer.reset().num_classes = high - low
            for inputs, given in self._read():
                labels = cast(Tensor, checked_labels("class_chunk", tensors_of(inputs)[0], given, self._classes, None)[0])
                mine = (labels >= low) & (labels < high)
                if count := int(mine.sum()):
                    self.images += count
                    yield chosen(inputs, mine), labels[mine] - low
            for layer, observer in self.observers.items():
                named(layer, self.informations[layer].add, observer)
        for observer in self.observers.values():
            observer.reset()


def check_class_chunk(class_chunk: int, criterion: Estimator, loader: Iterable[Any]) -> None:
    """TypeError or ValueError for what cannot be scored in chunks of classes."""
    check_count("score_model", "class_chunk", class_chunk, 1)
    if not isinstance(criterion, LabelInformation):
        wanted = "AuraInformation or ChannelInformation with class_chunk"
        raise ValueError(f"score_model: criterion: wanted {wanted}, got {type(criterion).__name__}")
    if isinstance(loader, Iterator):
        raise ValueError("score_model: loader: wanted one that can be read again for every chunk of classes, got an iterator")


def check_memory(
    estimators: Mapping[str, Estimator], axes: Mapping[str, int], class_chunk: int | None, max_bytes: int, sets: int = 1
) -> None:
    """ValueError if the counts of all layers together would take more than max_bytes; sets each estimator's own limit to it.

    Args:
        estimators: layer name -> an estimator with levels.
        axes: layer name -> number of spatial axes of its maps.
        class_chunk: classes that are counted at a time; None for all.
        max_bytes: the limit.
        sets: how many sets of counts there will be of each estimator.
    """
    total = 0
    for layer, estimator in estimators.items():
        estimator.max_bytes = max_bytes
        classes = estimator.num_classes or 1
        total += sets * estimator.state_bytes(axes[layer]) * min(class_chunk or classes, classes) // classes
    if total > max_bytes:
        savings = "; ".join(sorted({estimator.savings for estimator in estimators.values()}))
        savings = savings if sets == 1 else f"without confidence, which takes {sets} sets of counts; or {savings}"
        raise ValueError(
            f"score_model: max_bytes: wanted counts of at most {max_bytes:,} bytes, got {total:,} bytes in {len(estimators)}"
            f" layers; smaller with fewer layers at a time, or {savings}"
        )
