"""Chooses the input quantiser of each crossbar layer from calibration data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import DataError
from memcompile.ir.graph import CalibratedLayer, Graph, UnrolledLayer, carry
from memcompile.ir.pass_contract import Count, Fidelity, Form, Forms, Share
from memcompile.ir.pass_manager import Pass, PassContext
from memcompile.ir.quantizers import ExactInput, InputQuantizer
from memcompile.passes.quantization.calibration_batches import calibration_batches
from memcompile.verify.interpreter import Interpreter


@dataclass(frozen=True)
class CalibrateActivations(Pass):
    """Runs the float network on calibration data and picks the step of least squared error.

    A layer that saw a negative input gets a signed quantiser (two's complement), any other an
    unsigned one. Clipping a few outliers often costs less than the coarser step that keeps them,
    so ``candidates`` steps between ``shortest`` and all of the largest magnitude are tried.
    Targets with continuous cells apply inputs unquantised. Bytes of a quantised model are kept
    if the target applies eight bits.
    """

    summary: ClassVar[str] = "choose each layer's input quantiser from calibration data"
    consumes: ClassVar[Forms] = frozenset({Form.UNROLLED})
    produces: ClassVar[Forms] = frozenset({Form.CALIBRATED})
    fidelity: ClassVar[Fidelity] = "lossy"
    images: Count = 256
    """Calibration images used, at most."""
    values: Count = 100_000
    """Input values kept per layer, at most."""
    candidates: Count = 48
    """Clipping points tried."""
    shortest: Share = 0.3
    """Smallest clipping point tried, as a share of the largest magnitude."""

    def run(self, graph: Graph, context: PassContext) -> Graph:
        layers = [node for node in graph.nodes if isinstance(node, UnrolledLayer)]
        if not layers:
            return graph
        if context.target.cell.continuous:
            return graph.map_nodes({node.name: carry(CalibratedLayer, node, quantizer=ExactInput()) for node in layers})
        bits = context.target.input.bits
        own = {layer.name: quantizer for layer in layers if (quantizer := _own(layer, graph, bits)) is not None}
        seen = self._observe(graph, [layer for layer in layers if layer.name not in own], context)
        quantizers = {value: self._quantizer(np.concatenate(parts), bits) for value, parts in seen.items()}
        found = {layer.name: own.get(layer.name) or quantizers[layer.inputs[0]] for layer in layers}
        at_once = context.target.input.bits_per_phase
        return graph.map_nodes(
            {
                node.name: carry(CalibratedLayer, node, quantizer=replace(found[node.name], bits_per_phase=at_once))
                for node in layers
            }
        )

    def _observe(
        self, graph: Graph, layers: list[UnrolledLayer], context: PassContext
    ) -> dict[str, list[NDArray[np.float32]]]:
        """Values that enter each layer: extremes and an even sample of the rest."""
        if not layers:
            return {}
        wanted = tuple(dict.fromkeys(layer.inputs[0] for layer in layers))
        seen: dict[str, list[NDArray[np.float32]]] = {value: [] for value in wanted}
        chunks = calibration_batches(graph, context.calibration, self.images)
        interpreter = Interpreter(graph, once=len(chunks) == 1)
        with context.progress("calibrating", len(chunks)) as advance:
            for feeds in chunks:
                for value, array in interpreter.run(feeds, wanted).items():
                    limit = max(self.values // len(chunks), 1)
                    seen[value].append(_sample(array, value, limit, generated=not context.representative))
                advance(1)
        return seen

    def _quantizer(self, values: NDArray[np.float32], bits: int) -> InputQuantizer:
        signed = bool(values.size and values.min() < 0)
        largest = float(np.abs(values).max()) if values.size else 0.0
        highest = (1 << (bits - 1)) - 1 if signed else (1 << bits) - 1
        if largest * self.shortest / highest < np.finfo(np.float32).tiny:
            return InputQuantizer(1.0, bits, signed)  # zeros only, as far as float32 can tell
        best, best_error = InputQuantizer(float(np.float32(largest / highest)), bits, signed), np.inf
        for share in np.linspace(1.0, self.shortest, self.candidates):
            quantizer = InputQuantizer(float(np.float32(largest * share / highest)), bits, signed)
            with np.errstate(over="ignore"):
                error = float(np.square(quantizer.quantize(values) * np.float32(quantizer.scale) - values).sum())
            if error < best_error:
                best, best_error = quantizer, error
        return best


def _own(layer: UnrolledLayer, graph: Graph, bits: int) -> InputQuantizer | None:
    """The quantiser that keeps a layer's bytes; None if there is none."""
    if not layer.integer or bits < 8:
        return None
    return InputQuantizer(1.0, bits, signed=graph.types[layer.inputs[0]].dtype == "int8")


def _sample(array: NDArray[Any], value: str, limit: int, generated: bool) -> NDArray[np.float32]:
    """An even sample of at most ``limit`` values, and the two extremes."""
    flat = array.reshape(-1).astype(np.float32)
    if generated and not np.isfinite(flat).all():
        raise DataError(
            f"on generated inputs, value {value!r} becomes NaN or infinite, so nothing can be calibrated; give real "
            "samples with --data"
        )
    if not np.isfinite(flat).all():
        raise DataError(
            f"on the calibration data, value {value!r} becomes NaN or infinite; check the data's scale "
            "(--mean, --std) and the model"
        )
    stride = -(-flat.size // limit)
    return np.concatenate([flat[::stride], [flat.min(), flat.max()]]) if flat.size else flat
