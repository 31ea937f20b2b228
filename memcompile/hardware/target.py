"""The hardware as data: arrays, cells, converters and device errors of one target.

A target file is TOML with strict keys and the unit in every name. It is checked against the
schema first and against physics second, and every error is reported at once. ``[sources]`` says
for each field where its value is from; fields that no publication gives are named assumptions.
"""

from __future__ import annotations

import math
import tomllib
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from memcompile.described import Described
from memcompile.errors import TargetError, UsageError, did_you_mean
from memcompile.hardware.aging_sections import DriftSpec as DriftSpec  # noqa: PLC0414 - handed on
from memcompile.hardware.aging_sections import (
    FlickerNoiseSpec,
    Points,
    RetentionSpec,
    polynomial_us,
    table_at,
)
from memcompile.hardware.aging_sections import ReadDisturbSpec as ReadDisturbSpec  # noqa: PLC0414 - handed on
from memcompile.hardware.aging_sections import RelaxationSpec as RelaxationSpec  # noqa: PLC0414 - handed on
from memcompile.hardware.converter_cost import area_ratio, energy_ratio
from memcompile.hardware.devices import given_device, names_of_files, with_device
from memcompile.hardware.target_checks import schema_errors, target_errors
from memcompile.hardware.target_sections import AreaSpec as AreaSpec  # noqa: PLC0414 - handed on
from memcompile.hardware.target_sections import ArraySpec as ArraySpec  # noqa: PLC0414 - handed on
from memcompile.hardware.target_sections import ChipSpec as ChipSpec  # noqa: PLC0414 - handed on
from memcompile.hardware.target_sections import EnergySpec as EnergySpec  # noqa: PLC0414 - handed on
from memcompile.hardware.target_sections import FiniteFloat, NonNegativeFloat, PositiveFloat, Section, Share, fields_of

MAX_TARGET_BYTES = 1_000_000
MOST_WRITTEN_AGAIN = 4.0
"""Corrections of a weight on average that a target may ask for."""
LEAST_RANGE_SHARE = 1e-6
"""Share of the largest current below which a single cell is beyond the range of any converter."""
ERROR_ROOM = 1.75
"""Standard deviations of a pair's error that the default slice base leaves room for; docs/targets.md measures it."""


class CellSpec(Section):
    """One memristor with its transistor."""

    levels: Annotated[int, Field(ge=2, le=128)]
    """Conductance states that weights use; a pair holds 2 * levels - 1 signed levels."""
    g_min_us: NonNegativeFloat
    """Conductance of level 0, in microsiemens."""
    g_max_us: PositiveFloat
    """Conductance of the highest level, in microsiemens."""
    g_reference_us: PositiveFloat | None = None
    """Conductance that x counts in where sizes are polynomials of x = g / g_max; left out: g_max_us."""
    nonlinearity_per_v: NonNegativeFloat = 0.0
    """k of a cell's current g * v_read * sinh(k v) / sinh(k v_read) at voltage v, in 1/volts; 0 is Ohm's law."""
    continuous: bool = False
    """Cells hold any conductance of the window; inputs and converters are exact, and no error is allowed."""
    device: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] | None = None
    """Device model that gives the fields of cells and errors that the target does not write itself."""

    @property
    def reference_us(self) -> float:
        """Conductance that x = 1 stands for in polynomials, in microsiemens."""
        return self.g_max_us if self.g_reference_us is None else self.g_reference_us

    @property
    def level_step_us(self) -> float:
        """Conductance between neighbouring levels, in microsiemens."""
        return (self.g_max_us - self.g_min_us) / (self.levels - 1)


