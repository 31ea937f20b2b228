"""Noise of a layer's integer output for a mapping choice, by cause and output line, in closed form.

A column of weights w with independent errors e_r of its weights, of mean m_r and variance v_r, gives s = sum w_r x_r
and the error sum e_r x_r. With M = E[x x^T] and C the covariance of the inputs its power, averaged over chips, is

    sum_r v_r M_rr + m^T M m.

A digital scale and offset per output line take away what follows the line's own signal or is constant, that is the
projection on s and 1. What is left is

    sum_r v_r (C_rr - (C w)_r^2 / w^T C w) + m^T C m - (m^T C w)^2 / w^T C w.

Causes are independent of each other, so that their powers add up.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.hardware.conditions import NEW, Conditions
from memcompile.hardware.converter import Converter
from memcompile.hardware.target import Target
from memcompile.ir.geometry import Unrolling
from memcompile.ir.placement import Cut
from memcompile.ir.quantizers import InputQuantizer
from memcompile.noise.cause import Cause
from memcompile.noise.cell_errors import Errors, read_variance, weight_errors
from memcompile.noise.conversions import Lines, MatrixCurrents, row_tiles, vectors_followed
from memcompile.noise.gaussians import Array, nodes
from memcompile.noise.layer_inputs import LayerInputs
from memcompile.noise.wires import wire_errors

LEAST_VECTORS = 512
"""Input vectors that moments are taken of, at least; fewer only where there are no more."""
MOST_VECTORS = 4096
LEAST_RATIO = 1e-3
"""Noise-to-signal ratio of a layer below which nothing can be learned from its noise."""
STAND_IN = 0.04
"""Variance of the errors that stand in for such noise, as a share of the weights' mean square."""
PRODUCTS = 8_000_000
"""Multiply-adds of a layer that more input vectors may take."""


@dataclass(frozen=True, eq=False)
class MappingChoice:
    """One way to map a layer, or one replica of it.

    ``digits`` are the signed levels of its pairs, [slices, groups, group_rows, group_columns], ``base`` the value of a
    slice's step in steps of the one below; ``cut`` says which rows one conversion sums; ``windows`` are those that the
    replica works on, None for all; ``range_share`` is the end of the converters' range, None for the target's;
    ``averaged`` copies of the layer work on the same inputs and their outputs are averaged. ``corners`` are the first
    input and output line of each tile, [matrices, row tiles, column tiles, 2], for resistance along lines; the first
    lines of arrays where they are None.
    """

    digits: NDArray[Any]
    base: int
    unrolling: Unrolling
    cut: Cut
    windows: NDArray[np.int32] | None = None
    range_share: float | None = None
    averaged: int = 1
    corners: NDArray[np.integer[Any]] | None = None


@dataclass(frozen=True, eq=False)
class Power:
    """Noise power of output lines in squares of integer units, [matrices, columns].

    ``plain`` is the whole of it, ``calibrated`` what a scale and an offset per line leave.
    """

    plain: Array
    calibrated: Array

    def __add__(self, other: Power) -> Power:
        return Power(self.plain + other.plain, self.calibrated + other.calibrated)

    def times(self, factor: float) -> Power:
        """Every power times a number."""
        return Power(self.plain * factor, self.calibrated * factor)


@dataclass(frozen=True, eq=False)
class LayerNoise:
    """Noise of a mapping choice.

    ``powers`` has the causes that have any; ``signal`` is the variance of each line's ideal output, [matrices,
    columns]. ``weights`` are the errors of the weights, by cause, [matrices, rows, columns]: those that stay the same
    from input to input on one chip. All other causes draw anew, or nearly so, for each input vector.
    """

    powers: Mapping[Cause, Power]
    signal: Array
    weights: Mapping[Cause, Errors] = field(repr=False)

    @property
    def total(self) -> Power:
        """Sum over causes."""
        none = Power(np.zeros(self.signal.shape), np.zeros(self.signal.shape))
        return sum(self.powers.values(), none)


