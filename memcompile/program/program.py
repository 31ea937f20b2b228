"""The compiled program: the only contract between the passes and the runtime.

A program is the target, the stages in execution order (crossbar layers with their cell levels and replicas; digital
subgraphs as ONNX models), the placement and schedule of the tiles, and the program's origin.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.described import Described
from memcompile.frontend.importer import digital_operators, first_sizes
from memcompile.hardware.target import Target
from memcompile.ir.batching import Batching
from memcompile.ir.geometry import Geometry
from memcompile.ir.graph import MappedLayer, OnnxNode, Placement, TensorType
from memcompile.program.cell_map import CellMap
from memcompile.program.line_corrections import Calibration
from memcompile.timing.timetable import step_ns, tile_loads

MOST_ROWS = 40
"""Layers that a notebook lists."""


@dataclass(frozen=True, eq=False)
class DigitalStage:
    """Operators that onnxruntime runs: a serialised ONNX model with these inputs and outputs."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    model: bytes

    @cached_property
    def operators(self) -> tuple[tuple[OnnxNode, ...], Mapping[str, NDArray[Any]]]:
        """Operators and constants of the model, parsed when they are first asked for.

        Raises
        ------
        ProgramError
            The model is damaged.
        """
        return digital_operators(self.model, self.name)

    @cached_property
    def first_sizes(self) -> Mapping[str, int | None]:
        """Size of axis 0 of each value that the stage reads or makes; None where it is free, unknown or not there."""
        return first_sizes(self.model)


Stage = DigitalStage | MappedLayer


@dataclass(frozen=True)
class Provenance:
    """Origin of a program: all of it is decided by the model, the data and the options.

    ``multiply_adds`` are those of one sample of the whole network, and ``multiply_adds_on_arrays`` those of them that
    crossbar layers do; None where they were not counted.
    """

    model: str
    model_sha256: str
    compiler: str
    options: Mapping[str, str | int | float | bool | None]
    notes: tuple[str, ...] = ()
    multiply_adds: int | None = None
    multiply_adds_on_arrays: int | None = None


@dataclass(frozen=True, eq=False)
class ChipState:
    """One programmed chip: the conductances that writing left in its cells.

    ``conductances_us`` is [arrays, input_lines, cell_columns] float32, in microsiemens, for the
    arrays of the program's tile table; ``seed`` decided the devices and the write errors.
    """

    conductances_us: NDArray[np.float32]
    seed: int


