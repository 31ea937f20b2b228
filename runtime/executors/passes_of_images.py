"""Assignment of images to writes of the arrays, for networks that are written in segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from memcompile.runtime.executors.machine import Machine

KEPT = 2
"""Passes whose prepared arrays are kept in memory; others are written anew, alike, when needed."""

E = TypeVar("E")


class PassExecutors(Generic[E]):
    """An executor for each pass; image i belongs to pass i // batch.

    Parameters
    ----------
    first
        The machine of pass 0; it serves all passes if nothing differs between them.
    machine_of
        Makes the machine of another pass.
    executor_of
        Makes the executor of a machine.
    """

    def __init__(
        self, first: Machine, machine_of: Callable[[int], Machine], executor_of: Callable[[Machine], E]
    ) -> None:
        self._batch = first.program.placement.batch if first.differs_between_passes else 0
        self._machine_of, self._executor_of = machine_of, executor_of
        self.first = executor_of(first)
        self._recent: dict[int, E] = {0: self.first}

    def groups(self, images: NDArray[np.int64], items: int) -> Iterator[tuple[E, Any]]:
        """Executors with the items of a layer that are theirs, as an index.

        Parameters
        ----------
        images
            Number of each image of a chunk, ascending.
        items
            Number of the layer's items, the same for each image; if they cannot be divided so, all belong to the first
            image.
        """
        passes = images // self._batch if self._batch else np.zeros(1, np.int64)
        if passes[0] == passes[-1] or items % len(images):
            yield self._executor(int(passes[0])), slice(None)
            return
        of_item = np.repeat(passes, items // len(images))
        for number in np.unique(passes).tolist():
            yield self._executor(number), np.flatnonzero(of_item == number)

    def _executor(self, number: int) -> E:
        executor = self._recent.pop(number, None)
        if executor is None:
            executor = self.first if number == 0 else self._executor_of(self._machine_of(number))
        self._recent[number] = executor
        while len(self._recent) > KEPT:
            del self._recent[next(iter(self._recent))]
        return executor
