"""Model and data as they were read, from which programs for any target and with any options are compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import ArrayLike, NDArray

from memcompile.data.loader import Data, Dataset, check_types, load_dataset, open_archive
from memcompile.errors import UsageError
from memcompile.frontend.batch_axes import Found, find_batching
from memcompile.frontend.importer import ModelFile, import_graph
from memcompile.frontend.sandbox import Limits
from memcompile.frontend.sessions import run_session
from memcompile.frontend.sources import Network, open_network
from memcompile.ir.graph import Graph, TensorType


@dataclass(frozen=True, eq=False)
class Source:
    """A model, its data, and what was found of their axes."""

    model: ModelFile
    dataset: Dataset
    found: Found

    @cached_property
    def sample(self) -> dict[str, NDArray[Any]]:
        """One run to observe shapes on."""
        return _sample(self.dataset)

    @cached_property
    def graph(self) -> Graph:
        """The graph as imported."""
        return import_graph(self.model, self.sample, self.found.batching)


def read_source(
    model: Network,
    *,
    data: Data = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    frozen_inputs: Mapping[str, ArrayLike] | None = None,
    example_inputs: Sequence[Any] | None = None,
    seed: int = 0,
    limits: Limits | None = None,
) -> Source:
    """Read a model and its data; parameters are those of :func:`~memcompile.pipelines.compile_model`.

    Raises
    ------
    MemcompileError
        Any fault of the model or the data.
    """
    file = open_network(model, limits, example_inputs, frozen_inputs)
    wanted = _bind(file.inputs, input_shapes or {})
    check_types(wanted)
    stored = open_archive(data, wanted)
    found = find_batching(file, wanted, {} if stored is None else stored.arrays)
    dataset = load_dataset(
        data,
        found.inputs if data is None else _open(wanted, found),
        mean=mean,
        std=std,
        seed=seed,
        batching=found.batching,
        stored=stored,
        classify=_Network(file).run,
    )
    return Source(file, dataset, found)


def _bind(inputs: Mapping[str, TensorType], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TensorType]:
    """Set free dimensions to the sizes that the user gave."""
    bound = dict(inputs)
    for name, shape in shapes.items():
        if name not in inputs:
            raise UsageError(f"the model has no input {name!r}; its inputs are {', '.join(inputs) or 'none'}")
        kind = inputs[name]
        fits = len(shape) == len(kind.shape) and all(
            own in (None, given) for own, given in zip(kind.shape, shape, strict=True)
        )
        if not fits or min(shape, default=1) < 1:
            raise UsageError(f"input {name!r} is {kind}; --input-shape gives {list(shape)}, which does not fit")
        bound[name] = TensorType(kind.dtype, tuple(shape))
    return bound


class _Network:
    """The float network in onnxruntime, opened when it is first run."""

    def __init__(self, file: ModelFile) -> None:
        self._file = file

    @cached_property
    def _session(self) -> ort.InferenceSession:
        return self._file.open_session(once=True)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Outputs for one batch."""
        names = [value.name for value in self._session.get_outputs()]
        return dict(zip(names, run_session(self._session, names, feeds, self._file.name), strict=True))


def _open(inputs: Mapping[str, TensorType], found: Found) -> dict[str, TensorType]:
    """Types that data have to fit: sizes that neither the model nor the user fixes are open, and so is a free batch."""
    return {
        name: TensorType(
            kind.dtype,
            tuple(
                found.inputs[name].shape[axis] if axis == found.batching.inputs[name] else size
                for axis, size in enumerate(kind.shape)
            ),
        )
        for name, kind in inputs.items()
    }


def _sample(dataset: Dataset) -> dict[str, NDArray[Any]]:
    """One run to observe shapes on: one image where the batch is free."""
    batching = dataset.batching
    return batching.feeds(dataset.calibration, np.arange(batching.size or 1) % batching.count(dataset.calibration))