class InputSpec(Section):
    """Input values, and the voltages and phases that apply them to a line."""

    bits: Annotated[int, Field(ge=2, le=8)]
    """Bits of an input value, least significant first."""
    bits_per_phase: Annotated[int, Field(ge=1, le=8)] = 1
    """Bits that a line's DAC applies in one phase; 1 is bit-serial."""
    read_voltage_v: PositiveFloat
    """Voltage of the highest digit on an input line, in volts; digit d gets d / (2^bits_per_phase - 1) of it."""
    phase_ns: PositiveFloat
    """Duration of one phase, in nanoseconds."""
    dac_sigma_share: NonNegativeFloat = 0.0
    """Standard deviation of an input line's voltage, as a share of the nominal one."""

    @property
    def highest_digit(self) -> int:
        """Largest digit that a phase applies."""
        return (1 << self.bits_per_phase) - 1


class AdcSpec(Section):
    """The converters of an array's output lines.

    Pairs on two lines are subtracted after it; a line that carries the difference of a pair has a signed one.
    """

    bits: Annotated[int, Field(ge=1, le=16)]
    """Resolution in bits; one of them is the sign where the converter is signed."""
    range_share: Annotated[float, Field(ge=LEAST_RANGE_SHARE, le=1)] = 1.0
    """End of range as a share of the largest possible line current; below 1 large currents saturate."""
    range: Literal["fixed", "aligned", "calibrated"] = "calibrated"
    """End of the range: at range_share; there or further, so that a code is level steps; or layer by layer.

    A fixed range ends at range_share, at the highest code. An aligned one is lengthened until a code is an integer
    fraction or an integer multiple of a level step. Calibrated ranges are shares of their own for each layer, at most
    range_share, chosen from calibration data.
    """
    gain_sigma_share: NonNegativeFloat = 0.0
    """Standard deviation of a converter's gain from 1."""
    offset_sigma_codes: NonNegativeFloat = 0.0
    """Standard deviation of a converter's offset, in codes."""
    lines_per_converter: Annotated[int, Field(ge=1, le=65_536)] = 1
    """Output lines that share a converter, which converts them one after the other.

    An array has output_lines / lines_per_converter converters, n rounded up, and line i goes to converter i modulo n:
    neighbours have different ones, so a tile of w lines takes w / n conversions in turn, rounded up, wherever it is.
    """
    conversions_per_phase: Annotated[int, Field(ge=1, le=65_536)] = 1
    """Conversions of a converter in one phase. Lines beyond take further steps, in which the tile is driven again."""


