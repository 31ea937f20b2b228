"""In-situ tuning of the last crossbar layer, as P. Yao et al. (2020) do it.

The forward pass is measured on the programmed chip; the gradient of the cross-entropy for the
last layer follows from its measured input and output. Updates accumulate digitally; a pair is
rewritten, closed loop, only where its accumulated change exceeds a threshold (1.5 uS).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.ir import MappedLayer, read_only
from memcompile.program import Program
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.transfer import Writer, wire
from memcompile.runtime.write_verify import WriteReport


@dataclass(frozen=True)
class TuningOptions:
    """How to tune.

    ``learning_rate`` is per image and in units of the weights as floats.
    """

    epochs: int = 20
    batch: int = 100
    learning_rate: float = 0.05
    threshold_us: float = 1.5


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did: mean loss, share of right answers, and what rewriting cells took."""

    epoch: int
    loss: float
    accuracy: float
    writes: int
    pulses: int
    pulse_energy_j: float

    @property
    def report(self) -> WriteReport:
        """What rewriting cells took."""
        return WriteReport(self.writes, self.pulses, self.pulse_energy_j)


class LastLayerTuner:
    """Tunes the last crossbar layer of a transferred program.

    Parameters
    ----------
    program
        A transferred program whose last crossbar layer makes one vector of class scores an image.
    writer
        Writes the cells of its chip.
    inputs, labels
        Training images, [N, ...] per input, and their classes, int64 [N].
    pending
        Updates in levels not yet written, [weights of the layer]; adapted in place.
    first_image
        Images count from here in the read noise.
    advance
        Called with the number of images measured.
    """

    def __init__(
        self,
        program: Program,
        writer: Writer,
        inputs: Mapping[str, NDArray[Any]],
        labels: NDArray[np.int64],
        options: TuningOptions,
        seed: int,
        pending: NDArray[np.float64],
        *,
        first_image: int = 0,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        self.program = program
        self.writer = writer
        self.labels = labels
        self.options = options
        self.seed = seed
        self.pending = pending.copy()
        self.first_image = first_image
        number = len(program.layers) - 1
        wiring = wire(program)
        # Updates go to the least significant slice, the only one fine enough for them.
        fine = np.flatnonzero((wiring.layer == number) & (wiring.slice == 0))
        self._plus, self._minus, self._weight = wiring.plus[fine], wiring.minus[fine], wiring.weight[fine]
        value = self.layer.inputs[0]
        measured = Emulator(program, seed).run(inputs, first_image=first_image, also=(value,), progress=advance)
        self._features = measured[value]

    @property
    def layer(self) -> MappedLayer:
        """The layer that is tuned."""
        return self.program.layers[-1]

    def epoch(self, number: int) -> EpochRecord:
        """Run through the training images once, in an order decided by seed and epoch."""
        order = np.random.default_rng([self.seed, number]).permutation(len(self.labels))
        loss, hits = 0.0, 0
        self.writer.take_report()
        for start in range(0, len(order), self.options.batch):
            picked = order[start : start + self.options.batch]
            batch_loss, batch_hits = self._step(picked, self.first_image + (number + 1) * len(order) + start)
            loss, hits = loss + batch_loss, hits + batch_hits
        self.program = replace(self.program, chip=self.writer.state())
        took = self.writer.take_report()
        return EpochRecord(number, loss / len(order), hits / len(order), took.writes, took.pulses, took.pulse_energy_j)

    def _step(self, picked: NDArray[np.int64], first_image: int) -> tuple[float, int]:
        layer, labels = self.layer, self.labels[picked]
        images = np.arange(len(picked)) + first_image
        x = self._features[picked]
        emulator = Emulator(self.program, self.seed)
        logits = emulator.run_stage(layer, {layer.inputs[0]: x}, images)[layer.outputs[0]].reshape(len(picked), -1)
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        probability = np.exp(shifted)
        probability /= probability.sum(axis=1, keepdims=True)
        loss = -np.log(np.maximum(probability[np.arange(len(picked)), labels], 1e-30)).sum()
        error = probability.copy()
        error[np.arange(len(picked)), labels] -= 1.0
        self._update(x, error / len(picked))
        return float(loss), int((logits.argmax(axis=1) == labels).sum())

    def _update(self, x: NDArray[Any], error: NDArray[np.float64]) -> None:
        """Accumulate the gradient step in levels, rewrite pairs beyond the threshold, adapt the bias."""
        layer, options = self.layer, self.options
        quantized = layer.quantizer.quantize(x).reshape(len(x), -1).astype(np.float64)
        weight_step = layer.scale.astype(np.float64) / layer.quantizer.scale
        gradient = quantized.T @ error * layer.quantizer.scale  # rows, columns, for float weights
        self.pending -= (options.learning_rate * gradient / weight_step).reshape(-1)
        bias = layer.bias - options.learning_rate * error.sum(axis=0)
        step_us = self.program.target.cell.level_step_us
        due = np.abs(self.pending[self._weight]) * step_us > options.threshold_us
        plus, minus, weight = self._plus[due], self._minus[due], self._weight[due]
        if len(plus):
            target = self.writer.measure_pairs(plus, minus) + self.pending[weight]
            self.writer.write_pairs(plus, minus, target)
            self.pending[weight] = 0.0
        tuned = replace(layer, bias=read_only(bias.astype(np.float32)))
        stages = tuple(tuned if stage is layer else stage for stage in self.program.stages)
        self.program = replace(self.program, stages=stages, chip=self.writer.state())
