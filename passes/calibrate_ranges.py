"""Chooses the converter range of each crossbar layer from calibration data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.converter import Converter, aligned_share
from memcompile.hardware.target import Target
from memcompile.ir.graph import Graph, MappedLayer, Replica, different_replicas
from memcompile.ir.pass_contract import Count, Fidelity, Form, Forms, Share
from memcompile.ir.pass_manager import Pass, PassContext
from memcompile.passes.quantization.calibration_batches import calibration_batches, layer_inputs
from memcompile.verify.interpreter import Interpreter

Ranges = Mapping[float, Converter]
"""Candidate ranges, the longest first: share of the largest line current, and the converter with that range."""


@dataclass(frozen=True)
class CalibrateRanges(Pass):
    """Gives each layer the converter range of least squared error, if the target's range is calibrated.

    A short range clips large currents, a long one rounds all of them coarsely. Input vectors of
    the quantised network drive the layer's tiles, as they are cut, through ideal cells; the error
    is that of the layer's sums, after pairs, phases, slices and tiles are put together. Of ranges that are
    equally good the longest is taken. Beside each range, the next shorter one is tried at which a code is an integer
    multiple or fraction of a level step: where large currents are rare, it converts levels exactly.
    """

    summary: ClassVar[str] = "choose each layer's converter range from calibration data"
    consumes: ClassVar[Forms] = frozenset({Form.MAPPED})
    produces: ClassVar[Forms] = frozenset({Form.MAPPED})
    fidelity: ClassVar[Fidelity] = "exact"
    images: Count = 32
    """Calibration images used, at most."""
    vectors: Count = 256
    """Approximate number of input vectors per layer; each image gives an equal number, at random positions."""
    candidates: Count = 49
    """Most ranges tried, in equal ratios, and as many beside them; none with codes finer than levels."""
    shortest: Share = 1 / 4096
    """Shortest range tried, as a share of the target's."""

    def run(self, graph: Graph, context: PassContext) -> Graph:
        target = context.target
        layers = [node for node in graph.nodes if isinstance(node, MappedLayer)]
        if target.adc.range != "calibrated" or target.cell.continuous or not layers:
            return graph
        ranges = self._ranges(target)
        errors = self._measure(graph, layers, ranges, context)
        # The longest range comes first, and argmin takes the first of equals.
        shares = {name: list(ranges)[int(error.argmin())] for name, error in errors.items()}
        return graph.map_nodes({layer.name: replace(layer, range_share=shares[layer.name]) for layer in layers})

    def _ranges(self, target: Target) -> Ranges:
        """Candidate ranges with different code steps."""
        shares = target.adc.range_share * np.geomspace(1.0, self.shortest, self.candidates)
        found: dict[Converter, float] = {}
        resolving = 0.0  # a range that converts each level exactly; shorter ones only clip more
        for share in shares.tolist():
            if share < resolving:
                break
            beside = aligned_share(target, share)
            found.setdefault(Converter.adc(target, share), share)
            aligned = Converter.adc(target, beside)
            found.setdefault(aligned, beside)
            if aligned.codes_per_level >= aligned.levels_per_code:
                resolving = max(resolving, beside)
        return {share: converter for converter, share in sorted(found.items(), key=lambda item: -item[1])}

    def _measure(
        self, graph: Graph, layers: Sequence[MappedLayer], ranges: Ranges, context: PassContext
    ) -> dict[str, NDArray[np.float64]]:
        """Sum of squared errors of each layer's sums in each range, by layer name."""
        interpreter = Interpreter(graph)
        errors = {layer.name: np.zeros(len(ranges)) for layer in layers}
        batches = calibration_batches(graph, context.calibration, self.images)
        positions = max(self.vectors // self.images, 1)
        rng = np.random.default_rng(context.seed)
        with context.progress("calibrating converter ranges", len(batches)) as advance:
            for feeds in batches:
                for layer, value in layer_inputs(interpreter, feeds, layers):
                    x = layer.quantizer.quantize(layer.geometry.to_channels_first(value))
                    for copy in different_replicas(layer.replicas):
                        windows = rng.permutation(copy.windows)[:positions]
                        errors[layer.name] += _squared_errors(layer, copy, x, windows, ranges, context.target)
                advance(1)
        return errors


def _squared_errors(
    layer: MappedLayer, copy: Replica, x: NDArray[Any], windows: NDArray[np.int32], ranges: Ranges, target: Target
) -> NDArray[np.float64]:
    """Sum over input vectors and columns of one replica, for each range."""
    unrolling, total = copy.unrolling, np.zeros(len(ranges))
    vectors = unrolling.patches(x, windows)
    vectors = vectors.reshape(-1, *vectors.shape[2:])
    cells = unrolling.expand(layer.cells)  # polarity, slices, matrices, rows, columns
    for matrix in range(unrolling.matrices):
        errors = np.zeros((len(ranges), len(vectors), unrolling.columns))
        for begin, end in itertools.pairwise(copy.cut.rows):
            errors += _tile_errors(layer, vectors[:, matrix, begin:end], cells[:, :, matrix, begin:end], ranges, target)
        total += np.square(errors).sum(axis=(1, 2))
    return total


def _tile_errors(
    layer: MappedLayer, vectors: NDArray[Any], cells: NDArray[np.uint8], ranges: Ranges, target: Target
) -> NDArray[np.float64]:
    """Errors of a tile's part of the sums, in level steps, [ranges, vectors, columns].

    ``cells`` are [polarity, slices, rows, columns].
    """
    powers = float(layer.base) ** np.arange(layer.slices)
    errors = np.zeros((len(ranges), len(vectors), cells.shape[-1]))
    for driven, weight in layer.quantizer.phases(vectors):
        currents = np.einsum("vr,psrc->psvc", driven, cells, optimize=True)
        if target.array.signed_lines:
            found = _of_signed_lines(currents[0] - currents[1], ranges)
        else:
            found = _of_line_pairs(currents, driven, ranges, target)
        for number, error in enumerate(found):
            errors[number] += weight * (error[0] if layer.slices == 1 else np.einsum("s,svc->vc", powers, error))
    return errors


def _of_signed_lines(currents: NDArray[np.float64], ranges: Ranges) -> Iterator[NDArray[np.float64]]:
    """Errors of lines that carry differences of cells, for each range; both [slices, vectors, columns]."""
    low, high = currents.min(initial=0), currents.max(initial=0)
    steps: NDArray[np.float64] = currents
    place: Any = ...
    if high - low < currents.size:  # a few whole numbers come again and again: each is converted once
        steps, place = np.arange(low, high + 1), (currents - low).astype(np.intp)
    for converter in ranges.values():
        codes = converter.convert(steps * converter.codes_per_level / converter.levels_per_code)
        yield (converter.to_levels(codes) - steps)[place]


def _of_line_pairs(
    currents: NDArray[np.float64], driven: NDArray[np.float64], ranges: Ranges, target: Target
) -> Iterator[NDArray[np.float64]]:
    """Errors of pairs of lines, [slices, vectors, columns], for each range."""
    driven_sum = driven.sum(axis=1)[:, None]
    for converter in ranges.values():
        # The conductance common to all cells is on both lines.
        g_min = converter.nominal(np.zeros(1), target)
        codes = converter.convert(currents * converter.codes_per_level / converter.levels_per_code + driven_sum * g_min)
        error = converter.to_levels(codes) - currents
        yield error[0] - error[1]
