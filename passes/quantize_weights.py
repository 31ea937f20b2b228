"""Quantises weights to the signed levels that the target's cells hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.ir import CalibratedLayer, Graph, QuantizedLayer, carry, read_only
from memcompile.pass_manager import Pass, PassContext


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Integer weights per output channel, with the step that minimises the squared error.

    The slices decide how far the integers reach (PassContext.weight_limit). A step below
    max|w| / limit clips the largest weights; a step above it leaves levels unused, which is exact
    for a channel that was trained on a coarser common grid. Each candidate is refined once by the
    least-squares step for its own rounding, <w, q> / <q, q>.
    """

    summary: ClassVar[str] = "quantise weights per output channel to the target's signed levels"
    candidates: int = 64
    """Clipping points tried."""
    shortest: float = 0.4
    """Smallest clipping point tried, as a share of the channel's largest weight."""

    def run(self, graph: Graph, context: PassContext) -> Graph:
        limit = context.weight_limit
        return graph.map_nodes(
            {node.name: self._quantize(node, limit) for node in graph.nodes if isinstance(node, CalibratedLayer)}
        )

    def _quantize(self, layer: CalibratedLayer, limit: int) -> QuantizedLayer:
        columns = layer.matrix.transpose(0, 2, 1).reshape(layer.geometry.out_channels, -1).astype(np.float64)
        step = self.steps(columns, limit)
        levels = _round(columns, step, limit)
        geometry = layer.geometry
        matrices = levels.reshape(geometry.groups, geometry.group_columns, geometry.group_rows).transpose(0, 2, 1)
        return carry(
            QuantizedLayer,
            layer,
            levels=read_only(np.ascontiguousarray(matrices, np.int32)),
            scale=read_only((step * layer.quantizer.scale).astype(np.float32)),
        )

    def steps(self, weights: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
        """Best step of each channel; weights [channels, weights of a channel]."""
        largest = np.abs(weights).max(axis=1)
        largest[largest == 0] = 1.0
        # With several slices half the limit is far away, and the finest grids are fine enough.
        coarser = [1.0 / level for level in range(limit - 1, max(limit // 2, limit - 1 - self.candidates, 0), -1)]
        shares = [share / limit for share in np.linspace(1.0, self.shortest, self.candidates)]
        best: NDArray[np.float64] = largest / limit
        best_error = _error(weights, best, limit)
        for share in (*coarser, *shares):
            candidate = largest * share
            for step in (candidate, _refine(weights, candidate, limit)):
                error = _error(weights, step, limit)
                better = error < best_error
                best[better], best_error[better] = step[better], error[better]
        return best


def _round(weights: NDArray[np.float64], step: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
    levels: NDArray[np.float64] = np.clip(np.rint(weights / step[:, None]), -limit, limit)
    return levels


def _error(weights: NDArray[np.float64], step: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
    error: NDArray[np.float64] = np.square(_round(weights, step, limit) * step[:, None] - weights).sum(axis=1)
    return error


def _refine(weights: NDArray[np.float64], step: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
    levels = _round(weights, step, limit)
    power = np.square(levels).sum(axis=1)
    refined = (weights * levels).sum(axis=1) / np.where(power == 0, 1.0, power)
    better: NDArray[np.float64] = np.where(refined > 0, refined, step)
    return better
