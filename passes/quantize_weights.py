"""Quantises weights to the signed levels that the target's cells hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import ModelError, UsageError
from memcompile.ir.arrays import first_equal
from memcompile.ir.graph import CalibratedLayer, Graph, QuantizedLayer, carry, read_only
from memcompile.ir.pass_contract import Amount, Count, Fidelity, Form, Forms, Share
from memcompile.ir.pass_manager import Pass, PassContext
from memcompile.ir.quantizers import InputQuantizer
from memcompile.ir.slicing import SliceChoice, Slicing
from memcompile.passes.quantization.compensated_rounding import output_variance, rounded
from memcompile.passes.quantization.input_moments import InputMoments, measure_moments

# Weights per block: more would not stay in the cache, with fewer threads wait for each other.
BLOCK_WEIGHTS = 1 << 18
# Rounds of least-squares step and rounding after the search; each can only lower the error.
REFINEMENTS = 3
# With several slices, further share of the power that a grid with unused levels must explain: single precision does
# not separate grids that are all fine enough, and unused levels of the most significant slice are lost.
COARSER_GAIN = 1e-5
# Largest base of a layer of integer weights, in bases of other layers.
WIDEST_BASE = 1.5
# Multiples of a channel of integer weights that are tried before a power of two.
MULTIPLES_TRIED = 16
# Largest error of an integer output from the scale of a multiple; 0.5 would change a rounded sum.
MULTIPLE_ERROR = 0.125
# Float32 holds all integers up to here.
WHOLE_FLOAT32 = 1 << 24
# Bits of the largest numbers whose squares float32 holds.
SQUARED_BITS = 63

_Kept = dict[tuple[str, SliceChoice, int | None], QuantizedLayer]
"""Layers in levels, by name, slices and base."""


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Integer weights per output channel, with the step that minimises the squared error.

    The slices set the largest integer (PassContext.weight_limit). A step below
    max|w| / limit clips the largest weights; a step above it leaves levels unused, which is exact
    for a channel that was trained on a coarser common grid. The integers q of a candidate are
    judged with the best step for them, <w, q> / <q, q>, which leaves the squared error
    <w, w> - <w, q>^2 / <q, q>. Those of the best candidate are rounded again with that step, and
    so on, as long as the error falls.

    With real calibration data each weight is then rounded up or down such that the errors of a
    channel's weights cancel on the inputs they meet (:mod:`memcompile.passes.quantization.compensated_rounding`), and
    the mean of the remaining error goes into the bias. A channel that does not gain keeps the
    nearest levels. Time and memory grow with the calibration images and the square of a layer's rows.

    Integer weights of a quantised model are kept if they lie within the slices' limit. With several slices each
    channel is multiplied by the largest integer that fits, which its scale divides out exactly: a
    weight that uses little of the most significant slice is lost in the error of that slice.
    Continuous cells hold each float32 weight exactly: the channel's scale is a power of two.
    """

    summary: ClassVar[str] = "quantise weights per output channel to the target's signed levels"
    consumes: ClassVar[Forms] = frozenset({Form.CALIBRATED})
    produces: ClassVar[Forms] = frozenset({Form.QUANTIZED})
    fidelity: ClassVar[Fidelity] = "lossy"
    candidates: Count = 64
    """Clipping points tried."""
    shortest: Share = 0.4
    """Smallest clipping point tried, as a share of the channel's largest weight."""
    compensate: bool = True
    """Let rounding errors cancel on the calibration data, if these are real."""
    images: Count = 256
    """Calibration images used for compensation, at most."""
    vectors: Count = 8192
    """Approximate number of input vectors of these images per layer."""
    damping: Amount = 0.01
    """Share of the mean variance added to each input's variance, as regularisation for few vectors."""

    def run(self, graph: Graph, context: PassContext) -> Graph:
        layers = [node for node in graph.nodes if isinstance(node, CalibratedLayer)]
        if context.target.cell.continuous:
            return graph.map_nodes({layer.name: _hold(layer) for layer in layers})
        _check_names(layers, context)
        slicings = {layer.name: context.slicing_of(layer.name) for layer in layers}
        # Graphs stay with what is kept of them, so that no other gets their identity.
        kept: _Kept = {} if context.kept is None else context.kept.setdefault((self, id(graph)), (graph, {}))[1]
        missing = [layer for layer in layers if _key(slicings[layer.name], layer) not in kept]
        kept.update(self._quantized(graph, missing, slicings, context))
        quantized = {layer.name: kept[_key(slicings[layer.name], layer)] for layer in layers}
        for found in quantized.values():
            if not (np.isfinite(found.scale).all() and np.isfinite(found.bias).all()):
                raise ModelError(
                    f"{graph.name}: layer {found.name!r} has weights and inputs whose products are beyond float32; "
                    "train or export the model again"
                )
        return graph.map_nodes(quantized)

    def _quantized(
        self, graph: Graph, layers: Sequence[CalibratedLayer], slicings: Mapping[str, Slicing], context: PassContext
    ) -> _Kept:
        """Layers in levels, by name and slices."""
        whole = {layer.name for layer in layers if _keeps_integers(layer, slicings[layer.name].whole_weight_limit)}
        found = {layer.name: _keep(layer, slicings[layer.name]) for layer in layers if layer.name in whole}
        groups = _equal_layers([layer for layer in layers if layer.name not in whole], slicings)
        for group in groups:
            first = self._quantize(group[0], slicings[group[0].name])
            found.update({layer.name: _with_levels_of(first, layer) for layer in group})
        if self.compensate and context.representative:
            moments = self._moments(graph, [layer for layer in layers if layer.name not in whole], context)

            def compensate(group: Sequence[CalibratedLayer]) -> list[QuantizedLayer]:
                nearest = [found[layer.name] for layer in group]
                inputs = [moments[layer.name] for layer in group]
                return self._compensate(nearest, inputs, slicings[group[0].name].weight_limit)

            # NumPy lets other threads run inside its products, and layers do not depend on each other.
            with ThreadPoolExecutor() as pool:
                found.update({layer.name: layer for group in pool.map(compensate, groups) for layer in group})
        return {_key(slicings[layer.name], layer): found[layer.name] for layer in layers}

    def _moments(
        self, graph: Graph, layers: Sequence[CalibratedLayer], context: PassContext
    ) -> Mapping[str, InputMoments]:
        """Moments of the layers' inputs, which do not depend on slices."""
        if context.kept is None:
            return measure_moments(graph, layers, context, self.images, self.vectors)
        key = self, id(graph), tuple(layer.name for layer in layers)
        if key not in context.kept:
            context.kept[key] = measure_moments(graph, layers, context, self.images, self.vectors)
        moments: Mapping[str, InputMoments] = context.kept[key]
        return moments

    def _quantize(self, layer: CalibratedLayer, slicing: Slicing) -> QuantizedLayer:
        (groups, rows, columns), limit = layer.matrix.shape, slicing.weight_limit
        channels = layer.matrix.transpose(0, 2, 1).reshape(groups * columns, rows)
        found = np.empty(channels.shape, level_dtype(limit))
        step = np.empty(len(channels))

        def quantize(block: slice) -> None:
            weights = channels[block].astype(np.float64, order="C")
            step[block] = self.steps(weights, limit, COARSER_GAIN if slicing.slices > 1 else 0.0)
            found[block] = _round(weights, step[block], limit)

        blocks = list(_blocks(*channels.shape))
        if len(blocks) == 1:
            quantize(blocks[0])
        else:
            # NumPy lets other threads run inside its loops; blocks do not depend on each other.
            with ThreadPoolExecutor() as pool:
                list(pool.map(quantize, blocks))
        levels = np.empty(layer.matrix.shape, found.dtype)
        levels[...] = found.reshape(groups, columns, rows).transpose(0, 2, 1)
        return carry(QuantizedLayer, layer, levels=read_only(levels), scale=_scale(step, layer))

    def _compensate(
        self, nearest: Sequence[QuantizedLayer], moments: Sequence[InputMoments], limit: int
    ) -> list[QuantizedLayer]:
        """Layers of equal weights, rounded such that their errors cancel on the inputs of all, where that is better."""
        first, blocks = nearest[0], moments[0].blocks
        groups, _, columns = first.levels.shape
        step = (first.scale.astype(np.float64) / first.quantizer.scale).reshape(groups, 1, columns)
        weights = moments[0].layer.matrix / step
        covariances = _covariances(nearest, moments)
        levels = np.concatenate(
            [
                rounded(weights[:, block], covariance, limit, self.damping)
                for block, covariance in zip(blocks, covariances, strict=True)
            ],
            axis=1,
        )
        before = output_variance(first.levels - weights, covariances, blocks)
        better = output_variance(levels - weights, covariances, blocks) < before
        levels = np.where(better[:, None], levels, first.levels)
        error = ((levels - weights) * step).astype(np.float64)
        kept = read_only(levels.astype(first.levels.dtype))
        means = [np.matmul(each.mean[:, None, :], error).reshape(-1) for each in moments]
        return [
            replace(layer, levels=kept, bias=read_only((layer.bias - mean * layer.quantizer.scale).astype(np.float32)))
            for layer, mean in zip(nearest, means, strict=True)
        ]

    def steps(self, weights: NDArray[np.float64], limit: int, coarser_gain: float = 0.0) -> NDArray[np.float64]:
        """Best step of each channel; weights [channels, weights of a channel].

        A coarser grid must explain at least the share ``coarser_gain`` of the weights' power more than a finer one.
        """
        largest = np.abs(weights).max(axis=1)
        largest[largest == 0] = 1.0
        best: NDArray[np.float64] = largest / limit * self._search(_shares(weights, largest), limit, coarser_gain)
        best_levels = _round(weights, best, limit)
        best_error = _error(weights, best, best_levels)
        for _ in range(REFINEMENTS):
            step = _refine(weights, best, best_levels)
            levels = _round(weights, step, limit)
            error = _error(weights, step, levels)
            better = error < best_error
            if not better.any():
                break
            best[better], best_levels[better], best_error[better] = step[better], levels[better], error[better]
        return best

    def _search(self, size: NDArray[np.float32], limit: int, coarser_gain: float) -> NDArray[np.float64]:
        """Best candidate of each channel, in units of largest / limit; magnitudes up to 1, [channels, n]."""
        size *= np.float32(limit)
        # A power of two, so that scores keep their digits: squares of sums of wide weights are beyond float32.
        unit = np.float32(2.0 ** -max(0, (size.shape[1] * limit**2).bit_length() - SQUARED_BITS))
        levels = np.empty_like(size)
        # NumPy's minimum of two arrays is several times faster than that of an array and a number.
        highest = np.full_like(size, limit)
        best = np.ones(len(size))
        best_score = np.full(len(size), -np.inf, np.float32)
        # With several slices half the limit is far away, and the finest grids are fine enough.
        coarser = [limit / level for level in range(limit - 1, max(limit // 2, limit - 1 - self.candidates, 0), -1)]
        for candidate in (1.0, *coarser, *np.linspace(1.0, self.shortest, self.candidates)):
            np.multiply(size, np.float32(1 / candidate), out=levels)
            np.rint(levels, out=levels)
            np.minimum(levels, highest, out=levels)
            product = np.einsum("ij,ij->i", size, levels)
            score = np.square(product * unit) / np.maximum(_power(levels, limit), 1)
            better = score > best_score * (1 + (coarser_gain if candidate > 1 else 0.0))
            best[better], best_score[better] = candidate, score[better]
        return best


def _key(slicing: Slicing, layer: CalibratedLayer) -> tuple[str, SliceChoice, int | None]:
    return layer.name, SliceChoice(slicing.slices, slicing.fill), slicing.slice_base


def level_dtype(limit: int) -> np.dtype[Any]:
    """The narrowest integer type that holds -limit..limit."""
    return np.min_scalar_type(-limit)


def _scale(step: NDArray[np.float64], layer: CalibratedLayer) -> NDArray[np.float32]:
    """Factor of the sums of each channel, given the step of its weights, [out_channels]."""
    with np.errstate(over="ignore"):  # an infinite scale is refused
        scale = (step * layer.quantizer.scale).astype(np.float32)
    return read_only(np.maximum(scale, np.finfo(np.float32).smallest_subnormal))  # zero would hold no weight


def _equal_layers(
    layers: Sequence[CalibratedLayer], slicings: Mapping[str, Slicing]
) -> list[tuple[CalibratedLayer, ...]]:
    """Layers of equal weights and slices together: they get the same levels, so that they may share cells."""
    groups: dict[tuple[object, ...], list[CalibratedLayer]] = {}
    for layer, first in zip(layers, first_equal([layer.matrix for layer in layers]), strict=True):
        _, *slices = _key(slicings[layer.name], layer)
        groups.setdefault((first, *slices), []).append(layer)
    return [tuple(group) for group in groups.values()]


def _with_levels_of(first: QuantizedLayer, layer: CalibratedLayer) -> QuantizedLayer:
    """A layer with the levels of one of equal weights."""
    if layer.name == first.name:
        return first
    step = first.scale.astype(np.float64) / first.quantizer.scale
    return carry(QuantizedLayer, layer, levels=first.levels, scale=_scale(step, layer))


def _covariances(layers: Sequence[QuantizedLayer], moments: Sequence[InputMoments]) -> list[NDArray[np.float64]]:
    """Mean covariance of the inputs of layers, in steps of the first one's input, by block of rows."""
    found = [np.zeros_like(block) for block in moments[0].covariances]
    for layer, each in zip(layers, moments, strict=True):
        share = (layer.quantizer.scale / layers[0].quantizer.scale) ** 2 / len(layers)
        for number, block in enumerate(each.covariances):
            found[number] += share * block
    return found


def _check_names(layers: Sequence[CalibratedLayer], context: PassContext) -> None:
    """Raise UsageError for slices of a layer that does not exist, or windows that it should not have."""
    known = [layer.name for layer in layers]
    for what, names in (("slices are given", context.layer_slices), ("windows are left out", context.one_position)):
        unknown = sorted(name for name in names if name not in known)
        if unknown:
            raise UsageError(
                f"{what} for layer {unknown[0]!r}, but no crossbar layer has this name; there are "
                f"{', '.join(known) or 'none'}"
            )


def _keeps_integers(layer: CalibratedLayer, limit: int) -> bool:
    """Return True if a layer's weights are integers within the slices' limit."""
    return layer.integer and bool(np.abs(layer.matrix).max(initial=0) <= limit)


def _keep(layer: CalibratedLayer, slicing: Slicing) -> QuantizedLayer:
    """Integer weights unchanged, or a multiple of them in each channel."""
    levels, scale = layer.matrix, np.full(layer.geometry.out_channels, layer.quantizer.scale, np.float32)
    if slicing.slices > 1:
        multiples = _multiples(layer, _limit_of_whole(np.abs(layer.matrix).max(axis=1, initial=0).reshape(-1), slicing))
        levels = levels * multiples.reshape(len(levels), 1, -1)
        scale = (scale / multiples).astype(np.float32)
    kept = levels.astype(level_dtype(slicing.whole_weight_limit))
    return carry(QuantizedLayer, layer, levels=read_only(kept), scale=read_only(scale))


def _limit_of_whole(largest: NDArray[Any], slicing: Slicing) -> int:
    """Limit of the slices that multiples of the channels' largest integer weights, [channels], use best.

    Only bases near that of other layers are tried: their lower slices still have room for errors.
    """
    largest = np.maximum(largest.astype(np.int64), 1)
    bases = range(2, 1 + min(int(WIDEST_BASE * slicing.base), slicing.target.slice_base()))
    bases = range(slicing.base, slicing.base + 1) if slicing.slice_base is not None else bases
    limits = [slicing.limit_of(base) for base in bases]
    reaching = [limit for limit in limits if limit >= largest.max(initial=1)]
    unused = [float(np.mean((limit / (limit // largest * largest)) ** 2)) for limit in reaching]
    return reaching[int(np.argmin(unused))] if reaching else 0


def _multiples(layer: CalibratedLayer, limit: int) -> NDArray[np.int64]:
    """Largest integer multiple of each channel's weights within the limit that its scale divides out exactly.

    A float32 scale divided by m is off by a share e of itself, which rounding to integer sums hides while e times the
    largest output stays well below 1/2. Powers of two have no error.
    """
    sizes, quantizer = np.abs(layer.matrix).astype(np.float64), layer.quantizer
    assert isinstance(quantizer, InputQuantizer)
    largest, scale = sizes.max(axis=1, initial=0).reshape(-1), float(np.float32(quantizer.scale))
    largest_output = sizes.sum(axis=1).reshape(-1) * max(-quantizer.lowest, quantizer.highest) * scale
    found = np.ones(len(largest), np.int64)
    for channel in np.flatnonzero((largest > 0) & (2 * largest <= limit)):
        most = int(limit // largest[channel])
        for multiple in (*range(most, max(most - MULTIPLES_TRIED, 0), -1), 1 << (most.bit_length() - 1)):
            off = abs(float(np.float32(scale / multiple)) * multiple / scale - 1)
            if off * largest_output[channel] <= MULTIPLE_ERROR:
                found[channel] = multiple
                break
    return found


def _hold(layer: CalibratedLayer) -> QuantizedLayer:
    """Weights as shares of the conductance window, exactly."""
    largest = np.abs(layer.matrix).max(axis=1, initial=0).reshape(-1)
    # The largest float32 magnitudes have no power of two above them.
    exponent = np.minimum(np.frexp(largest)[1], np.finfo(np.float32).maxexp - 1)
    scale = np.maximum(np.ldexp(np.float32(1), exponent), largest)
    shares = layer.matrix / scale.reshape(len(layer.matrix), 1, -1)
    return carry(QuantizedLayer, layer, levels=read_only(shares), scale=read_only(scale))


def _blocks(channels: int, weights: int) -> Iterator[slice]:
    """Cut channels of ``weights`` weights each into blocks that are processed together."""
    width = max(BLOCK_WEIGHTS // max(weights, 1), 1)
    for begin in range(0, channels, width):
        yield slice(begin, begin + width)


def _shares(weights: NDArray[np.float64], largest: NDArray[np.float64]) -> NDArray[np.float32]:
    """Magnitudes of weights as shares of their channel's largest."""
    shares = weights / largest[:, None]
    return np.abs(shares, out=shares).astype(np.float32)


def _round(weights: NDArray[np.float64], step: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
    levels: NDArray[np.float64] = weights / step[:, None]
    np.rint(levels, out=levels)
    return np.clip(levels, -limit, limit, out=levels)


def _power(levels: NDArray[np.float32], limit: int) -> NDArray[np.float32]:
    """Sum of squared levels of each channel; levels [channels, weights of a channel], integers up to limit."""
    if levels.shape[1] * limit**2 < WHOLE_FLOAT32:  # exact in any order, also in that of a matrix product
        power: NDArray[np.float32] = np.matmul(levels[:, None, :], levels[:, :, None])[:, 0, 0]
    else:
        power = np.einsum("ij,ij->i", levels, levels)
    return power


def _error(weights: NDArray[np.float64], step: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    errors = levels * step[:, None]
    errors -= weights
    total: NDArray[np.float64] = np.square(errors, out=errors).sum(axis=1)
    return total


def _refine(
    weights: NDArray[np.float64], step: NDArray[np.float64], levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    power = np.square(levels).sum(axis=1)
    refined = (weights * levels).sum(axis=1) / np.where(power == 0, 1.0, power)
    better: NDArray[np.float64] = np.where(refined > 0, refined, step)
    return better
