"""Axes along which the samples of a batch lie in the inputs and outputs of a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

OTHER_SIZES = "where the model leaves a size open, compile it for another one with --data or --input-shape"
"""Advice of messages on inputs that a compiled program does not take."""


@dataclass(frozen=True)
class Batching:
    """Number of samples that a run of the network takes, and the axes along which they lie.

    Attributes
    ----------
    inputs
        Axis of each input along which samples lie; None where all samples of a run share one value.
    outputs
        The same of outputs that are not joined along axis 0; None where an output does not grow with the samples.
    size
        Samples of a run, None if any number will do.
    whole
        No axis counts samples: one run is one sample. Data sets stack runs along a new first axis.
    """

    inputs: Mapping[str, int | None]
    outputs: Mapping[str, int | None] = field(default_factory=dict)
    size: int | None = None
    whole: bool = False

    @classmethod
    def along_first(cls, inputs: Mapping[str, Any]) -> Batching:
        """Samples along axis 0 of everything but scalars, of inputs of these types."""
        sizes = [kind.shape[0] for kind in inputs.values() if kind.shape]
        fixed = next((size for size in sizes if size is not None), None)
        return cls({name: 0 if kind.shape else None for name, kind in inputs.items()}, {}, fixed)

    @classmethod
    def one_run(cls, inputs: Iterable[str]) -> Batching:
        """Networks whose run is one sample."""
        return cls(dict.fromkeys(inputs), {}, 1, whole=True)

    @property
    def one_by_one(self) -> bool:
        """True if runs are not joined, although their size is free or one.

        Inside such a network samples are not the first axis of values, so that the coupling of the samples of a run
        would depend on their number.
        """
        return self.whole or any(axis not in (0, None) for axis in self.inputs.values())

    @property
    def shared(self) -> frozenset[str]:
        """Inputs whose value all samples share."""
        return frozenset() if self.whole else frozenset(name for name, axis in self.inputs.items() if axis is None)

    def sample_shape(self, name: str, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Shape of one sample of an input of this shape."""
        axis = self.inputs[name]
        return shape if axis is None else (*shape[:axis], *shape[axis + 1 :])

    def counts(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        """Samples that the arrays of a data set hold, by input; without those that all samples share."""
        if self.whole:
            return {name: len(array) for name, array in arrays.items()}
        return {name: array.shape[axis] for name, array in arrays.items() if (axis := self.inputs[name]) is not None}

    def count(self, arrays: Mapping[str, NDArray[Any]]) -> int:
        """Samples of a data set; a network whose inputs are all shared has one."""
        return min(self.counts(arrays).values(), default=1)

    def count_of_run(self, feeds: Mapping[str, NDArray[Any]]) -> int:
        """Samples of one run, from the values of the inputs, which have no axis of samples if the network is whole."""
        return 1 if self.whole else self.count(feeds)

    def take(self, arrays: Mapping[str, NDArray[Any]], samples: slice | NDArray[np.integer]) -> dict[str, NDArray[Any]]:
        """Some samples of a data set, as a data set."""
        return {
            name: array if name in self.shared else array[(slice(None),) * (self.inputs.get(name, 0) or 0) + (samples,)]
            for name, array in arrays.items()
        }

    def feeds(
        self, arrays: Mapping[str, NDArray[Any]], samples: slice | NDArray[np.integer]
    ) -> dict[str, NDArray[Any]]:
        """Values of the inputs for one run with some samples, only one if the network runs as a whole."""
        taken = self.take(arrays, samples)
        if not self.whole:
            return taken
        return {name: array[0, ...] for name, array in taken.items()}

    def samples_first(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """An input's data with the samples along axis 0, [samples, *sample]; one sample of what is shared."""
        if self.whole:
            return array
        axis = self.inputs[name]
        return array[None] if axis is None else np.moveaxis(array, axis, 0)

    def laid_out(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Data of :meth:`samples_first` as the input wants them."""
        axis = self.inputs[name]
        if self.whole or axis == 0:
            return array
        return array[0, ...] if axis is None else np.ascontiguousarray(np.moveaxis(array, 0, axis))

    def join_axis(self, output: str) -> int | None:
        """Axis along which the results of several runs are joined, None if all runs have the same."""
        return self.outputs.get(output, 0)
