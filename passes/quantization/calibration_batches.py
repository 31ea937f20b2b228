"""Cuts calibration data into batches that the model takes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.batching import Batching
from memcompile.ir.graph import Graph
from memcompile.program.coupled_samples import any_couples_samples

IMAGES_AT_ONCE = 32
"""Images of a batch, where the model leaves the batch size open."""


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
