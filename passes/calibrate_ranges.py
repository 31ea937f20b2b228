"""Chooses the converter range of each crossbar layer from calibration data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.converter import Converter, aligned_share
from memcompile.hardware.target import Target
from memcompile.ir.graph import Graph, MappedLayer, different_replicas
from memcompile.ir.pass_contract import Count, Fidelity, Form, Forms, Share
from memcompile.ir.pass_manager import Pass, PassContext
from memcompile.ir.quantizers import InputQuantizer
from memcompile.noise.conversions import Floats, Lines, MatrixCurrents, vectors_followed, written_tiles
from memcompile.noise.gaussians import Array
from memcompile.noise.layer_inputs import LayerInputs
from memcompile.noise.line_currents import MATRICES, some_of
from memcompile.noise.program_noise import line_weights
from memcompile.passes.quantization.calibration_batches import calibration_batches, layer_inputs
from memcompile.verify.interpreter import Interpreter

Ranges = Mapping[float, Converter]
"""Candidate ranges, the longest first: share of the largest line current, and the converter with that range."""
ALIKE = 1.1
"""Factor on the least error within which a longer range is taken: it clips less of what calibration did not see."""
CLIPPED = 2.0
"""Factor on the least error at which clipping alone is so much that no shorter range is tried."""
NOTHING = 1e-9
"""Error as a share of the outputs' power that is none: sums in single precision make as much."""
CONVERSIONS_OF_VECTOR = 8192
"""Conversions for one input vector of a layer, about, that are followed at most; of wider layers some columns are."""
LEAST_COLUMNS = 4