class ProgrammingSpec(Section):
    """Error left by closed-loop programming (write-verify): g + mean(g) + N(0, sigma(g))."""

    sigma_us: NonNegativeFloat
    """Standard deviation of the Gaussian, state-independent error of a cell, in microsiemens."""
    sigma_proportional_share: NonNegativeFloat = 0.0
    """Standard deviation of a further error, independent of the first, as a share of g."""
    sigma_polynomial_us: Annotated[tuple[FiniteFloat, ...], Field(strict=False, max_length=16)] = ()
    """Instead of both: sigma = max(0, c0 + c1 x + c2 x^2 + ...) with x = g / g_max, in microsiemens."""
    sigma_table_us: Points = ()
    """Instead: [conductance, sigma] pairs in microsiemens, by rising conductance; linear between, flat beyond."""
    mean_polynomial_us: Annotated[tuple[FiniteFloat, ...], Field(strict=False, max_length=16)] = ()
    """Mean error c0 + c1 x + c2 x^2 + ... with x = g / g_max, of either sign, in microsiemens."""
    mean_table_us: Points = ()
    """Instead: [conductance, mean error] pairs in microsiemens, by rising conductance; linear between, flat beyond."""
    blank_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Error of a cell that holds no weight, as a share of that of a cell written to the lowest level.

    Parallel windows have such cells on the lines of their sums. 1 if they are as uncertain as all others,
    0 if they can be left without a filament.
    """
    error_stays: bool = False
    """True if cells keep the error that is found when they are read back, so that writing again mends it.

    False where the spread of written cells comes after the last verify, by relaxation, or where that is not known.
    """
    write_again_share: Annotated[float, Field(ge=0, le=MOST_WRITTEN_AGAIN)] = 0.0
    """Corrections after writing, on average of all pairs: they are read back, and one cell of the worst is rewritten.

    A budget of accuracy may choose it where ``error_stays``.
    """

    @property
    def acts(self) -> bool:
        """True if a size is not zero."""
        tables = (*self.mean_table_us, *self.sigma_table_us)
        sizes = (self.sigma_us, self.sigma_proportional_share, *self.sigma_polynomial_us, *self.mean_polynomial_us)
        return any(sizes) or any(size for _, size in tables)

    def sigma_at_us(self, g_us: NDArray[np.float64], reference_us: float) -> NDArray[np.float64]:
        """Standard deviation of the error at some conductances, in microsiemens."""
        if self.sigma_table_us:
            return table_at(g_us, self.sigma_table_us)
        if self.sigma_polynomial_us:
            return polynomial_us(g_us / reference_us, self.sigma_polynomial_us)
        sigma: NDArray[np.float64] = np.hypot(self.sigma_us, self.sigma_proportional_share * g_us)
        return sigma

    def mean_at_us(self, g_us: NDArray[np.float64], reference_us: float) -> NDArray[np.float64]:
        """Mean of the error at some conductances, in microsiemens."""
        if self.mean_table_us:
            return table_at(g_us, self.mean_table_us)
        coefficients = np.array(self.mean_polynomial_us or (0.0,))
        mean: NDArray[np.float64] = np.polynomial.polynomial.polyval(g_us / reference_us, coefficients)
        return mean


class WriteVerifySpec(Section):
    """Closed-loop programming pulse by pulse: its cost, and the error that it leaves if emulated.

    A SET pulse raises g by step * d * (1 + N(0, cycle_sigma)), a RESET pulse lowers it so, with one
    d = max(0.05, 1 + N(0, device_sigma)) per cell and one normal number per pulse; g stays within
    0 and 1.25 g_max. Pulses end once |g - goal| <= margin. A pulse takes voltage^2 * g * duration.
    """

    emulated: bool = True
    """True if these pulses take the place of the programming error; if not, they only price writes."""

    set_step_us: PositiveFloat
    """Mean rise of a SET pulse, in microsiemens."""
    reset_step_us: PositiveFloat
    """Mean fall of a RESET pulse, in microsiemens."""
    cycle_sigma_share: NonNegativeFloat
    """Standard deviation of a pulse's step, as a share of the cell's mean step."""
    device_sigma_share: NonNegativeFloat
    """Standard deviation of a cell's mean step, as a share of the nominal step."""
    margin_us: PositiveFloat
    """Largest distance from the goal that is accepted, in microsiemens."""
    max_pulses: Annotated[int, Field(ge=1, le=10_000)]
    """Pulses after which a cell is given up."""
    pulse_ns: PositiveFloat
    """Duration of a pulse, in nanoseconds."""
    set_voltage_v: PositiveFloat
    """Voltage of a SET pulse, in volts."""
    reset_voltage_v: PositiveFloat
    """Magnitude of the voltage of a RESET pulse, in volts."""
    verify_ns: NonNegativeFloat = 0.0
    """Duration of the read before the first and after each pulse, in nanoseconds."""
    cells_at_once: Annotated[int, Field(ge=1, le=10_000_000)] = 1
    """Cells of one chip that are written at the same time."""
    endurance_pulses: Annotated[int, Field(ge=1, le=2**53)] | None = None
    """Pulses that a cell endures."""


class FaultsSpec(Section):
    """Cells and lines that do not work."""

    stuck_low_share: Share
    """Share of cells stuck at the lowest conductance."""
    stuck_high_share: Share
    """Share of cells stuck at the highest conductance."""
    dead_input_line_share: Share = 0.0
    """Share of input lines that are never driven."""
    dead_output_line_share: Share = 0.0
    """Share of output lines that carry no current."""