@dataclass(frozen=True, eq=False, repr=False)
class Program(Described):
    """A network mapped onto chips.

    ``stages`` are in execution order. ``constants`` are values that no stage makes but that a stage or an output reads.
    ``placement.tiles`` counts crossbar layers in stage order. ``chip`` is the chip that the program was transferred to,
    once it was, and ``calibration`` corrects the lines of that chip or, without it, of the one that the emulator makes
    of the calibration's seed. ``layout`` gives the axes of samples; None stands for axis 0 of all inputs and outputs.
    """

    target: Target
    inputs: Mapping[str, TensorType]
    outputs: tuple[str, ...]
    stages: tuple[Stage, ...]
    constants: Mapping[str, NDArray[Any]]
    placement: Placement
    provenance: Provenance
    chip: ChipState | None = None
    calibration: Calibration | None = None
    layout: Batching | None = None

    def described(self) -> tuple[str, ...]:
        """Lines of ``repr``."""
        digital = len(self.stages) - len(self.layers)
        steps = next((item for item in self.placement.certificates if item.quantity == "initiation_interval"), None)
        rate = f"{steps.value:,} steps an image (bound {steps.bound:,})" if steps else "in segments"
        chips = self.placement.chips
        chip = "not transferred to a chip" if self.chip is None else f"on the chip of seed {self.chip.seed}"
        return (
            f"Program of {self.provenance.model} for {self.target.name}, {chip}",
            f"  inputs {', '.join(f'{name}: {kind}' for name, kind in self.inputs.items())}",
            f"  outputs {', '.join(self.outputs)}",
            f"  {len(self.layers)} crossbar layers, {digital} digital stages",
            f"  {self.arrays_used:,} arrays on {chips:,} chip{'s' * (chips != 1)}, {self.cells_used:,} cells, {rate}",
        )

    def save(self, path: Path | str) -> None:
        """Write the program file, whole or not at all; :func:`memcompile.load` reads it.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        from memcompile.program.file import save_program  # noqa: PLC0415 - the file's layout knows the program

        save_program(self, path)

    def report(self, evaluation: Any = None, *, seed: int = 0) -> Any:
        """The report as a page, which notebooks show; parameters and result are those of ``memcompile.report_page``."""
        return _above("report_page")(self, evaluation, seed=seed)

    def plot(self, evaluation: Any = None) -> Any:
        """Tiles, schedule and accuracy as a figure of matplotlib, as ``memcompile.draw`` makes it.

        Raises
        ------
        UsageError
            matplotlib is not installed.
        """
        return _above("draw")(self, evaluation)

    def accuracy(self, data: Any = None, **options: Any) -> NDArray[np.float64]:
        """Shares of right answers of emulated chips, [chips], 0..1.

        ``data`` are samples with labels, as for :func:`memcompile.compile`, and so are the options ``mean`` and
        ``std``; further ones are ``chips`` (3), their first ``seed`` (0), ``calibrate`` (True), and ``ideal`` for one
        figure of ideal devices.

        Raises
        ------
        UsageError
            There are no labels.
        """
        found: NDArray[np.float64] = _above("accuracy")(self, data, **options)
        return found

    def _repr_html_(self) -> str:
        """The text of ``repr``, and the layers as a table."""
        tiles = np.bincount(self.placement.tiles.layer, minlength=len(self.layers)).tolist()
        rows = [
            (html.escape(layer.name), _size(layer.geometry), layer.slices, len(layer.replicas), count)
            for layer, count in zip(self.layers, tiles, strict=True)
        ]
        return super()._repr_html_() + _table(rows)

    @cached_property
    def batching(self) -> Batching:
        """Axes of the samples of a batch in inputs and outputs."""
        return self.layout or Batching.along_first(self.inputs)

    @cached_property
    def layers(self) -> tuple[MappedLayer, ...]:
        """Crossbar layers in execution order."""
        return tuple(stage for stage in self.stages if isinstance(stage, MappedLayer))

    @cached_property
    def slices(self) -> NDArray[np.int32]:
        """Slices of each crossbar layer, int32 [layers]."""
        return np.array([layer.slices for layer in self.layers], np.int32)

    @cached_property
    def cell_map(self) -> CellMap:
        """Places of the cells of every weight."""
        return CellMap(self.layers, self.placement, self.target)

    @cached_property
    def tile_loads(self) -> NDArray[np.int64]:
        """Steps of each tile for one image, int64 [tiles]."""
        return tile_loads(self.layers, self.placement.tiles, self.target)

    @cached_property
    def conversions_per_image(self) -> int:
        """Converter outputs that one image takes, all line reads of all phases."""
        tiles = self.placement.tiles
        reads = [
            self.layers[layer].quantizer.phase_count * len(self.layers[layer].replicas[replica].windows)
            for layer, replica in zip(tiles.layer, tiles.replica, strict=True)
        ]
        return int((self.cell_map.widths.astype(np.int64) * np.array(reads, np.int64)).sum())

    @property
    def step_ns(self) -> float:
        """Duration of a step, in nanoseconds: all phases of the layer that has most."""
        return step_ns(self.layers, self.target)

    @property
    def arrays_used(self) -> int:
        """Arrays that hold at least one tile."""
        return len(np.unique(self.placement.tiles.array))

    @property
    def cells_used(self) -> int:
        """Cells that tiles take, all replicas counted, and those that layers share once."""
        return int(self.cell_map.cells[self.cell_map.own].sum())

    @property
    def cell_utilisation(self) -> float:
        """Share of the cells of all chips that tiles take; the mean over segments if there are some."""
        times = max(1, len(self.placement.segments))
        available = times * self.placement.chips * self.target.chip.arrays * self.target.array.cells
        return self.cells_used / available if available else 0.0


def _above(name: str) -> Any:
    """A function of the Python interface, which knows programs; they do not import what lies above them."""
    return getattr(import_module("memcompile.api"), name)


def _size(geometry: Geometry) -> str:
    """Rows and columns of a weight matrix."""
    return f"{geometry.group_rows:,} x {geometry.group_columns:,}"


def _table(rows: Sequence[tuple[Any, ...]]) -> str:
    """Layers as an HTML table that a notebook folds; names are escaped."""
    if not rows:
        return ""
    heading = "".join(f"<th>{word}</th>" for word in ("layer", "weight matrix", "slices", "replicas", "tiles"))
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows[:MOST_ROWS])
    more = f"<p>{len(rows) - MOST_ROWS:,} more</p>" if len(rows) > MOST_ROWS else ""
    summary = f"<summary>crossbar layers: {len(rows):,}</summary>"
    return f"<details>{summary}<table><tr>{heading}</tr>{body}</table>{more}</details>"