@dataclass(frozen=True)
class CalibrateRanges(Pass):
    """Gives each layer the converter range of least squared error, if the target's range is calibrated.

    A short range clips large currents, a long one rounds all of them coarsely. Input vectors of
    the quantised network drive the layer's tiles, as they are cut, through cells that err as on one chip; the error is
    what converters add to the layer's outputs, after pairs, phases, slices and tiles are put together. Of ranges that
    are as good as equal the longest is taken. Beside each range, the next shorter one is tried at which a code is an
    integer multiple or fraction of a level step: where cells are quiet and large currents are rare, it converts levels
    exactly.
    """

    summary: ClassVar[str] = "choose each layer's converter range from calibration data"
    consumes: ClassVar[Forms] = frozenset({Form.MAPPED})
    produces: ClassVar[Forms] = frozenset({Form.MAPPED})
    fidelity: ClassVar[Fidelity] = "exact"
    images: Count = 32
    """Calibration images used, at most."""
    vectors: Count = 512
    """Approximate number of input vectors per layer; each image gives an equal number, at random positions."""
    candidates: Count = 49
    """Most ranges tried, in equal ratios, and as many beside them; none beyond one that clips too much."""
    shortest: Share = 1 / 4096
    """Shortest range tried, as a share of the target's."""

    def run(self, graph: Graph, context: PassContext) -> Graph:
        target = context.target
        layers = [node for node in graph.nodes if isinstance(node, MappedLayer)]
        if target.adc.range != "calibrated" or target.cell.continuous or not layers:
            return graph
        ranges, vectors = self._ranges(target), self._vectors(graph, layers, context)
        found = {}
        with context.progress("calibrating converter ranges", len(layers)) as advance:
            for layer in layers:
                followed = _followed(layer, vectors[layer.name], target, context.seed)
                found[layer.name] = replace(layer, range_share=_best(followed, ranges))
                advance(1)
        return graph.map_nodes(found)

    def _ranges(self, target: Target) -> Ranges:
        """Candidate ranges with different code steps."""
        found: dict[Converter, float] = {}
        for share in (target.adc.range_share * np.geomspace(1.0, self.shortest, self.candidates)).tolist():
            for own in (share, aligned_share(target, share)):
                found.setdefault(Converter.adc(target, own), own)
        return {share: converter for converter, share in sorted(found.items(), key=lambda item: -item[1])}

    def _vectors(
        self, graph: Graph, layers: Sequence[MappedLayer], context: PassContext
    ) -> dict[str, list[NDArray[np.int16]]]:
        """Input vectors of each replica that differs, by layer name, [vectors, matrices, rows]."""
        interpreter = Interpreter(graph)
        parts: dict[str, list[list[NDArray[np.int16]]]] = {layer.name: [] for layer in layers}
        batches = calibration_batches(graph, context.calibration, self.images)
        positions = max(self.vectors // self.images, 1)
        with context.progress("running calibration images", len(batches)) as advance:
            for feeds in batches:
                for layer, value in layer_inputs(interpreter, feeds, layers):
                    x = LayerInputs(layer.quantizer, layer.quantizer.quantize(layer.geometry.to_channels_first(value)))
                    count, seed = positions * len(x.values), context.seed + len(parts[layer.name])
                    own = [
                        x.vectors(copy.unrolling, copy.windows, count, seed).astype(np.int16)
                        for copy in different_replicas(layer.replicas)
                    ]
                    parts[layer.name].append(own)
                advance(1)
        return {name: [np.concatenate(of_copy) for of_copy in zip(*own, strict=True)] for name, own in parts.items()}


@dataclass(frozen=True, eq=False)
class _Followed:
    """A matrix of a replica and the input vectors that are followed through its conversions, [vectors, rows].

    ``weights`` are those of its columns in the power of the layer's output, [columns]; ``edges`` those of its tiles.
    """

    layer: MappedLayer
    vectors: Floats
    tiles: list[Lines]
    edges: tuple[int, ...]
    weights: Array
    seed: int

    @property
    def signal(self) -> float:
        """Sum of the squares of its outputs over input vectors and columns."""
        weights = np.concatenate([tile.levels * tile.counts for tile in self.tiles])
        columns = weights.reshape(len(weights), -1, self.tiles[0].per_column).sum(axis=2)
        return float((np.square(self.vectors @ columns) @ self.weights).sum())

    @cached_property
    def _currents(self) -> MatrixCurrents:
        quantizer = self.layer.quantizer
        assert isinstance(quantizer, InputQuantizer), "targets with continuous cells have no converters"
        return MatrixCurrents.of(self.vectors, self.tiles, self.edges, quantizer)

    def squared_errors(self, converter: Converter) -> tuple[float, float]:
        """Sums over input vectors and columns: what the converter adds, and what the end of its range alone does."""
        errors = self._currents.errors(converter, self.seed)
        added, cut_off = ((np.square(own) @ self.weights).sum() for own in (errors.added, errors.cut_off))
        return float(added), float(cut_off)


def _followed(layer: MappedLayer, vectors: Sequence[NDArray[np.int16]], target: Target, seed: int) -> list[_Followed]:
    """Matrices of a layer to follow; ``vectors`` are those of each replica that differs, [vectors, matrices, rows]."""
    rng, found = np.random.default_rng(seed), list[_Followed]()
    for copy, own in zip(different_replicas(layer.replicas), vectors, strict=True):
        unrolling, rows, weights = copy.unrolling, copy.cut.rows, line_weights(layer, copy)
        digits = unrolling.expand(layer.cells[0].astype(np.int16) - layer.cells[1])
        of_column = layer.slices * target.array.lines_per_pair * (len(rows) - 1) * layer.quantizer.phase_count
        columns = some_of(unrolling.columns, max(CONVERSIONS_OF_VECTOR // of_column, LEAST_COLUMNS))
        matrices = some_of(unrolling.matrices, MATRICES)
        count = vectors_followed(of_column * len(columns) * len(matrices), 1)
        driven = own[some_of(len(own), count)].astype(np.float32)
        for matrix in matrices:
            tiles = written_tiles(digits[:, matrix][..., columns], layer.base, rows, target, rng)
            of_columns = weights[matrix, columns]
            found.append(_Followed(layer, driven[:, matrix], tiles, rows, of_columns, seed + len(found)))
    return found


def _best(followed: Sequence[_Followed], ranges: Ranges) -> float:
    """The longest range whose error is as good as the least."""
    errors: dict[float, float] = {}
    for share, converter in ranges.items():
        added, cut_off = zip(*(item.squared_errors(converter) for item in followed), strict=True)
        errors[share] = sum(added)
        if sum(cut_off) > CLIPPED * min(errors.values()):
            break  # a shorter range clips more
    good = ALIKE * min(errors.values()) + NOTHING * sum(item.signal for item in followed)
    return next(share for share, error in errors.items() if error <= good)
