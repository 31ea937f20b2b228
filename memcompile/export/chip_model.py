"""One emulated chip as an ONNX model: programmed conductances as weights, converters as Floor and Clip.

Per crossbar layer the model quantises the input, pads it, and takes it apart into phases. Per replica of the layer it
gathers the input vectors of the replica's windows, multiplies them with the conductances of all row tiles, converts
each line in each phase, and adds the codes up: phases, row tiles, pairs with their slices. The replicas' results are
put in order, scaled, and given the bias, by output position where the chip's lines are calibrated. All arithmetic is
exact in the type it is done in, so that a runtime with IEEE arithmetic gets the emulator's codes, in whatever order it
sums.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import UsageError
from memcompile.export.onnx_builder import ModelBuilder
from memcompile.ir.geometry import Unrolling
from memcompile.ir.graph import Cut, MappedLayer, TensorType
from memcompile.ir.quantizers import InputQuantizer
from memcompile.program.line_corrections import count_places
from memcompile.program.program import DigitalStage, Program
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.runtime.executors.machine import Machine

LINES_BYTES = 1 << 27
"""Memory that the line currents of one product may take per image; decides how many row tiles share one."""


def chip_model(
    program: Program,
    seed: int = 0,
    *,
    time_s: float = 0.0,
    reads: float = 0.0,
    ideal: bool = False,
) -> bytes:
    """Serialise an ONNX model that computes what one emulated chip does, without its read noise.

    Where samples do not lie along the first axis and replicas share a layer's vectors, it takes one sample a run.

    Parameters
    ----------
    seed
        The chip, as for ``Emulator(program, seed)``; a program that is transferred to a chip keeps
        its own. Of a program in segments it is the chip as written for the first batch of images.
    time_s
        Time since programming, in seconds.
    reads
        Reads of each cell since programming.
    ideal
        Perfect devices and converters: integer arithmetic of the quantised network.

    Raises
    ------
    UsageError
        Seed or time is out of range, the digital stages are of an operator set before 7, or currents are
        no products because cells are nonlinear and do not get whole read voltages.
    OutputError
        The model is larger than the 2 GB of an ONNX file.
    ProgramError
        The model of a digital stage is damaged.
    """
    effects = Effects.none() if ideal else replace(Effects(), read_noise=False)
    machine = Emulator(program, seed, effects=effects, time_s=time_s, reads=reads).machine
    if machine.devices.solves_each_step or machine.devices.drives_by_line:
        raise UsageError(
            f"the cells of target {program.target.name} are nonlinear, and wires or errors of the input voltages move "
            "their voltages: their currents are no product with a fixed matrix, which a model could hold; set "
            "cell.nonlinearity_per_v = 0, or both wire resistances and input.dac_sigma_share = 0"
        )
    values = {name for stage in program.stages for name in (*stage.inputs, *stage.outputs)}
    digital = {stage.name: stage.model for stage in program.stages if isinstance(stage, DigitalStage)}
    builder = ModelBuilder({*values, *program.inputs, *program.constants}, digital)
    for name, array in program.constants.items():
        builder.program_constant(name, array)
    number = itertools.count()
    for stage in program.stages:
        if isinstance(stage, DigitalStage):
            builder.inline(stage.name)
        else:
            _LayerModel(builder, machine, next(number), stage).build()
    name, inputs = program.provenance.model, program.inputs if ideal else _inputs(program)
    return builder.model(name, inputs, program.outputs, _facts(program, machine, ideal), _doc(machine))


def _inputs(program: Program) -> dict[str, TensorType]:
    """Inputs of the model: of one sample a run where samples do not come first and lines are told apart.

    Which line a vector goes to is decided by its place within its sample, and only samples along the first axis are
    still apart once a layer sees its input as rows of vectors.
    """
    apart = any(count_places(layer) > 1 and layer.geometry.layout == "channels_last" for layer in program.layers)
    if not apart or program.batching.whole or not program.batching.one_by_one:
        return dict(program.inputs)
    axes = program.batching.inputs
    return {
        name: TensorType(
            kind.dtype, tuple(1 if axis == axes.get(name) else size for axis, size in enumerate(kind.shape))
        )
        for name, kind in program.inputs.items()
    }


def _facts(program: Program, machine: Machine, ideal: bool) -> dict[str, str]:
    conditions = machine.devices.conditions
    return {
        "memcompile.target": program.target.name,
        "memcompile.source_model": program.provenance.model,
        "memcompile.source_sha256": program.provenance.model_sha256,
        "memcompile.chip": "ideal" if ideal else str(machine.devices.seed),
        "memcompile.time_s": repr(conditions.time_s),
        **({"memcompile.reads": repr(conditions.reads)} if conditions.reads else {}),
        "memcompile.effects": ", ".join(machine.effects.names()),
        **({"memcompile.calibrated": "yes"} if program.calibration is not None and not ideal else {}),
        "memcompile.unit_us": repr(machine.converter.unit_us),
    }


def _doc(machine: Machine) -> str:
    if not machine.effects.adc:
        return "Integer arithmetic of the quantised network on perfect hardware."
    return (
        "One emulated chip. Weights are conductances in converter codes (one code is the metadata's unit_us); read "
        "noise, which is drawn anew at each read, is left out."
    )


@dataclass(frozen=True, eq=False)
class _Copies:
    """Replicas of a layer that are laid out and cut alike and work on equally many windows, [replicas, windows]."""

    numbers: tuple[int, ...]
    unrolling: Unrolling
    cut: Cut
    windows: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class _RowTiles:
    """Row tiles of some replicas that are multiplied together.

    ``cells`` [replicas, row tiles, matrices, rows, lines] are conductances in converter units, ``rounding``
    [replicas, row tiles, matrices, 1, lines] is one half plus the converters' offsets, in codes.
    ``elements`` [row tiles, matrices, 1, rows] says which element of a padded, flattened image is on which
    input line for a window that begins at element 0. Shorter tiles have rows of no conductance at the end.
    """

    cells: NDArray[np.floating[Any]]
    rounding: NDArray[np.float64]
    elements: NDArray[np.int64]
    alone: bool
    """True if it is one tile in one matrix of one replica: a plain matrix, which multiplies faster."""

    def shown(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array of the tiles, without the axes of replicas, row tiles and matrices if there is one tile."""
        return array.reshape(array.shape[-2:]) if self.alone else array