class ReadNoiseSpec(Section):
    """Fluctuation of a cell while it is read: variance sigma^2 + (share * g)^2."""

    sigma_us: NonNegativeFloat
    """Standard deviation of the Gaussian, state-independent noise of a cell per phase, in microsiemens."""
    proportional_share: NonNegativeFloat = 0.0
    """Standard deviation of the Gaussian noise that grows with g, as a share of g."""
    sigma_table_us: Points = ()
    """Instead of both: [conductance, sigma] pairs in microsiemens, rising; linear between, flat beyond."""
    lasts: Literal["phase", "step"] = "phase"
    """Time for which one draw of the noise lasts: a bit phase, or all phases of a step."""

    @property
    def acts(self) -> bool:
        """True if a size is above zero."""
        if self.sigma_table_us:
            return any(sigma > 0 for _, sigma in self.sigma_table_us)
        return self.sigma_us + self.proportional_share > 0

    @property
    def least_sigma_us(self) -> float:
        """Standard deviation that the noise of every cell has at least, in microsiemens."""
        return min((sigma for _, sigma in self.sigma_table_us), default=self.sigma_us)

    def sigma_at_us(self, g_us: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standard deviation of the noise at some conductances, in microsiemens."""
        if self.sigma_table_us:
            return table_at(g_us, self.sigma_table_us)
        sigma: NDArray[np.float64] = np.hypot(self.sigma_us, self.proportional_share * g_us)
        return sigma


class WiresSpec(Section):
    """Resistance of the lines: one segment between neighbouring cells, and from a line's end to its first cell."""

    input_segment_ohm: NonNegativeFloat
    """Resistance of a segment of an input line, in ohms."""
    output_segment_ohm: NonNegativeFloat
    """Resistance of a segment of an output line, in ohms."""


class Target(Described, Section):
    """One kind of chip to compile for."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    """Short name, used on the command line."""
    title: str
    """One line that says what it is."""
    array: ArraySpec
    chip: ChipSpec
    cell: CellSpec
    input: InputSpec
    adc: AdcSpec
    programming: ProgrammingSpec
    faults: FaultsSpec
    read_noise: ReadNoiseSpec
    write_verify: WriteVerifySpec | None = None
    relaxation: RelaxationSpec | None = None
    retention: RetentionSpec | None = None
    drift: DriftSpec | None = None
    flicker_noise: FlickerNoiseSpec | None = None
    read_disturb: ReadDisturbSpec | None = None
    wires: WiresSpec | None = None
    energy: EnergySpec | None = None
    area: AreaSpec | None = None
    sources: dict[str, str]
    """Source of each field (``section.field``), or the reason for an assumption."""

    @classmethod
    def load(cls, name: str) -> Target:
        """Find a target by built-in name, or by path when it ends in ``.toml``; see :func:`load_target`."""
        return load_target(name)

    def with_(self, **changes: Any) -> Target:
        """Return the target with some fields changed, such as ``name="mine"`` or ``adc__bits=6``.

        ``section__field`` names a field of a section, and ``section=None`` leaves an optional section out. A changed
        value has "changed in Python" for its source.

        Raises
        ------
        TargetError
            There is no such field, or the new values are wrong; all errors at once.
        """
        values = self.model_dump()
        if changes.get("cell__device") is not None:
            values = given_device(values, str(changes["cell__device"]))
        for key, value in changes.items():
            section, _, field = key.partition("__")
            if not field:
                values[section] = value
                continue
            inside = values.get(section)
            values[section] = {**(inside if isinstance(inside, dict) else {}), field: value}
            values["sources"][f"{section}.{field}"] = "changed in Python"
        if "adc__bits" in changes:
            # Constants stay those of the converters they were given for.
            for priced, spec in (("energy", self.energy), ("area", self.area)):
                if spec is not None and spec.at_bits is None and not {priced, f"{priced}__at_bits"} & set(changes):
                    values[priced] = {**values[priced], "at_bits": self.adc.bits}
        given = {"energy", "energy__at_phase_ns"} & set(changes)
        if "input__phase_ns" in changes and self.energy is not None and self.energy.at_phase_ns is None and not given:
            values["energy"] = {**values["energy"], "at_phase_ns": self.input.phase_ns}
        kept = {section for section, value in values.items() if value is not None}
        values["sources"] = {name: why for name, why in values["sources"].items() if name.split(".")[0] in kept}
        return parse_target(values, self.name)

    def described(self) -> tuple[str, ...]:
        """Lines of ``repr``."""
        array, cell, adc = self.array, self.cell, self.adc
        return (
            f"Target {self.name!r}: {self.title}",
            f"  {self.chip.arrays} arrays a chip, {array.input_lines} x {array.output_lines} lines, "
            f"{array.cells:,} cells each",
            f"  cells of {cell.levels} levels from {cell.g_min_us:g} to {cell.g_max_us:g} uS",
            f"  inputs of {self.input.bits} bits, {self.input.bits_per_phase} a phase of {self.input.phase_ns:g} ns",
            f"  converters of {adc.bits} bits, {adc.range} range"
            + (f", one for {adc.lines_per_converter} output lines" if adc.lines_per_converter > 1 else ""),
        )

    @property
    def signed_levels(self) -> int:
        """Largest magnitude L of a differential pair: levels -L..+L."""
        return self.cell.levels - 1

    @property
    def converters(self) -> int:
        """Converters of an array."""
        return -(-self.array.output_lines // self.adc.lines_per_converter)

    @property
    def scaled_energy(self) -> EnergySpec | None:
        """Energies with the conversions of this target's bits, and cells that conduct as long as its phases last."""
        spec, changed = self.energy, dict[str, float]()
        if spec is None:
            return None
        if spec.at_bits not in (None, self.adc.bits):
            ratio = energy_ratio(self.adc.bits, spec.at_bits)
            changed |= {"conversion_pj": spec.conversion_pj * ratio, "at_bits": self.adc.bits}
        if spec.at_phase_ns not in (None, self.input.phase_ns):
            longer = self.input.phase_ns / spec.at_phase_ns
            changed |= {"cell_pj": spec.cell_pj * longer, "at_phase_ns": self.input.phase_ns}
        return spec.model_copy(update=changed) if changed else spec

    @property
    def array_mm2(self) -> float | None:
        """Area of an array with the converters of this target's bits, in square millimetres; None without constants."""
        spec = self.area
        if spec is None:
            return None
        if spec.at_bits not in (None, self.adc.bits):
            converter_um2 = spec.converter_um2 * area_ratio(self.adc.bits, spec.at_bits)
            spec = spec.model_copy(update={"converter_um2": converter_um2})
        return spec.array_mm2(self.array, self.converters)

    @property
    def can_write_again(self) -> bool:
        """True if reading pairs back and writing them again makes their errors smaller."""
        return self.programming.acts and self.programming.error_stays and self.emulated_pulses is None

    @property
    def emulated_pulses(self) -> WriteVerifySpec | None:
        """The pulses that decide the error of written cells; None if ``programming`` does."""
        return self.write_verify if self.write_verify is not None and self.write_verify.emulated else None

    def slice_base(self) -> int:
        """Largest weight of the next slice: 2 L + 1, so that slices are digits of a balanced number."""
        return 2 * self.signed_levels + 1

    def default_slice_base(self) -> int:
        """Largest base whose lower slice has room for the error of the slice above it.

        A digit of base b lies within b / 2 of zero, and one more step of the slice above counts b: what is left
        of L + 1/2 levels must hold the mean and ``ERROR_ROOM`` standard deviations of a pair's error, b times.
        """
        room = self.signed_levels + 0.5
        return min(max(math.floor(room / (0.5 + self._error_room_levels())), 2), self.slice_base())

    def digit_beside_errors(self, base: int) -> int:
        """Largest digit of a lower slice with room for the error above it, as in :meth:`default_slice_base`."""
        return max(math.floor(self.signed_levels + 0.5 - base * self._error_room_levels()), 0)

    def _error_room_levels(self) -> float:
        """Error of a pair that the next slice has room for, in level steps."""
        mean_levels, sigma_levels = self._pair_error_levels()
        return mean_levels + ERROR_ROOM * sigma_levels

    def _pair_error_levels(self) -> tuple[float, float]:
        """Largest mean and standard deviation of the error that writing leaves in a pair, in level steps."""
        cell, pulses = self.cell, self.emulated_pulses
        if pulses is not None:
            return 0.0, math.sqrt(2 / 3) * pulses.margin_us / cell.level_step_us
        levels_us = np.linspace(cell.g_min_us, cell.g_max_us, cell.levels)
        sigma_us = self.programming.sigma_at_us(levels_us, cell.reference_us)
        mean_us = self.programming.mean_at_us(levels_us, cell.reference_us)
        largest = float(np.abs(mean_us - mean_us[0]).max()), math.hypot(float(sigma_us.max()), float(sigma_us[0]))
        return largest[0] / cell.level_step_us, largest[1] / cell.level_step_us


FIELDS = fields_of(Target)
"""Dotted names of all fields of a target's sections."""


def parse_target(values: dict[str, Any], where: str) -> Target:
    """Check a target's values and build it.

    Raises
    ------
    TargetError
        With every schema error, or every physics error, at once.
    """
    try:
        target = Target.model_validate(with_device(values))
    except ValidationError as error:
        raise _target_error(where, schema_errors(error)) from error
    errors = target_errors(target)
    if errors:
        raise _target_error(where, errors)
    return target


def _target_error(where: str, errors: list[str]) -> TargetError:
    count = f"{len(errors)} error" + ("s" if len(errors) > 1 else "")
    return TargetError(f"target {where} has {count}:\n" + "\n".join(f"  - {line}" for line in errors))


def load_target_file(path: Path) -> Target:
    """Read a target file.

    Raises
    ------
    TargetError
        The file cannot be read, is not TOML, or its values are wrong.
    """
    try:
        if path.stat().st_size > MAX_TARGET_BYTES:
            raise TargetError(f"target {path} is larger than {MAX_TARGET_BYTES} bytes; a target file is a page of TOML")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TargetError(f"target {path} cannot be read: {error.strerror}; give the path of a TOML file") from error
    except UnicodeDecodeError as error:
        raise TargetError(f"target {path} is not UTF-8 text; a target file is TOML") from error
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise TargetError(f"target {path} is not TOML: {error}; see docs/targets.md") from error
    return parse_target(values, str(path))


def builtin_targets() -> tuple[str, ...]:
    """Names of the targets that come with memcompile."""
    return names_of_files(resources.files("memcompile.hardware") / "targets")


def load_target(name: str) -> Target:
    """Find a target by built-in name, or by path when it ends in ``.toml``.

    Raises
    ------
    UsageError
        No built-in target has this name.
    TargetError
        The file is wrong.
    """
    if name.endswith(".toml"):
        return load_target_file(Path(name))
    if name not in builtin_targets():
        raise UsageError(
            f"no target is called {name!r}; built in are {', '.join(builtin_targets())}, "
            f"and a path that ends in .toml names a target file{did_you_mean(name, builtin_targets())}"
        )
    found = _builtin_target(name)
    return found.model_copy(update={"sources": dict(found.sources)})


@lru_cache
def _builtin_target(name: str) -> Target:
    """A built-in target; its sources are not to be changed."""
    text = (resources.files("memcompile.hardware") / "targets" / f"{name}.toml").read_text(encoding="utf-8")
    return parse_target(tomllib.loads(text), name)
