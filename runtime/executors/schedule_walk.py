"""Runs a program in the steps of its schedule of one image: the path of the literal executor.

In each step the tiles that are due read their input vectors from whatever exists by then. Values
that do not exist yet are there twice, with two different stand-ins; where the two copies of a value
agree, no stand-in went into it. Digital operators run on both copies whenever something is read
behind them, so nothing here knows which inputs an operator needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import ProgramError
from memcompile.ir.graph import MappedLayer
from memcompile.program.program import DigitalStage
from memcompile.runtime.executors.digital import DigitalRunner
from memcompile.runtime.executors.literal import LiteralExecutor
from memcompile.runtime.executors.machine import Machine
from memcompile.runtime.executors.passes_of_images import PassExecutors
from memcompile.runtime.executors.rescaling import Rescaling
from memcompile.runtime.kernels.compiled import Workers
from memcompile.timing.timetable import Timetable

Twice = tuple[NDArray[Any], NDArray[Any]]
Quantize = Callable[[MappedLayer, NDArray[Any], NDArray[np.int64], Workers], tuple[NDArray[Any], NDArray[np.int64]]]
"""Function from a layer, its input and the image numbers to the quantised input and the number of each item."""


class ScheduleWalk:
    """One run of a program on some images, all of them in the same steps.

    Raises
    ------
    ProgramError
        A tile reads an input that does not exist yet.
    """

    def __init__(
        self,
        machine: Machine,
        executors: PassExecutors[LiteralExecutor],
        digital: DigitalRunner,
        values: Mapping[str, NDArray[Any]],
        images: NDArray[np.int64],
        quantize: Quantize,
    ) -> None:
        self.program = machine.program
        self.machine = machine
        self.executors = executors
        self.digital = digital
        self.images = images
        self.quantize = quantize
        self.given = values
        self.makers = {value: stage for stage in self.program.stages for value in stage.outputs}
        self.layers = {layer.name: number for number, layer in enumerate(self.program.layers)}
        self.outputs: dict[int, _LayerOutput] = {}
        self.digital_values: dict[str, dict[str, Twice]] = {}
        self.inputs: dict[int, _LayerInput] = {}
        self.timetable = Timetable(self.program.layers, self.program.placement, self.program.target)
        self.turns = self.timetable.turns

    def run(self) -> None:
        """Work through all steps, segment by segment."""
        timetable = self.timetable
        steps = [timetable.steps(tile) for tile in range(len(timetable.tiles))]
        tile = np.repeat(np.arange(len(steps)), [len(item) for item in steps])
        nth = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(item)) for item in steps)])
        step = np.concatenate([np.zeros(0, np.int64), *steps])
        segment = timetable.tiles.segment[tile]
        order = np.lexsort((tile, step, segment))
        edges = np.flatnonzero(np.diff(step[order]) | np.diff(segment[order])) + 1
        for due in np.split(order, edges) if len(order) else ():
            for number in due.tolist():
                row = int(tile[number])
                self._work(row, *divmod(int(nth[number]), int(self.turns[row])), int(step[number]))
            self._finish_step()

    def value(self, name: str) -> NDArray[Any]:
        """A value after the last step."""
        return self._twice(name)[0]

    def _work(self, tile: int, place: int, turn: int, step: int) -> None:
        """One tile works on one turn of the window at a place in its replica's list."""
        tiles = self.program.placement.tiles
        number, copy, matrix = int(tiles.layer[tile]), int(tiles.replica[tile]), int(tiles.matrix[tile])
        layer = self.program.layers[number]
        read = self._input(number)
        rows = slice(int(tiles.row_begin[tile]), int(tiles.row_end[tile]))
        window = int(layer.replicas[copy].windows[place])
        if read.missing(copy)[:, matrix, rows, window].any():
            if read.undefined(copy)[:, matrix, rows, window].any():
                self.quantize(layer, self._twice(layer.inputs[0])[0], self.images, self.machine.workers)  # refuses it
            raise ProgramError(
                f"tile {tile} of layer {layer.name} reads inputs of window {window} in step {step}, before they "
                "exist; compile the model again"
            )
        vector = read.vectors(copy)[:, matrix, rows, window]
        columns = slice(int(tiles.column_begin[tile]), int(tiles.column_end[tile]))
        result = np.empty((len(vector), columns.stop - columns.start))
        for executor, mine in self.executors.groups(self.images, len(vector)):
            result[mine] = executor.step(layer, tile, vector[mine], window, read.items[mine], turn)
        self._output(number).add(copy, place, matrix, columns, result)

    def _finish_step(self) -> None:
        """Results of windows that all tiles of a replica have worked on exist from the next step on."""
        converters = self.machine.devices.converters
        changed = [output.publish(converters[number].to_levels) for number, output in self.outputs.items()]
        if any(changed):
            self.digital_values.clear()
            self.inputs.clear()

    def _twice(self, name: str) -> Twice:
        if name in self.given:
            return self.given[name], self.given[name]
        stage = self.makers[name]
        if isinstance(stage, MappedLayer):
            return self._output(self.layers[stage.name]).tensors()
        if stage.name not in self.digital_values:
            self.digital_values[stage.name] = self._run_digital(stage)
        return self.digital_values[stage.name][name]

    def _run_digital(self, stage: DigitalStage) -> dict[str, Twice]:
        feeds = {name: self._twice(name) for name in stage.inputs if name}
        first, second = (
            self.digital.run(stage, {name: pair[side] for name, pair in feeds.items()}) for side in range(2)
        )
        return {name: (first[name], second[name]) for name in first}

    def _input(self, number: int) -> _LayerInput:
        if number not in self.inputs:
            layer = self.program.layers[number]
            pair = self._twice(layer.inputs[0])
            self.inputs[number] = _LayerInput(layer, pair, self.quantize, self.images, self.machine.workers)
        return self.inputs[number]

    def _output(self, number: int) -> _LayerOutput:
        if number not in self.outputs:
            layer = self.program.layers[number]
            tiles = self.program.placement.tiles
            own = tiles.layer == number
            copies = np.bincount(tiles.replica[own], self.turns[own], len(layer.replicas)).astype(np.int64)
            shape = self._twice(layer.inputs[0])[0].shape
            self.outputs[number] = _LayerOutput(layer, self.machine.rescalings[number], shape, copies)
        return self.outputs[number]


