"""Sections of a target file about arrays, chips, energy and area, and the base and number types of all sections."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from functools import cache
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

# Beyond these limits nothing is physical, and sums and squares would leave floating-point numbers.
FiniteFloat = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(ge=1e-9, le=1e12, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Section(BaseModel):
    """Strict, immutable base of every section."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@cache
def meanings(section: type[BaseModel]) -> dict[str, str]:
    """What the docstrings under the fields of a section say, by field.

    Read from the source when asked for: pydantic would do it for all sections at each start.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in itertools.pairwise(tree.body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
            found[field.target.id] = inspect.cleandoc(text.value.value)
    return found


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a field of a target holds, optional or not; None for a field that holds none."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def fields_of(target: type[BaseModel]) -> tuple[str, ...]:
    """Dotted names of the fields of all sections of a kind of target."""
    sections = ((name, section_of(field)) for name, field in target.model_fields.items())
    return tuple(f"{name}.{key}" for name, section in sections if section is not None for key in section.model_fields)


class ArraySpec(Section):
    """One crossbar array."""

    input_lines: Annotated[int, Field(ge=1, le=65_536)]
    """Lines that are driven with the input vector."""
    output_lines: Annotated[int, Field(ge=2, le=65_536)]
    """Lines whose current is converted."""
    pairs: Literal["output_lines", "crossings"] = "output_lines"
    """Place of the two cells of a differential pair: on neighbouring output lines, or both at one crossing.

    On two output lines each has a conversion, and codes are subtracted. Cells of one crossing get opposite
    voltages, as in a 2T2R cell or on two input lines that act as one: the output line carries the
    difference of their currents, and its converter is signed.
    """
    input_line_name: str = "input line"
    """Name of an input line on this hardware (orientation of the array)."""
    output_line_name: str = "output line"
    """Name of an output line on this hardware (orientation of the array)."""
    rows_at_once: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Input lines that are driven together at most; left out: all.

    A tile has no more rows. Further rows are tiles of their own, which take turns where they share an array: each has
    conversions of its own, in the range that so many lines need, and codes are added digitally.
    """
    columns_at_once: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Output lines that are read together at most; left out: all. A wider tile reads them in turns, a step each."""

    @property
    def driven_lines(self) -> int:
        """Most input lines that are driven together: those of the highest tile."""
        return min(self.input_lines, self.rows_at_once or self.input_lines)

    @property
    def signed_lines(self) -> bool:
        """True if an output line carries the difference of a pair, so that its converter is signed."""
        return self.pairs == "crossings"

    @property
    def lines_per_pair(self) -> int:
        """Output lines of a differential pair."""
        return 1 if self.signed_lines else 2

    @property
    def cells_per_crossing(self) -> int:
        """Cells where an input line crosses an output line."""
        return 2 // self.lines_per_pair

    @property
    def cell_columns(self) -> int:
        """Columns of cells; those of a pair are neighbours, the adding one first."""
        return self.output_lines * self.cells_per_crossing

    @property
    def cell_axes(self) -> tuple[int, ...]:
        """Shape of an array's cells by place: [input lines, output lines], and [polarity] if a crossing has two."""
        return (self.input_lines, self.output_lines, self.cells_per_crossing)[: 1 + self.cells_per_crossing]

    @property
    def crossings(self) -> int:
        """Crossings of an input and an output line; tiles are measured in these."""
        return self.input_lines * self.output_lines

    @property
    def cells(self) -> int:
        """Cells of one array."""
        return self.crossings * self.cells_per_crossing


class ChipSpec(Section):
    """One chip."""

    arrays: Annotated[int, Field(ge=1, le=10_000_000)]
    """Arrays of one chip; all of them work in the same step."""


class EnergySpec(Section):
    """Energy of one bit phase of one array, in picojoules, by component.

    array + cell * cells + driver * input lines + (sample_hold + conversion + shift_add) * output
    lines, over the lines that work in the phase: those of one tile.
    """

    array_pj: NonNegativeFloat = 0.0
    """Energy of a working array in a phase, in picojoules, however many of its lines work."""
    cell_pj: NonNegativeFloat = 0.0
    """Per cell at the crossing of a working input and a working output line, driven or not; grows with phase_ns."""
    at_phase_ns: PositiveFloat | None = None
    """Duration of a phase that cell_pj is given for, in nanoseconds; left out: input.phase_ns."""
    driver_pj: NonNegativeFloat = 0.0
    """Per input line: driver and multiplexer."""
    sample_hold_pj: NonNegativeFloat = 0.0
    """Per output line: sample-and-hold."""
    conversion_pj: NonNegativeFloat = 0.0
    """Per output line: one conversion of the ADC with at_bits; with other bits it follows the survey of converters."""
    at_bits: Annotated[int, Field(ge=1, le=16)] | None = None
    """Bits that conversion_pj is given for; left out: adc.bits."""
    shift_add_pj: NonNegativeFloat = 0.0
    """Per output line: digital shift-and-add."""
    addition_pj: NonNegativeFloat | None = None
    """Per digital addition after shift-and-add: pairs, slices, row tiles, once a step; left out: not included."""
    crossing_pj: NonNegativeFloat | None = None
    """Per value that crosses from chip to chip; left out: not included."""
    buffer_pj: NonNegativeFloat | None = None
    """Per value read from a buffer for an input line, once a window, or written to one; left out: not included."""
    link_pj: NonNegativeFloat | None = None
    """Per value that a tile hands on: results of layers, sums joined to the tile above; left out: not included."""

    def phase_pj(self, input_lines: int, output_lines: int) -> float:
        """Energy of a phase in which so many lines with so many cells work, in picojoules."""
        line_pj = self.sample_hold_pj + self.conversion_pj + self.shift_add_pj
        cells_pj = self.cell_pj * input_lines * output_lines
        return self.array_pj + cells_pj + self.driver_pj * input_lines + line_pj * output_lines


class AreaSpec(Section):
    """Area of one array with its periphery, in square micrometres, by component.

    array + cell * cells + input_line * input lines + output_line * output lines + converter * converters, whether used
    or not.
    """

    array_um2: NonNegativeFloat = 0.0
    """Per array, whatever its size."""
    cell_um2: NonNegativeFloat = 0.0
    """Per cell."""
    input_line_um2: NonNegativeFloat = 0.0
    """Per input line: drivers and multiplexers."""
    output_line_um2: NonNegativeFloat = 0.0
    """Per output line: sample-and-hold, shift-and-add."""
    converter_um2: NonNegativeFloat = 0.0
    """Per converter with at_bits; with other bits it follows the survey of converters."""
    at_bits: Annotated[int, Field(ge=1, le=16)] | None = None
    """Bits that converter_um2 is given for; left out: adc.bits."""

    def array_mm2(self, array: ArraySpec, converters: int = 0) -> float:
        """Area of an array of this size with so many converters of at_bits, in square millimetres."""
        lines_um2 = self.input_line_um2 * array.input_lines + self.output_line_um2 * array.output_lines
        lines_um2 += self.converter_um2 * converters
        return (self.array_um2 + self.cell_um2 * array.cells + lines_um2) * 1e-6
