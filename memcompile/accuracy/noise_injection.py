"""Runs of a program's network on ideal devices, with noise as the noise model gives it added to its layers.

Noise is drawn as a chip has it. Errors of weights are drawn once a chip, apart for every replica and output line, so
that they are the same for all images and all windows that a line works on; what reads and converters add is drawn anew
for each output, reads with more power where more cells are driven, and both where high phases of the input drive lines.
Noise that is independent from output to output instead has the same power and another effect, above all on calibrated
chips: docs/noise_model.md measures it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.noisy_copies import CopyNoise, InputWindows, NoisyCopies, PowerAnew
from memcompile.hardware.conditions import NEW, Conditions
from memcompile.ir.geometry import Unrolling
from memcompile.ir.graph import Cut, MappedLayer
from memcompile.ir.quantizers import InputQuantizer
from memcompile.noise.layer_inputs import LayerInputs
from memcompile.noise.layer_noise import layer_noise
from memcompile.noise.program_noise import choice_of
from memcompile.program.line_corrections import corrected_output, count_places, places_of, positions_of
from memcompile.program.program import Program
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.line_fit import LineMoments, corrections_of

Values = Mapping[str, NDArray[Any]]
Floats = NDArray[np.float32]

INPUT_BYTES = 200_000_000
"""Memory for the inputs of all layers on calibration images."""
LEAST_IMAGES, MOST_IMAGES = 16, 256
VECTOR_BYTES = 4_000_000
"""Memory for the input vectors of a layer, which sets the images that are run at once."""
ACTIVITY_IMAGES = 64
"""Calibration images that tell how much usually drives a line."""
TINY = 1e-12
"""Least power of lines that some input drives."""


class NoisyNetwork:
    """A program on ideal devices with noise of the powers of the noise model, or of what stands in for it.

    Parameters
    ----------
    program
        A program that is not transferred to a chip, on a target with levels.
    calibration
        Images that moments of inputs are taken of, [images, ...] per input, samples along axis 0.
    age
        Of the chip.
    """

    def __init__(self, program: Program, calibration: Values, age: Conditions = NEW) -> None:
        self.program = program
        self.ideal = Emulator.ideal(program)
        self.age = age
        self.inputs = layer_inputs(program, calibration)
        self._copies: dict[tuple[int, Any], CopyNoise] = {}
        self._usual: dict[tuple[int, Unrolling], tuple[np.float32, np.float32]] = {}

    def run(
        self,
        values: Values,
        factors: Mapping[str, float],
        chip: int,
        *,
        fitted_to: Values | None = None,
        first_stage: int = 0,
        rounded: bool = True,
        wanted: Sequence[str] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run stages from one on and return values, all of them or those that are wanted.

        Parameters
        ----------
        values
            Values that stages from the first one on read, [images, ...] each.
        factors
            Factor on the noise power of some layers by name; other layers are ideal.
        chip
            Number of the chip that errors are drawn for.
        fitted_to
            Values of ideal devices for the same images. From the first noisy layer on, each output line gets a scale
            and an offset that bring its output to them, layer by layer, as a chip is calibrated: what the noise of one
            layer makes of the mean and the scale of the next is taken back, too. None for chips as transferred.
        rounded
            Inputs of layers are rounded, as on any chip. The least noise anywhere draws all rounding behind it anew,
            which has a power of its own, so that without rounding alone the noise of the output is in proportion.
        """
        found: dict[str, Any] = {**self.program.constants, **values}
        count = len(next(iter(values.values())))
        layers = {layer.name: number for number, layer in enumerate(self.program.layers)}
        noisy = False
        stages = self.program.stages
        dead = [[]] * len(stages) if wanted is None else self.ideal.dead_after(tuple(wanted))
        for stage, unread in list(zip(stages, dead, strict=True))[first_stage:]:
            factor = factors.get(stage.name, 0.0) if isinstance(stage, MappedLayer) else 0.0
            noisy |= factor > 0
            if not isinstance(stage, MappedLayer) or (rounded and factor <= 0):
                found.update(self.ideal.run_stage(stage, found, np.arange(count)))
            else:
                value, number = found[stage.inputs[0]], layers[stage.name]
                own = self._draw(number, factor, chip, fitted_to is not None) if factor > 0 else _exact(stage)
                found[stage.outputs[0]] = self._run(number, value, own, chip, rounded)
            if isinstance(stage, MappedLayer) and noisy and fitted_to is not None:
                output = stage.outputs[0]
                found[output] = _calibrated(stage, fitted_to[output], found[output])
            for name in unread:
                found.pop(name, None)
        return found if wanted is None else {name: found[name] for name in wanted}

    def _run(
        self, number: int, x: NDArray[Any], copies: Sequence[NoisyCopies], chip: int, rounded: bool
    ) -> NDArray[Any]:
        """Output of a layer that is laid out as some copies."""
        layer = self.program.layers[number]
        geometry, quantizer = layer.geometry, layer.quantizer
        assert isinstance(quantizer, InputQuantizer)
        scaled = quantizer.scaled(geometry.to_channels_first(x))
        quantized = np.rint(scaled) if rounded else scaled
        shapes = [alike.unrolling for alike in copies]
        largest = max(unrolling.matrices * unrolling.rows * unrolling.windows for unrolling in shapes)
        at_once = max(1, VECTOR_BYTES // (4 * largest))
        sums = np.zeros((len(quantized), geometry.out_channels, geometry.positions), np.float32)
        rng = np.random.default_rng([chip, number, 1])
        for begin in range(0, len(quantized), at_once):
            some = slice(begin, begin + at_once)
            windows: dict[Unrolling, InputWindows] = {}
            for alike in copies:
                unrolling = alike.unrolling
                if unrolling not in windows:
                    activity = self._activity(number, unrolling, quantized[some]) if alike.anew.any else None
                    windows[unrolling] = InputWindows(unrolling.vectors(quantized[some]), activity)
                outputs = alike.outputs(windows[unrolling], rng)
                unrolling.scatter(outputs.transpose(0, 3, 1, 2), alike.windows.ravel(), sums[some])
        y = layer.rescale(sums).reshape(len(quantized), geometry.out_channels, *geometry.output_size)
        return geometry.from_channels_first(y, x.shape)

    def _activity(self, number: int, unrolling: Unrolling, quantized: NDArray[Any]) -> tuple[Floats, Floats]:
        """Power of reads and of conversions in each window, 1 on average, [images, matrices, windows] each.

        Reads have that of all cells that are driven; conversions that of phases that drive a line.
        """
        key = (number, unrolling)
        if key not in self._usual:
            some = self._activity_in_any_unit(number, unrolling, self.inputs[number].values[:ACTIVITY_IMAGES])
            usual_reads, usual_conversions = (np.float32(max(part.mean(), TINY)) for part in some)
            self._usual[key] = usual_reads, usual_conversions
        reads, conversions = self._activity_in_any_unit(number, unrolling, quantized)
        return reads / self._usual[key][0], conversions / self._usual[key][1]

    def _activity_in_any_unit(
        self, number: int, unrolling: Unrolling, quantized: NDArray[Any]
    ) -> tuple[Floats, Floats]:
        magnitudes = np.rint(np.abs(quantized)).astype(np.int16)
        reads, conversions = self._phase_powers(number)
        largest = unrolling.combined(magnitudes, np.maximum)
        return unrolling.combined(reads[magnitudes], np.add), conversions[largest]

    def _phase_powers(self, number: int) -> tuple[Floats, Floats]:
        """Power of the reads of a cell by the magnitude of its input, and of conversions by the largest magnitude.

        A phase counts its weight squared: in a read by its digit, in a conversion where its weight is not above the
        largest input. Reads whose noise lasts for all phases of a step have that of the whole input.
        """
        quantizer = self.program.layers[number].quantizer
        assert isinstance(quantizer, InputQuantizer)
        weights = np.unique(np.abs(quantizer.phase_weights))
        magnitudes = np.arange(max(-quantizer.lowest, quantizer.highest) + 1)
        conversions = (np.square(weights) * (weights <= magnitudes[:, None])).sum(axis=1)
        reads = np.square(magnitudes)
        if self.program.target.read_noise.lasts == "phase":
            digits = magnitudes[:, None] // weights & quantizer.highest_digit
            reads = np.square(digits * weights).sum(axis=1)
        return reads.astype(np.float32), conversions.astype(np.float32)

    def _draw(self, number: int, factor: float, chip: int, calibrated: bool) -> list[NoisyCopies]:
        """All replicas of a layer on one chip, each with errors of its own."""
        rng = np.random.default_rng([chip, number, 0])
        alike: dict[tuple[Unrolling, Cut, int], list[int]] = {}
        for copy, replica in enumerate(self.program.layers[number].replicas):
            alike.setdefault((replica.unrolling, replica.cut, len(replica.windows)), []).append(copy)
        replicas = self.program.layers[number].replicas
        return [
            self._copy(number, copies[0]).draw(
                np.stack([replicas[copy].windows for copy in copies]), factor, calibrated, rng
            )
            for copies in alike.values()
        ]

    def _copy(self, number: int, copy: int) -> CopyNoise:
        """Noise of a replica; those that are unrolled and cut alike share that over all windows."""
        replica = self.program.layers[number].replicas[copy]
        key = (number, (replica.unrolling, replica.cut))
        if key not in self._copies:
            choice = replace(choice_of(self.program, number, copy), windows=None)
            self._copies[key] = CopyNoise.of(
                choice, layer_noise(self.inputs[number], self.program.target, choice, self.age, stand_in=True)
            )
        return self._copies[key]


def layer_inputs(program: Program, calibration: Values) -> list[LayerInputs]:
    """Quantised inputs of all layers on ideal devices, of as many images as ``INPUT_BYTES`` hold."""
    sizes = [layer.geometry.in_channels * math.prod(layer.geometry.input_size) for layer in program.layers]
    images = int(np.clip(INPUT_BYTES // (4 * sum(sizes)), LEAST_IMAGES, MOST_IMAGES))
    return inputs_on(Emulator.ideal(program), {name: array[:images] for name, array in calibration.items()})


def inputs_on(ideal: Emulator, images: Values) -> list[LayerInputs]:
    """Quantised inputs of all layers of a program on ideal devices; samples lie along axis 0."""
    program = ideal.program
    names = tuple(dict.fromkeys(layer.inputs[0] for layer in program.layers))
    values = ideal.measure(names, images)
    return [
        LayerInputs(
            layer.quantizer, layer.quantizer.quantize(layer.geometry.to_channels_first(values[layer.inputs[0]]))
        )
        for layer in program.layers
    ]


def _exact(layer: MappedLayer) -> list[NoisyCopies]:
    """A layer on ideal devices, one output position a step."""
    unrolling = Unrolling.im2col(layer.geometry)
    weights = unrolling.expand(layer.integer_matrix().astype(np.float32))
    none = np.zeros((*weights.shape[::2], 1), np.float32)
    return [
        NoisyCopies(unrolling, np.arange(unrolling.windows, dtype=np.int32)[None], weights[None], PowerAnew(none, none))
    ]


def _calibrated(layer: MappedLayer, wanted: NDArray[Any], found: NDArray[Any]) -> NDArray[Any]:
    """Output of a layer whose lines have a scale and an offset that bring it to what is wanted."""
    pair = positions_of(layer.geometry, wanted), positions_of(layer.geometry, found)
    moments = LineMoments.of([pair], places_of(layer), count_places(layer))
    return corrected_output(layer, found, *corrections_of(moments))