class _LayerInput:
    """Part of a layer's input that exists at one time."""

    def __init__(
        self, layer: MappedLayer, pair: Twice, quantize: Quantize, images: NDArray[np.int64], workers: Workers
    ) -> None:
        self.layer = layer
        absent = pair[0] != pair[1]
        known = np.where(absent, np.zeros((), pair[0].dtype), pair[0])
        self.x, self.items = quantize(layer, known, images, workers)
        self.undefined_values = np.isnan(pair[0]) & np.isnan(pair[1])
        self.absent = layer.geometry.to_channels_first(absent).reshape(self.x.shape)
        self._vectors: dict[int, NDArray[Any]] = {}
        self._missing: dict[int, NDArray[np.bool_]] = {}

    def vectors(self, copy: int) -> NDArray[Any]:
        """Input vectors of all windows of a replica, [items, matrices, rows, windows]."""
        if copy not in self._vectors:
            self._vectors[copy] = self.layer.replicas[copy].unrolling.vectors(self.x)
        return self._vectors[copy]

    def missing(self, copy: int) -> NDArray[np.bool_]:
        """Mask of their elements that do not exist yet, of the same shape."""
        if copy not in self._missing:
            self._missing[copy] = self.layer.replicas[copy].unrolling.vectors(self.absent)
        return self._missing[copy]

    def undefined(self, copy: int) -> NDArray[np.bool_]:
        """Mask of their elements that are not a number, whatever the stand-in."""
        values = self.layer.geometry.to_channels_first(self.undefined_values).reshape(self.x.shape)
        undefined: NDArray[np.bool_] = self.layer.replicas[copy].unrolling.vectors(values)
        return undefined


class _LayerOutput:
    """The results of a layer as they come about."""

    def __init__(
        self,
        layer: MappedLayer,
        rescaling: Rescaling,
        input_shape: tuple[int, ...],
        turns_of_copy: NDArray[np.int64],
    ) -> None:
        geometry = layer.geometry
        inputs = geometry.in_channels * math.prod(geometry.input_size)
        self.layer, self.rescaling, self.input_shape = layer, rescaling, input_shape
        self.items = math.prod(input_shape) // inputs
        self.turns_of_copy = turns_of_copy
        self.sums: dict[tuple[int, int], NDArray[np.float64]] = {}
        self.worked: dict[tuple[int, int], int] = {}
        kind = np.dtype(layer.dtype)
        limits = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
        shape = (self.items, geometry.out_channels, geometry.positions)
        self.sides = (
            np.full(shape, math.sqrt(limits.max), layer.dtype),
            np.full(shape, max(float(limits.min), -math.sqrt(limits.max) / 4), layer.dtype),
        )

    def add(self, copy: int, place: int, matrix: int, columns: slice, result: NDArray[np.float64]) -> None:
        """Accumulate what a turn of a tile yields for a window, [items, columns of the tile]."""
        unrolling, key = self.layer.replicas[copy].unrolling, (copy, place)
        if key not in self.sums:
            self.sums[key] = np.zeros((self.items, unrolling.matrices, unrolling.columns))
        self.sums[key][:, matrix, columns] += result
        self.worked[key] = self.worked.get(key, 0) + 1

    def publish(self, to_levels: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> bool:
        """Write what all turns of all tiles of a replica have contributed to; returns whether there was any."""
        complete = [key for key, count in self.worked.items() if count == self.turns_of_copy[key[0]]]
        for key in complete:
            self._write(*key, to_levels(self.sums.pop(key)))
            del self.worked[key]
        return bool(complete)

    def _write(self, copy: int, place: int, sums: NDArray[np.float64]) -> None:
        replica = self.layer.replicas[copy]
        window = replica.windows[place : place + 1]
        y = np.zeros(self.sides[0].shape)
        replica.unrolling.scatter(sums[:, None], window, y)
        positions = replica.unrolling.window_positions()[window[0]]
        positions = positions[positions >= 0]
        for side in self.sides:
            side[:, :, positions] = self.rescaling.apply(y[:, :, positions], self.layer.dtype, positions)

    def tensors(self) -> Twice:
        """The output with either stand-in, in the layer's layout."""
        first, second = (self._tensor(side) for side in self.sides)
        return first, second

    def _tensor(self, side: NDArray[Any]) -> NDArray[Any]:
        geometry = self.layer.geometry
        return geometry.from_channels_first(
            side.reshape(self.items, geometry.out_channels, *geometry.output_size), self.input_shape
        )
