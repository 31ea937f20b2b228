"""In-situ tuning of a transferred program, as P. Yao et al. (2020) do it, and further.

The forward pass is measured on the programmed chip; the gradient of the cross-entropy follows
from the measured activations. Updates accumulate digitally; a pair is rewritten, closed loop, only
where its accumulated change exceeds a threshold (1.5 uS). The paper tunes the last layer; here
gradients also go back to earlier ones, through the measured forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.errors import UsageError
from memcompile.hardware.pulses import WriteReport
from memcompile.ir.graph import read_only
from memcompile.ir.sharing import first_layers
from memcompile.program.program import Program
from memcompile.runtime.emulator import Emulator, refuse_sequences
from memcompile.runtime.training.gradients import IMAGES_AT_ONCE, Backward, LayerGradient
from memcompile.runtime.training.writer import Writer, held_levels

LAST = "last"
"""Stand-in for the name of the last crossbar layer."""
ALL = "all"
"""Stand-in for the names of all crossbar layers."""


@dataclass(frozen=True)
class TuningOptions:
    """Options of hybrid training.

    ``learning_rate`` is per image and in units of the weights as floats. ``layers`` are names of
    crossbar layers, ``last`` or ``all``. ``patience`` stops after so many epochs whose loss was not
    below the least one before; 0 never does. ``digital_scales`` tunes the layers' digital scales too.
    """

    epochs: int = 20
    batch: int = 100
    learning_rate: float = 0.05
    threshold_us: float = 1.5
    layers: tuple[str, ...] = (LAST,)
    digital_scales: bool = False
    patience: int = 0


@dataclass(frozen=True)
class EpochRecord:
    """Result of one epoch: mean loss, share of right answers, and the cost of rewriting cells.

    ``held_back`` is the share of right answers after it on images that were not tuned with.
    """

    epoch: int
    loss: float
    accuracy: float
    writes: int
    pulses: int
    pulse_energy_j: float
    failures: int | None
    held_back: float | None = None

    @property
    def report(self) -> WriteReport:
        """Cost of rewriting cells."""
        return WriteReport(self.writes, self.pulses, self.pulse_energy_j, self.failures)


def tuned_layers(program: Program, names: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the crossbar layers of these names and of those that share cells with them, in program order.

    Raises
    ------
    UsageError
        A name is not that of a crossbar layer, or there is no name.
    """
    known = {layer.name: number for number, layer in enumerate(program.layers)}
    chosen: set[int] = set()
    for name in names:
        if name not in known and name not in (LAST, ALL):
            raise UsageError(
                f"no crossbar layer is called {name!r}; there are {', '.join(known)}, and {LAST!r} and {ALL!r} for them"
            )
        chosen |= set(known.values()) if name == ALL else {known.get(name, len(known) - 1)}
    if not chosen:
        raise UsageError(f"no layer to tune is named; give names of crossbar layers, {LAST!r} or {ALL!r}")
    owners = first_layers(program.layers)
    return tuple(np.flatnonzero(np.isin(owners, owners[sorted(chosen)])).tolist())


def weights_of(program: Program, layers: Sequence[int]) -> int:
    """Number of weights of some layers."""
    return sum(program.layers[number].geometry.weights for number in layers)


