"""Chooses the input quantiser of each crossbar layer from calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import DataError
from memcompile.ir.graph import CalibratedLayer, Graph, UnrolledLayer, carry
from memcompile.ir.pass_contract import Count, Fidelity, Form, Forms, Share
from memcompile.ir.pass_manager import Pass, PassContext
from memcompile.ir.quantizers import ExactInput, InputQuantizer
from memcompile.passes.quantization.calibration_batches import Run, calibration_batches, runs_of_batch
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
        limit = max(self.values // len(chunks), 1)
        interpreter = Interpreter(graph, once=len(chunks) == 1)
        with context.progress("calibrating", len(chunks)) as advance:
            for batch in chunks:
                runs = runs_of_batch(graph, batch, wanted)
                samples = _sampled(interpreter, runs, wanted, limit, generated=not context.representative)
                for value, sample in samples.items():
                    seen[value].append(sample)
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


class _EvenSample:
    """An even sample of ``size`` numbers that come in parts, and their extremes."""

    def __init__(self, size: int, limit: int) -> None:
        self._stride = max(-(-size // limit), 1)
        self._passed = 0
        self._parts: list[NDArray[np.float32]] = []
        self._extremes: list[np.float32] = []

    def add(self, part: NDArray[np.float32]) -> None:
        """Take in the next numbers."""
        self._parts.append(part[-self._passed % self._stride :: self._stride].copy())
        self._extremes += [part.min(), part.max()] if part.size else []
        self._passed += part.size

    def numbers(self) -> NDArray[np.float32]:
        """The sample in order, then the smallest and the largest number."""
        extremes = [min(self._extremes), max(self._extremes)] if self._extremes else []
        return np.concatenate([*self._parts, np.array(extremes, np.float32)])


def _sampled(
    interpreter: Interpreter, runs: Sequence[Run], wanted: Sequence[str], limit: int, *, generated: bool
) -> dict[str, NDArray[np.float32]]:
    """An even sample of at most ``limit`` numbers of each value, over all runs, and the two extremes.

    Each image gives as many numbers as any other.
    """
    images = sum(run.images for run in runs)
    samples: dict[str, _EvenSample] = {}
    for run in runs:
        for value, array in interpreter.values(run.feeds, wanted):
            if value not in samples:
                samples[value] = _EvenSample(array.size * images // run.images, limit)
            samples[value].add(_finite(array, value, generated=generated))
    return {value: sample.numbers() for value, sample in samples.items()}


def _finite(array: NDArray[Any], value: str, *, generated: bool) -> NDArray[np.float32]:
    """Numbers of a value in order, if all of them are finite."""
    flat = array.reshape(-1).astype(np.float32, copy=False)
    if np.isfinite(flat).all():
        return flat
    if generated:
        raise DataError(
            f"on generated inputs, value {value!r} becomes NaN or infinite, so nothing can be calibrated; give real "
            "samples with --data"
        )
    raise DataError(
        f"on the calibration data, value {value!r} becomes NaN or infinite; check the data's scale "
        "(--mean, --std) and the model"
    )