def layer_noise(
    inputs: LayerInputs, target: Target, choice: MappingChoice, age: Conditions = NEW, *, stand_in: bool = False
) -> LayerNoise:
    """Noise of a layer that gets calibration inputs, for one mapping choice on a target.

    Targets with continuous cells have none. With ``stand_in`` a layer that has hardly any gets errors of its weights
    instead, so that the network's sensitivity to it can be measured.
    """
    model = _Model(inputs, target, choice, age)
    powers = {
        cause: power.times(1 / choice.averaged)
        for cause, power in model.powers()
        if power.plain.any() or power.calibrated.any()
    }
    found = LayerNoise(powers, model.signal_variance, model.errors)
    if not stand_in or float(found.total.calibrated.sum()) >= LEAST_RATIO * float(found.signal.sum()):
        return found
    power, errors = model.stand_in()
    return LayerNoise(power, found.signal, errors)


class _Model:
    """Facts about a choice that several causes need."""

    def __init__(self, inputs: LayerInputs, target: Target, choice: MappingChoice, age: Conditions) -> None:
        self.inputs, self.target, self.choice = inputs, target, choice
        unrolling = choice.unrolling
        self.digits = unrolling.expand(choice.digits)  # slices, matrices, rows, columns
        self.blank = ~unrolling.expand(np.ones(choice.digits.shape[1:], bool))
        powers = float(choice.base) ** np.arange(len(self.digits))
        self.powers_of_slices = powers
        self.weights = np.tensordot(powers, self.digits.astype(np.float64), 1)
        windows = np.arange(unrolling.windows, dtype=np.int32) if choice.windows is None else choice.windows
        count = int(np.clip(PRODUCTS // self.weights.size, LEAST_VECTORS, MOST_VECTORS))
        vectors = inputs.vectors(unrolling, windows, count)
        self.vectors = np.ascontiguousarray(vectors.transpose(1, 0, 2))  # matrices, vectors, rows
        self.errors = dict(weight_errors(self.digits, choice.base, self.blank, target, age))
        self.errors.update(self._line_errors())
        self._measure()

    def _measure(self) -> None:
        """Moments of input vectors, and their covariance with the signal."""
        vectors = self.vectors
        self.signal = np.matmul(vectors, self.weights.astype(np.float32))
        self.mean = vectors.mean(axis=1, dtype=np.float64)
        self.square = np.square(vectors).mean(axis=1, dtype=np.float64)
        self.variance = self.square - np.square(self.mean)
        centred = self.signal - self.signal.mean(axis=1, keepdims=True)
        self.signal_variance = np.square(centred).mean(axis=1, dtype=np.float64)
        self._centred = centred
        products = np.matmul(np.ascontiguousarray(vectors.transpose(0, 2, 1)), centred) / vectors.shape[1]
        varies = self.signal_variance[:, None, :] > 0
        # (C w)_r^2 / w^T C w: what the line's own gain explains of an error of row r, [matrices, rows, columns].
        self.explained = np.divide(
            np.square(products.astype(np.float64)),
            self.signal_variance[:, None, :],
            where=varies,
            out=np.zeros(products.shape),
        )

    def powers(self) -> Iterator[tuple[Cause, Power]]:
        """Powers by cause."""
        if self.target.cell.continuous:
            return
        for cause, errors in self.errors.items():
            yield cause, self._of_weights(errors)
        assert isinstance(self.inputs.quantizer, InputQuantizer)
        if self.target.read_noise.acts:
            yield Cause.READ_NOISE, self._of_reads()
        yield from self._of_converters(self.inputs.quantizer)

    def stand_in(self) -> tuple[dict[Cause, Power], dict[Cause, Errors]]:
        """Power and errors of weights that err by a share of their mean square."""
        variance = np.where(self.blank, 0.0, STAND_IN * float(np.square(self.weights).mean()))
        errors = Errors(np.zeros(variance.shape), variance)
        return {Cause.PROGRAMMING: self._of_weights(errors)}, {Cause.PROGRAMMING: errors}

    def _of_weights(self, errors: Errors) -> Power:
        """Power of errors of weights that stay from input to input."""
        plain = np.matmul(self.square[:, None, :], errors.variance)[:, 0]
        calibrated = np.einsum("mr,mrc->mc", self.variance, errors.variance)
        calibrated -= np.einsum("mrc,mrc->mc", self.explained, errors.variance)
        if errors.mean.any():
            of_means = projected_power(np.matmul(self.vectors, errors.mean.astype(np.float32)), self._centred)
            plain, calibrated = plain + of_means.plain, calibrated + of_means.calibrated
        return Power(plain, calibrated)

    # --- lines and reads ------------------------------------------------------------------------------

    def _line_errors(self) -> Iterator[tuple[Cause, Errors]]:
        """Errors that belong to lines: of their drivers, of those that are dead, and of resistance along them."""
        target, square = self.target, np.square(self.weights)
        if target.input.dac_sigma_share:
            yield Cause.DAC_ERROR, Errors(np.zeros(square.shape), target.input.dac_sigma_share**2 * square)
        dead = target.faults.dead_input_line_share
        if dead:
            yield Cause.DEAD_INPUT_LINES, Errors(-dead * self.weights, dead * (1 - dead) * square)
        wires = wire_errors(self.digits, self.choice.base, self.choice.cut, self.choice.corners, target)
        if wires is not None:
            yield Cause.WIRES, Errors(wires, np.zeros(wires.shape))

    def _of_reads(self) -> Power:
        """Power of read noise: of each cell that is driven, of each phase anew or once for all phases of a step."""
        quantizer = self.inputs.quantizer
        assert isinstance(quantizer, InputQuantizer)
        squares = self.square
        if self.target.read_noise.lasts == "phase":
            whole, squares = self.vectors.astype(np.int16), np.zeros(self.square.shape)
            for phase, weight in enumerate(quantizer.phase_weights):
                driven = quantizer.digits(whole, phase).astype(np.float32)
                squares += weight**2 * np.square(driven).mean(axis=1, dtype=np.float64)
        of_level, largest = read_variance(self.target), self.target.signed_levels
        of_pair = (of_level + of_level[0])[np.abs(np.arange(-largest, largest + 1))]
        variance = np.einsum("smrc,s->mrc", of_pair[self.digits + largest], np.square(self.powers_of_slices))
        power = np.einsum("mr,mrc->mc", squares, variance)
        return Power(power, power)

    # --- converters -----------------------------------------------------------------------------------

    def _of_converters(self, quantizer: InputQuantizer) -> Iterator[tuple[Cause, Power]]:
        """Powers of rounding, of the end of range, and of gains and offsets of converters."""
        target, choice = self.target, self.choice
        converter = Converter.adc(target, choice.range_share)
        matrices = range(len(self.weights))
        tiles = [row_tiles(self.digits[:, matrix], choice.base, choice.cut.rows, target) for matrix in matrices]
        lines = sum(tile.levels.shape[1] for tile in tiles[0]) * len(tiles)
        count = min(self.vectors.shape[1], vectors_followed(lines, quantizer.phase_count))
        chosen = np.linspace(0, self.vectors.shape[1] - 1, count).astype(np.int64)
        found = [
            MatrixCurrents.of(self.vectors[matrix][chosen], tiles[matrix], choice.cut.rows, quantizer).errors(
                converter, matrix
            )
            for matrix in matrices
        ]
        moved, rounded, converted, cut_off = (
            projected_power(np.stack([getattr(item, name) for item in found]), self._centred[:, chosen])
            for name in ("moved", "rounded", "converted", "cut_off")
        )
        yield Cause.ROUNDING, rounded + moved.times(-1.0)
        # An end of range takes part of the noise of lines away, unless it is that of pairs whose errors cancel.
        again = target.programming.write_again_share > 0
        yield Cause.CLIPPING, cut_off if again else converted + rounded.times(-1.0)
        yield from self._of_converter_errors(tiles, converter, quantizer)

    def _of_converter_errors(
        self, tiles: list[list[Lines]], converter: Converter, quantizer: InputQuantizer
    ) -> Iterator[tuple[Cause, Power]]:
        """Powers of gains and offsets of converters, and of output lines that carry no current."""
        adc, dead = self.target.adc, self.target.faults.dead_output_line_share
        errors = []
        if adc.gain_sigma_share or dead:
            of_lines = _stacked([self._line_power(matrix, own) for matrix, own in enumerate(tiles)])
            errors.append(of_lines.times(adc.gain_sigma_share**2))
            if dead:
                yield Cause.DEAD_OUTPUT_LINES, of_lines.times(dead)
        if adc.offset_sigma_codes:
            errors.append(_stacked([self._offset_power(m, own, converter, quantizer) for m, own in enumerate(tiles)]))
        if errors:
            yield Cause.ADC_ERROR, sum(errors[1:], errors[0])

    def _line_power(self, matrix: int, tiles: list[Lines]) -> Power:
        """Power of the sums of single lines, summed over the lines of each column, [columns]."""
        total = Power(np.zeros(self.weights.shape[2]), np.zeros(self.weights.shape[2]))
        for lines, (begin, end) in zip(tiles, itertools.pairwise(self.choice.cut.rows), strict=True):
            sums = self.vectors[matrix][:, begin:end] @ lines.levels * lines.counts
            each = sums.reshape(len(sums), -1, lines.per_column).transpose(2, 0, 1)
            for of_line in each:
                total += projected_power(of_line, self._centred[matrix])
        return total

    def _offset_power(self, matrix: int, tiles: list[Lines], converter: Converter, quantizer: InputQuantizer) -> Power:
        """Power of offsets, [columns]: they shift what is driven, and round to a code where nothing is."""
        sigma = self.target.adc.offset_sigma_codes
        points, weights = nodes()
        offsets = sigma * points
        idle = np.clip(np.floor(offsets + converter.half), converter.min_code, converter.max_code)
        total = Power(np.zeros(self.weights.shape[2]), np.zeros(self.weights.shape[2]))
        per_level = converter.codes_per_level / converter.levels_per_code
        whole = self.vectors[matrix].astype(np.int16)
        for lines, (begin, end) in zip(tiles, itertools.pairwise(self.choice.cut.rows), strict=True):
            driven = np.stack(
                [
                    weight * quantizer.digits(whole[:, begin:end], phase).any(axis=1)
                    for phase, weight in enumerate(quantizer.phase_weights)
                ]
            ).sum(axis=0)
            rest = sum(quantizer.phase_weights) - driven
            squares = np.square(lines.counts / per_level).reshape(-1, lines.per_column).sum(axis=1)
            # Of one line, as a function of its offset: what it adds to each input vector, [nodes, vectors, 1].
            of_line = (offsets[:, None] * driven + idle[:, None] * rest)[..., None]
            alone = [projected_power(each, self._centred[matrix]) for each in of_line]
            total += Power(
                sum(w * each.plain for w, each in zip(weights, alone, strict=True)) * squares,
                sum(w * each.calibrated for w, each in zip(weights, alone, strict=True)) * squares,
            )
        return total


def _stacked(powers: Sequence[Power]) -> Power:
    """Powers of matrices, [columns] each, as one."""
    return Power(np.stack([item.plain for item in powers]), np.stack([item.calibrated for item in powers]))


def projected_power(errors: NDArray[np.floating[Any]], signal: NDArray[np.floating[Any]]) -> Power:
    """Power of given errors of some input vectors, with and without what follows the signal or is constant.

    Both are [..., vectors, columns]; the signal may also be wider than errors that all columns share.
    """
    count = errors.shape[-2]
    plain = np.square(errors).mean(axis=-2, dtype=np.float64)
    errors = errors - errors.mean(axis=-2, keepdims=True)
    signal = signal - signal.mean(axis=-2, keepdims=True)
    covariance = (errors * signal).mean(axis=-2, dtype=np.float64)
    variance = np.square(signal).mean(axis=-2, dtype=np.float64)
    gained = np.divide(np.square(covariance), variance, where=variance > 0, out=np.zeros(variance.shape))
    left = np.maximum(np.square(errors).mean(axis=-2, dtype=np.float64) - gained, 0.0)
    # Two numbers were fitted to the vectors at hand.
    return Power(plain + 0 * left, left * count / max(count - 2, 1))