def probabilities(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Softmax of class scores, [images, classes]."""
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.exp(shifted)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def stopped_early(records: Sequence[EpochRecord], patience: int) -> bool:
    """Return True if the last ``patience`` epochs brought no loss below the least one before them."""
    if not patience or len(records) <= patience:
        return False
    return min(record.loss for record in records[-patience:]) >= min(record.loss for record in records[:-patience])


class InSituTuner:
    """Tunes crossbar layers of a transferred program.

    Parameters
    ----------
    program
        A transferred program whose last crossbar layer makes one vector of class scores an image.
    writer
        Writes the cells of its chip.
    inputs, labels
        Training images, [N, ...] per input, and their classes, int64 [N].
    pending
        Updates in levels not yet written, the tuned layers' weights one layer after the other.
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
        self.layers = tuned_layers(program, options.layers)
        self._backward = Backward(program, self.layers[0])
        self._pairs = program.cell_map.pairs()
        # What comes before the first tuned layer does not change: it is measured once.
        names = self._backward.reads
        self._values = {name: inputs[name] for name in names if name in inputs}
        if len(self._values) < len(names):
            self._values = Emulator(program, seed).measure(names, inputs, first_image=first_image, progress=advance)
        refuse_sequences(self._values)

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
        return EpochRecord(
            number,
            loss / len(order),
            hits / len(order),
            took.writes,
            took.pulses,
            took.pulse_energy_j,
            took.failures,
        )

    def _step(self, picked: NDArray[np.int64], first_image: int) -> tuple[float, int]:
        emulator = Emulator(self.program, self.seed)
        levels = held_levels(self.program, self.writer, self._pairs)
        output = self.program.layers[-1].outputs[0]
        loss, hits, total = 0.0, 0, dict[int, LayerGradient]()
        for begin in range(0, len(picked), IMAGES_AT_ONCE):
            some = picked[begin : begin + IMAGES_AT_ONCE]
            images = np.arange(len(some)) + first_image + begin
            here = {name: array[some] for name, array in self._values.items()}
            values = self._backward.forward(emulator, here, images)
            scores, right = values[output].reshape(len(some), -1), (np.arange(len(some)), self.labels[some])
            error = probabilities(scores)
            loss -= float(np.log(np.maximum(error[right], 1e-30)).sum())
            hits += int((scores.argmax(axis=1) == self.labels[some]).sum())
            error[right] -= 1.0
            for number, part in self._backward.back(self.program, values, error / len(picked), levels).items():
                total[number] = total[number] + part if number in total else part
        self._update(total)
        return loss, hits

    def _update(self, gradients: Mapping[int, LayerGradient]) -> None:
        """Accumulate the gradient step in levels, rewrite pairs beyond the threshold, adapt the digital part."""
        rate, stages, owners = self.options.learning_rate, list(self.program.stages), first_layers(self.program.layers)
        pending = self._pending_of_layers()
        for number in self.layers:
            layer, gradient = self.program.layers[number], gradients.get(number)
            if gradient is None:
                continue
            # The step of a float weight is step / weight_step levels, its gradient likewise smaller.
            weight_step = layer.scale.astype(np.float64).reshape(layer.geometry.groups, 1, -1) / layer.quantizer.scale
            of_cells = pending[int(owners[number])]
            of_cells -= (rate * gradient.levels / weight_step**2).reshape(-1)
            grown = np.exp(-rate * gradient.scale) if self.options.digital_scales else 1.0
            tuned = replace(
                layer,
                scale=read_only((layer.scale * grown).astype(np.float32)),
                bias=read_only((layer.bias - rate * gradient.bias).astype(np.float32)),
            )
            stages[stages.index(layer)] = tuned
        for number in dict.fromkeys(owners[list(self.layers)].tolist()):
            self._rewrite(number, pending[number])
        self.program = replace(self.program, stages=tuple(stages), chip=self.writer.state())

    def _pending_of_layers(self) -> dict[int, NDArray[np.float64]]:
        """Pending updates of each tuned layer, by its number; those of shared cells belong to the first layer."""
        sizes = [self.program.layers[number].geometry.weights for number in self.layers]
        return dict(zip(self.layers, np.split(self.pending, np.cumsum(sizes)[:-1]), strict=True))

    def _rewrite(self, number: int, pending: NDArray[np.float64]) -> None:
        """Write pairs of all replicas whose pending change is beyond the threshold; it is then done."""
        pairs, step_us = self._pairs, self.program.target.cell.level_step_us
        due = np.flatnonzero(np.abs(pending) * step_us > self.options.threshold_us)
        if not len(due):
            return
        # Updates go to the least significant slice, the only one fine enough for them.
        here = (pairs.layer == number) & (pairs.slice == 0) & np.isin(pairs.weight, due)
        plus, minus, weight = pairs.plus[here], pairs.minus[here], pairs.weight[here]
        self.writer.write_pairs(plus, minus, self.writer.measure_pairs(plus, minus) + pending[weight])
        pending[due] = 0.0