class _LayerModel:
    """The nodes of one crossbar layer."""

    def __init__(self, builder: ModelBuilder, machine: Machine, number: int, layer: MappedLayer) -> None:
        self.builder = builder
        self.machine = machine
        self.layer = layer
        self.exact = not machine.effects.adc
        self.lines = int(machine.program.cell_map.column_lines[number])
        """Output lines of a column of weights."""
        # Where phases apply several bits, line sums need double precision to be exact.
        self.converter = machine.devices.converters[number]
        self.rescaling = machine.rescalings[number]
        self.wide = self.exact or self.converter.dtype is np.float64
        self.tiles: dict[tuple[int, int], list[int]] = {}
        """Rows of the tile table by replica and first row of the weight matrix."""
        table = machine.tiles
        for tile in np.flatnonzero(table.layer == number).tolist():
            self.tiles.setdefault((int(table.replica[tile]), int(table.row_begin[tile])), []).append(tile)
        self.copies = (_perfect_copy(layer),) if self.exact else _copies(layer)
        self.padding = _padding(layer, self.copies)

    def build(self) -> None:
        """Add the whole layer."""
        applied = self._applied(self._padded(self._quantized()))
        parts = []
        for number, copies in enumerate(self.copies):
            prefix = f"{self.layer.name}/copies{number}" if len(self.copies) > 1 else self.layer.name
            parts.append(self._in_positions(prefix, copies, self._sums(prefix, copies, applied)))
        self._finish(self._in_order(parts))

    # --- from the input to what is on the lines ---------------------------------------------------

    def _quantized(self) -> str:
        """Integers, channels first; inputs that are applied as they are, as float64."""
        add, name, geometry, quantizer = self.builder, self.layer.name, self.layer.geometry, self.layer.quantizer
        value = self.layer.inputs[0]
        if geometry.layout == "channels_last":
            vectors = math.prod(geometry.input_size)
            value = add.reshape(f"{name}/vectors", value, (-1, vectors, geometry.in_channels))
            value = add.node("Transpose", f"{name}/channels_first", [value], perm=[0, 2, 1])
        places = geometry.input_size if geometry.layout == "channels_first" else (math.prod(geometry.input_size),)
        value = self._widened(value, (geometry.in_channels, *places))
        if not isinstance(quantizer, InputQuantizer):
            return value
        # One for each channel or place: onnxruntime would put a scalar into a product of the network before it.
        sizes = (geometry.in_channels, *[1] * len(places)) if geometry.in_channels > 1 else places[-1:]
        step = add.constant(f"{name}/input_step", np.full(sizes, quantizer.scale, np.float32))
        value = add.node("Div", f"{name}/scale_input", [value, step])
        value = add.clip(f"{name}/clip_input", value, quantizer.lowest, quantizer.highest)
        return add.round(f"{name}/round_input", value)

    def _widened(self, value: str, shape: Sequence[int]) -> str:
        """Images of this shape as float32, or as float64 if they are applied as they are."""
        add, name, dtype = self.builder, self.layer.name, self.layer.dtype
        if isinstance(self.layer.quantizer, InputQuantizer) and dtype == "float32":
            return value
        wide = "float32" if isinstance(self.layer.quantizer, InputQuantizer) else "float64"
        if dtype != "float16":
            return add.cast(f"{name}/input", value, wide)
        # onnxruntime computes halves in float32, and a Cast right behind would take what was not rounded yet.
        value = add.reshape(f"{name}/rounded_input", value, (-1, 1, *shape))
        return add.reshape(f"{name}/input_shape", add.cast(f"{name}/input", value, wide), (-1, *shape))

    def _padded(self, value: str) -> str:
        """Images with padding, flat: [images, 1, elements]."""
        add, name, geometry = self.builder, self.layer.name, self.layer.geometry
        if any(map(any, self.padding)):
            value = add.pad(f"{name}/pad", value, self.padding)
        sizes = [
            before + size + after
            for size, (before, after) in zip(
                (geometry.in_channels, *geometry.input_size), self.padding[1:], strict=True
            )
        ]
        return add.reshape(f"{name}/flat", value, (-1, 1, math.prod(sizes)))

    def _applied(self, value: str) -> str:
        """Drive of the lines in each phase, [images, phases, elements]; all phases at once on perfect hardware."""
        add, name, quantizer = self.builder, self.layer.name, self.layer.quantizer
        if isinstance(quantizer, InputQuantizer) and not self.exact:
            value = self._digits(value, quantizer)
            drive = self.machine.devices.drive
            if drive is not None:
                # Cells are nonlinear: what each digit drives comes from a table.
                table = add.constant(f"{name}/drive_of_digit", drive.counts.astype(np.float64) * drive.step)
                digits = add.cast(f"{name}/whole_digits", value, "int64")
                return add.node("Gather", f"{name}/drive", [table, digits], axis=0)
        if self.wide and isinstance(quantizer, InputQuantizer):
            value = add.cast(f"{name}/wide_input", value, "float64")
        return value

    def _digits(self, value: str, quantizer: InputQuantizer) -> str:
        """The digits of integers, by floor(x / 2^k) - base * floor(x / (2^k * base)), exact in float32."""
        add, name, base = self.builder, f"{self.layer.name}/phases", quantizer.highest_digit + 1
        weights = np.array(quantizer.phase_weights, np.float32)[:, None]
        if quantizer.signed and quantizer.bits_per_phase > 1:
            # Digits of the positive numbers come first, then those of the others' magnitudes.
            signs = add.constant(f"{name}/signs", np.sign(weights))
            value = add.node("Relu", f"{name}/magnitude", [add.node("Mul", f"{name}/sign", [value, signs])])
        if quantizer.bits_per_phase >= quantizer.bits:
            return value
        shifted = []
        for word, factor in (("shift", 1), ("shift_past", base)):
            shift = add.constant(f"{name}/{word}/by", (1 / (factor * np.abs(weights))).astype(np.float32))
            scaled = add.node("Mul", f"{name}/{word}", [value, shift])
            shifted.append(add.node("Floor", f"{name}/{word}/floor", [scaled]))
        higher = add.node(
            "Mul", f"{name}/higher", [shifted[1], add.constant(f"{name}/base", np.array(base, np.float32))]
        )
        return add.node("Sub", f"{name}/digits", [shifted[0], higher])

    # --- from the lines to sums -------------------------------------------------------------------

    def _sums(self, prefix: str, copies: _Copies, applied: str) -> str:
        """Sums of some replicas, [images, replicas * matrices * windows * columns] in this order, float64."""
        add, unrolling, slices = self.builder, copies.unrolling, self.layer.slices
        if self.exact:
            _, elements = _elements(copies, self.padding, self.layer)
            weights = _narrowed(self.layer.integer_matrix())[None, None]
            whole = _RowTiles(weights, np.zeros(0), elements[None, :, None], alone=unrolling.matrices == 1)
            return self._product(prefix, self._windows(prefix, copies, whole), applied, whole)
        parts, windows = [], ""
        for tiles in self._row_tiles(copies):
            windows = windows or self._windows(prefix, copies, tiles)
            parts.append(self._codes(prefix, self._product(prefix, windows, applied, tiles), tiles))
        codes = parts[0] if len(parts) == 1 else add.node("Sum", f"{prefix}/add_row_tiles", parts)
        shape = (-1, *(len(copies.windows), unrolling.matrices), copies.windows.shape[1], unrolling.columns, self.lines)
        codes = add.reshape(f"{prefix}/pairs", codes, shape)
        counts = np.outer(float(self.layer.base) ** np.arange(slices), [1.0, -1.0][: self.lines // slices]).ravel()
        return add.node("MatMul", f"{prefix}/subtract_pairs", [codes, add.constant(f"{prefix}/pair_counts", counts)])

    def _windows(self, prefix: str, copies: _Copies, tiles: _RowTiles) -> str:
        """First elements of windows in flat images, in a shape that broadcasts with that of the tiles."""
        starts, _ = _elements(copies, self.padding, self.layer)
        return self.builder.constant(f"{prefix}/windows", tiles.shown(starts[:, None, None, :, None]))

    def _product(self, prefix: str, windows: str, applied: str, tiles: _RowTiles) -> str:
        """Line currents, [images, phases, replicas, row tiles, matrices, windows, lines], or as ``shown``."""
        add = self.builder
        index = [windows, add.constant(f"{prefix}/input_lines", tiles.shown(tiles.elements))]
        vectors = [applied, add.node("Add", f"{prefix}/elements", index)]
        cells = add.constant(f"{prefix}/conductances", tiles.shown(tiles.cells))
        if self.wide:
            cells = add.cast(f"{prefix}/wide_conductances", cells, "float64")
        return add.node(
            "MatMul", f"{prefix}/multiply", [add.node("Gather", f"{prefix}/gather", vectors, axis=2), cells]
        )

    def _codes(self, prefix: str, currents: str, tiles: _RowTiles) -> str:
        """Codes of all phases and row tiles, added up: [images, replicas, matrices, windows, lines] float64."""
        add, quantizer, converter = self.builder, self.layer.quantizer, self.converter
        assert isinstance(quantizer, InputQuantizer), "exact inputs have no phases to be converted"
        assert converter.min_code is not None
        assert converter.max_code is not None
        rounding = tiles.rounding.astype(np.float64 if self.wide else np.float32)
        alike = bool((rounding == rounding.flat[0]).all())
        half = add.constant(
            f"{prefix}/adc/half_and_offset", rounding[:1, 0, 0, 0, 0] if alike else tiles.shown(rounding)
        )
        codes = add.node("Floor", f"{prefix}/adc/floor", [add.node("Add", f"{prefix}/adc/round", [currents, half])])
        if self.wide:
            codes = add.cast(f"{prefix}/adc/codes", codes, "float32")
        codes = add.clip(f"{prefix}/adc/clip", codes, converter.min_code, converter.max_code)
        # Codes of at most 16 bits times inputs of at most 8: exact in float32.
        weights = np.array(quantizer.phase_weights, np.float32).reshape(-1, *[1] * (2 if tiles.alone else 5))
        codes = add.node("Mul", f"{prefix}/shift", [codes, add.constant(f"{prefix}/phase_weights", weights)])
        codes = add.cast(f"{prefix}/sums", add.sum_over(f"{prefix}/shift_and_add", codes, 1), "float64")
        return codes if tiles.alone else add.sum_over(f"{prefix}/add_tiles", codes, 2)

    def _row_tiles(self, copies: _Copies) -> Iterator[_RowTiles]:
        """All row tiles of some replicas, as many at a time as memory allows."""
        unrolling, edges = copies.unrolling, copies.cut.rows
        values = copies.windows.size * unrolling.matrices * unrolling.columns * self.lines
        bytes_of_tile = self.layer.quantizer.phase_count * values * (8 if self.wide else 4)
        at_once = min(max(1, LINES_BYTES // bytes_of_tile), len(edges) - 1)
        alone = at_once * len(copies.numbers) * unrolling.matrices == 1
        for first in range(0, len(edges) - 1, at_once):
            yield self._some_tiles(copies, list(itertools.pairwise(edges[first : first + at_once + 1])), alone)

    def _some_tiles(self, copies: _Copies, spans: Sequence[tuple[int, int]], alone: bool) -> _RowTiles:
        """The row tiles with these first and last rows."""
        unrolling = copies.unrolling
        rows, lines = max(end - begin for begin, end in spans), unrolling.columns * self.lines
        stack = (len(copies.numbers), len(spans), unrolling.matrices)
        cells, rounding = np.zeros((*stack, rows, lines), np.float32), np.zeros((*stack, 1, lines))
        elements = np.zeros((*stack[1:], 1, rows), np.int64)
        _, of_row = _elements(copies, self.padding, self.layer)
        for number, (begin, end) in enumerate(spans):
            elements[number, :, 0, : end - begin] = of_row[:, begin:end]
            for place, copy in enumerate(copies.numbers):
                for tile in self.tiles[copy, begin]:
                    self._place(tile, cells[place, number], rounding[place, number])
        return _RowTiles(cells, rounding, elements, alone)

    def _place(self, tile: int, cells: NDArray[np.float32], rounding: NDArray[np.float64]) -> None:
        """Write a tile's conductances and converter offsets where its matrix and columns are."""
        table, devices = self.machine.tiles, self.machine.devices
        seen, matrix = devices.tile(tile), int(table.matrix[tile])
        first = int(table.column_begin[tile]) * self.lines
        lines = slice(first, first + seen.shape[1])
        # On their grid, conductances for phases of several bits fit float32 as well.
        cells[matrix, : len(seen), lines] = seen
        rounding[matrix, 0, lines] = self.converter.half + devices.offsets(tile)

    # --- from sums to the output ------------------------------------------------------------------

    def _in_positions(self, prefix: str, copies: _Copies, sums: str) -> str:
        """Sums of some replicas by output position and channel, [images, positions, out channels]."""
        add, unrolling, geometry = self.builder, copies.unrolling, self.layer.geometry
        matrices, bundle, channels = unrolling.matrices, unrolling.bundle, geometry.group_columns
        if matrices * bundle > 1:
            split = (-1, *(len(copies.numbers), matrices), copies.windows.shape[1])
            sums = add.reshape(f"{prefix}/split", sums, (*split, bundle, unrolling.window_outputs, channels))
            sums = add.node("Transpose", f"{prefix}/by_position", [sums], perm=[0, 1, 3, 5, 2, 4, 6])
        groups = matrices * bundle
        shape = (-1, copies.windows.size * unrolling.window_outputs, groups * channels)
        sums = add.reshape(f"{prefix}/positions", sums, shape)
        if groups == geometry.groups:
            return sums
        real = add.constant(f"{prefix}/groups_that_exist", np.arange(geometry.out_channels))
        return add.node("Gather", f"{prefix}/drop_empty_groups", [sums, real], axis=2)

    def _in_order(self, parts: Sequence[str]) -> str:
        """All replicas' sums in the order of output positions, [images, positions, out channels]."""
        add, name = self.builder, self.layer.name
        sums = parts[0] if len(parts) == 1 else add.node("Concat", f"{name}/all_copies", parts, axis=1)
        made = np.concatenate([part.unrolling.window_positions()[part.windows].ravel() for part in self.copies])
        inside = np.flatnonzero(made >= 0)
        order = inside[np.argsort(made[inside])]
        if np.array_equal(order, np.arange(len(made))):
            return sums
        return add.node("Gather", f"{name}/in_order", [sums, add.constant(f"{name}/order", order)], axis=1)

    def _finish(self, sums: str) -> None:
        """Scale, bias, output type and layout."""
        add, name, layer, converter = self.builder, self.layer.name, self.layer, self.converter
        for op_type, word, factor in (
            ("Mul", "levels_per_code", converter.levels_per_code),
            ("Div", "codes_per_level", converter.codes_per_level),
        ):
            if factor != 1:
                sums = add.node(
                    op_type, f"{name}/{word}", [sums, add.constant(f"{name}/{word}", np.array(factor, np.float64))]
                )
        for op_type, word in (("Mul", "scale"), ("Add", "bias")):
            sums = add.node(op_type, f"{name}/{word}", [sums, self._rescaling(word)])
        if np.dtype(layer.dtype).kind == "i":
            sums = add.round_whole(f"{name}/whole", sums)
        self._lay_out(add.cast(f"{name}/output", sums, layer.dtype))

    def _rescaling(self, word: str) -> str:
        """Scale or bias in float64: of each channel, or of each position and channel of a calibrated chip."""
        add, name, values = self.builder, self.layer.name, getattr(self.rescaling, word)
        if len(values) == 1 and np.array_equal(values.astype(np.float32), values):
            constant = add.constant(f"{name}/{word}", values[0].astype(np.float32))
            return add.cast(f"{name}/wide_{word}", constant, "float64")
        of_places = add.constant(f"{name}/{word}", values)
        place = add.constant(f"{name}/{word}/place", self.rescaling.place)
        return add.node("Gather", f"{name}/{word}/of_positions", [of_places, place], axis=0)

    def _lay_out(self, y: str) -> None:
        """Bring [images, positions, out channels] to the layout of the layer's output."""
        add, name, geometry, result = self.builder, self.layer.name, self.layer.geometry, self.layer.outputs[0]
        if geometry.layout == "channels_first":
            y = add.node("Transpose", f"{name}/channels_first_again", [y], perm=[0, 2, 1])
            shape = add.constant(f"{name}/output_shape", np.array((-1, geometry.out_channels, *geometry.output_size)))
        else:
            lead = add.node("Shape", f"{name}/input_shape", [self.layer.inputs[0]])
            channels = add.constant(f"{name}/out_channels", np.array([geometry.out_channels], np.int64))
            lead = add.all_but_last(f"{name}/lead_shape", lead)
            shape = add.node("Concat", f"{name}/output_shape", [lead, channels], axis=0)
        add.node("Reshape", name, [y, shape], result)


def _narrowed(weights: NDArray[Any]) -> NDArray[np.floating[Any]]:
    """Weights in the smaller floating-point type that holds them exactly."""
    narrow = weights.astype(np.float32)
    return narrow if np.array_equal(narrow, weights) else weights.astype(np.float64)


def _copies(layer: MappedLayer) -> tuple[_Copies, ...]:
    """The replicas of a layer in as few groups as possible."""
    groups: dict[tuple[Unrolling, Cut, int], list[int]] = {}
    for number, replica in enumerate(layer.replicas):
        groups.setdefault((replica.unrolling, replica.cut, len(replica.windows)), []).append(number)
    return tuple(
        _Copies(tuple(numbers), unrolling, cut, np.stack([layer.replicas[number].windows for number in numbers]))
        for (unrolling, cut, _), numbers in groups.items()
    )


def _perfect_copy(layer: MappedLayer) -> _Copies:
    """One replica for all windows, not cut: perfect replicas are all alike."""
    unrolling = Unrolling.im2col(layer.geometry)
    cut = Cut((0, unrolling.rows), (0, unrolling.columns))
    return _Copies((0,), unrolling, cut, np.arange(unrolling.windows, dtype=np.int32)[None])


def _padding(layer: MappedLayer, copies: Sequence[_Copies]) -> list[tuple[int, int]]:
    """Zeros around images, before and after along (images, channels, *axes), that all replicas' windows read."""
    geometry = layer.geometry
    groups = max(part.unrolling.matrices * part.unrolling.bundle for part in copies)
    spatial = np.array([part.unrolling.padding() for part in copies]).max(axis=0)[2:]
    channels = (groups - geometry.groups) * (geometry.in_channels // geometry.groups)
    return [(0, 0), (0, channels), *((int(before), int(after)) for before, after in spatial)]


def _elements(
    copies: _Copies, padding: Sequence[tuple[int, int]], layer: MappedLayer
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Elements that windows read in padded, flattened images.

    Returns
    -------
    [replicas, windows] and [matrices, rows]: the element on row r of matrix m in window w is the sum of both.
    """
    unrolling, geometry = copies.unrolling, layer.geometry
    sizes = [before + size + after for size, (before, after) in zip(geometry.input_size, padding[2:], strict=True)]
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(geometry.rank)]
    starts, reads = np.zeros(1, np.int64), np.zeros(1, np.int64)
    for axis, stride in enumerate(strides):
        step = unrolling.window[axis] * geometry.strides[axis]
        starts = np.add.outer(starts, np.arange(unrolling.grid[axis]) * step * stride).ravel()
        reads = np.add.outer(reads, np.array(unrolling.offsets[axis]) * stride).ravel()
    channels = unrolling.matrices * unrolling.bundle * (geometry.in_channels // geometry.groups)
    rows = np.add.outer(np.arange(channels) * math.prod(sizes), reads).reshape(unrolling.matrices, unrolling.rows)
    return starts[copies.windows], rows
