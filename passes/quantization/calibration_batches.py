"""Cuts calibration data into batches that the model takes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.batching import Batching
from memcompile.ir.graph import DigitalNode, Graph, Node, read_values
from memcompile.program.coupled_samples import any_couples_samples
from memcompile.verify.interpreter import Interpreter

L = TypeVar("L", bound=Node)
IMAGES_AT_ONCE = 32
"""Images of a batch, where the model leaves the batch size open."""
RUN_VALUES = 1 << 23
"""Numbers that an operator reads and makes for the images of one run, or of a single image, at most."""


def calibration_batches(graph: Graph, data: Mapping[str, NDArray[Any]], images: int) -> list[dict[str, NDArray[Any]]]:
    """At most ``images`` samples in batches, [batch, ...] per model input; a fixed batch size gives full ones only."""
    batching = graph.batching or Batching.along_first({name: graph.types[name] for name in graph.inputs})
    count = min(images, batching.count(data))
    size = 1 if batching.one_by_one else batching.size
    if size is None and any_couples_samples(graph.nodes):
        size = 1
    if size is None:
        edges = [*range(0, count, IMAGES_AT_ONCE), count]
        return [batching.feeds(data, slice(a, b)) for a, b in itertools.pairwise(edges)]
    # Too few samples for one batch are repeated.
    parts = [np.arange(size) % count] if count < size else list(np.arange(count // size * size).reshape(-1, size))
    return [batching.feeds(data, part) for part in parts]


@dataclass(frozen=True, eq=False)
class Run:
    """Inputs of one run of a model, and the number of images among them."""

    feeds: Mapping[str, NDArray[Any]]
    images: int


def runs_of_batch(graph: Graph, batch: Mapping[str, NDArray[Any]], wanted: Iterable[str]) -> list[Run]:
    """Parts of a batch that take less memory, one after the other.

    The values ``wanted`` of all parts are in order those of the batch. A batch is not cut where its size is no choice
    of ours, or where images do not lie along the first axis of each of these values.
    """
    batching = graph.batching or Batching.along_first({name: graph.types[name] for name in graph.inputs})
    fixed = batching.one_by_one or batching.size is not None
    count, at_once = batching.count_of_run(batch), max(RUN_VALUES // max(_values_of_image(graph), 1), 1)
    if fixed or at_once >= count or not all(_counts_images(graph.types[value].shape) for value in wanted):
        return [Run(batch, count)]
    edges = [*range(0, count, at_once), count]
    return [Run(batching.feeds(batch, slice(a, b)), b - a) for a, b in itertools.pairwise(edges)]


def layer_inputs(
    interpreter: Interpreter, batch: Mapping[str, NDArray[Any]], layers: Sequence[L]
) -> Iterator[tuple[L, NDArray[Any]]]:
    """Input of each layer for the images of a batch, as the network comes to it, part of the batch by part.

    No more values than the network itself needs are held at a time.
    """
    wanted = [layer.inputs[0] for layer in layers]
    for run in runs_of_batch(interpreter.graph, batch, wanted):
        for layer, (_, value) in zip(layers, interpreter.values(run.feeds, wanted), strict=True):
            yield layer, value


def _counts_images(shape: tuple[int | None, ...]) -> bool:
    """Return True if the first size of a value, and no other, is open."""
    return shape[:1] == (None,) and None not in shape[1:]


def _values_of_image(graph: Graph) -> int:
    """Most numbers that an operator or a layer reads and makes for one image; an open size counts as one."""
    shapes = {name: kind.shape for name, kind in graph.types.items() if name not in graph.constants}
    numbers = {name: math.prod(1 if size is None else size for size in shape) for name, shape in shapes.items()}
    nodes = (each for node in graph.nodes for each in (node.nodes if isinstance(node, DigitalNode) else (node,)))
    touched = ({*read_values(node), *node.outputs} for node in nodes)
    return max((sum(numbers.get(value, 0) for value in values) for values in touched), default=0)
