"""Copies of a layer with noise as one chip has it, and their outputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.ir.geometry import Unrolling
from memcompile.noise.cause import Cause
from memcompile.noise.layer_noise import LayerNoise, MappingChoice, Power

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PowerAnew:
    """Variance of what is drawn anew for each output, by where it comes from, [matrices, columns, 1] each."""

    reads: Floats
    conversions: Floats

    @property
    def any(self) -> bool:
        """True if anything is drawn."""
        return bool(self.reads.any() or self.conversions.any())

    def times(self, factor: float) -> PowerAnew:
        """Every variance times a number."""
        return PowerAnew(np.float32(factor) * self.reads, np.float32(factor) * self.conversions)

    def variance(self, reads: Floats, conversions: Floats) -> Floats:
        """Variance in windows of some activity, [images, matrices, windows]: [images, matrices, columns, windows]."""
        found: Floats = self.reads * reads[:, :, None, :]
        found += self.conversions * conversions[:, :, None, :]
        return found


@dataclass(frozen=True, eq=False)
class InputWindows:
    """Input vectors of windows, [images, matrices, rows, windows], and activity, [images, matrices, windows] each.

    Activity is the power of reads and of conversions, 1 on average; None where nothing is drawn anew.
    """

    vectors: Floats
    activity: tuple[Floats, Floats] | None


@dataclass(frozen=True, eq=False)
class NoisyCopies:
    """Copies on one chip that are unrolled and cut alike and work on as many windows each.

    ``windows`` are their windows, [copies, windows], ``weights`` their weights with errors, [copies, matrices, rows,
    columns].
    """

    unrolling: Unrolling
    windows: NDArray[np.int32]
    weights: Floats
    anew: PowerAnew

    def outputs(self, inputs: InputWindows, rng: np.random.Generator) -> Floats:
        """Outputs of the windows of one copy after the other, [images, matrices, columns, windows of all copies].

        ``inputs`` are those of all windows of the unrolling.
        """
        order = self.windows.ravel()
        in_order = len(order) == inputs.vectors.shape[3] and np.array_equal(order, np.arange(len(order)))
        vectors = inputs.vectors if in_order else np.take(inputs.vectors, order, axis=3)
        outputs = self._products(vectors)
        if inputs.activity is None:
            return outputs
        activity = inputs.activity if in_order else [np.take(part, order, axis=2) for part in inputs.activity]
        variance = self.anew.variance(*activity)
        outputs += rng.standard_normal(outputs.shape, np.float32) * np.sqrt(variance, out=variance)
        return outputs

    def _products(self, vectors: Floats) -> Floats:
        """Products of vectors, [images, matrices, rows, windows of all copies], each with its copy's weights."""
        copies, each = self.windows.shape
        if copies == 1 and each > 1:
            products: Floats = np.matmul(self.weights[0].transpose(0, 2, 1), vectors)
            return products
        images, matrices, rows, _ = vectors.shape
        by_copy = vectors.reshape(images, matrices, rows, copies, each).transpose(3, 1, 2, 0, 4)
        of_all = np.matmul(self.weights.transpose(0, 1, 3, 2), by_copy.reshape(copies, matrices, rows, images * each))
        in_turn = of_all.reshape(copies, matrices, -1, images, each).transpose(3, 1, 2, 0, 4)
        return np.ascontiguousarray(in_turn).reshape(images, matrices, -1, copies * each)


@dataclass(frozen=True, eq=False)
class CopyNoise:
    """Noise of all copies of a layer that are unrolled and cut alike.

    ``weights`` without errors, ``mean`` and ``sigma`` of their errors, all [matrices, rows, columns]; what is drawn
    anew on chips as transferred (``plain``) and on ``calibrated`` ones.
    """

    unrolling: Unrolling
    weights: Floats
    mean: Floats
    sigma: Floats
    plain: PowerAnew
    calibrated: PowerAnew

    @classmethod
    def of(cls, choice: MappingChoice, noise: LayerNoise) -> CopyNoise:
        """Sums over causes: of errors of weights, and of what is drawn for each output."""
        powers = float(choice.base) ** np.arange(len(choice.digits))
        weights = np.tensordot(powers, choice.unrolling.expand(choice.digits).astype(np.float64), 1)
        errors = noise.weights.values()
        none = np.zeros(noise.signal.shape)
        reads = noise.powers.get(Cause.READ_NOISE, Power(none, none))
        others = (*noise.weights, Cause.READ_NOISE)
        conversions = sum((power for cause, power in noise.powers.items() if cause not in others), Power(none, none))
        return cls(
            choice.unrolling,
            weights.astype(np.float32),
            sum((item.mean for item in errors), np.zeros(weights.shape)).astype(np.float32),
            np.sqrt(sum((item.variance for item in errors), np.zeros(weights.shape))).astype(np.float32),
            PowerAnew(_variance(reads.plain), _variance(conversions.plain)),
            PowerAnew(_variance(reads.calibrated), _variance(conversions.calibrated)),
        )

    def draw(
        self, windows: NDArray[np.int32], factor: float, calibrated: bool, rng: np.random.Generator
    ) -> NoisyCopies:
        """Copies that work on some windows, [copies, windows], with errors of their own and a factor on all power."""
        errors = rng.standard_normal((len(windows), *self.sigma.shape), np.float32)
        errors *= self.sigma
        errors += self.mean
        errors *= np.float32(np.sqrt(factor))
        errors += self.weights
        anew = self.calibrated if calibrated else self.plain
        return NoisyCopies(self.unrolling, windows, errors, anew.times(factor))


def _variance(power: NDArray[np.float64]) -> Floats:
    """Power of lines, [matrices, columns], as the variance of what is drawn, [matrices, columns, 1]."""
    return np.maximum(power, 0.0)[..., None].astype(np.float32)
