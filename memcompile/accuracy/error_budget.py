"""Error budget: accuracy that a chip loses, predicted from the noise model, by cause and by layer.

1. The noise model gives the noise-to-signal ratio of each layer's output, by cause.
2. The sensitivity of the network's output to a layer is measured: noise of the layer's power is added on ideal
   devices whose inputs are not rounded, and the noise-to-signal ratio of the output is divided by that of the layer.
   Contributions of layers add up.
3. A curve turns the ratio of the output into accuracy that is lost against the network without rounded inputs: all
   layers get noise of their powers times some factors, and the losses of these runs are fitted. Rounded inputs make
   noise of their own, on chips and on ideal devices alike; it is measured once. What chips lose against ideal devices
   is the curve at the noise of both, less the curve at that of rounding alone.

See docs/noise_model.md for where this breaks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.noise_injection import NoisyNetwork
from memcompile.accuracy.scoring import class_names, score_samples
from memcompile.blas import one_blas_thread
from memcompile.data.loader import Dataset
from memcompile.frontend.values import Value
from memcompile.hardware.conditions import NEW, Conditions
from memcompile.ir.pass_manager import ProgressBar, no_progress
from memcompile.noise.cause import Cause
from memcompile.noise.layer_inputs import LayerInputs
from memcompile.noise.loss_curve import MOST_LOST, CurveRun, LossCurve, curve_of
from memcompile.noise.margins import as_often_wrong, class_margins, closest, moved_loss, smoothed_loss
from memcompile.noise.output_noise import noise_to_signal, output_noise
from memcompile.noise.program_noise import LayerRatios, layer_ratios
from memcompile.program.coupled_samples import program_couples_samples
from memcompile.program.program import Program

SENSITIVITY_IMAGES, SENSITIVITY_CHIPS = (8, 96), (2, 12)
"""Least and most images and chips on which the sensitivity to a layer is measured."""
SENSITIVITY_PRODUCTS = 4_000_000_000
"""Multiply-adds of all layers' runs together, beyond which they take fewer images."""
COST_SPREAD = 0.3
"""Standard deviation of the logarithm of what noise costs by the layer that it comes from, before it is measured."""
CURVE_FACTORS = (0.5, 1.0, 1.0, 2.0, 1.0) * 4
"""Factors on the power of all layers, one a run, each with a chip of its own."""
CURVE_IMAGES = (32, 96)
"""Least and most images of a run of the curve, and as many whose margins are small."""
SEEN_PRODUCTS, MOST_SEEN = 20_000_000_000, 1000
"""Multiply-adds of the images whose margins are looked at, and these images at most."""
BATCH = 64
"""Images of them at once."""
CURVE_PLACES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""Noise by that of the chips at hand at which the curve is fitted."""
CURVE_PRODUCTS = 1_000_000_000
"""Multiply-adds of a run of the curve beyond which it takes fewer images, and there are half as many runs."""
SETS = 3
"""Sets of images that runs of the curve share, one after the other."""
COUNTED = 4
"""Factor on the images of a run where answers are counted."""
SHARE_SPREAD = 0.3
"""Standard deviation around 1, before it is measured, of the noise that layers make together by the sum of theirs."""
LEAST_SHARE = 0.1
"""Least such share: noise never goes away, whatever a handful of runs say."""
INJECTED = (0.003, 0.3)
"""Noise-to-signal ratios between which a layer's noise is scaled to measure the sensitivity to it."""
LEAST_LOSS = 0.001
"""Share of answers below which losses on the curve are as good as none."""
TINY = 1e-12
FIRST_ORDER = 0.3
"""Ratio of the output above which contributions no longer add up."""


@dataclass(frozen=True)
class CauseLoss:
    """Points lost to a cause alone, and points won if it were left out."""

    cause: Cause
    alone: float
    left_out: float


@dataclass(frozen=True)
class LayerLoss:
    """Noise-to-signal ratio of a layer's output, and what it costs.

    ``sensitivity`` is the ratio of the network's output that a ratio of 1 would make; ``alone`` are points lost if all
    other layers were ideal.
    """

    name: str
    ratio: float
    sensitivity: float
    alone: float
    main_cause: Cause | None


@dataclass(frozen=True)
class ErrorBudget:
    """Prediction of what a chip loses.

    ``measure`` is "accuracy", with losses in points, or "sqnr", with losses in per cent of the output's signal power.
    ``loss`` is the mean over chips and ``uncertainty`` its standard error, ``chip_spread`` the standard deviation from
    chip to chip. ``noise`` is the predicted noise-to-signal ratio of the output. ``calibrated`` chips have a scale and
    an offset of their own for each output line.
    """

    measure: str
    loss: float
    uncertainty: float
    chip_spread: float
    noise: float
    causes: tuple[CauseLoss, ...]
    layers: tuple[LayerLoss, ...]
    images: int
    calibrated: bool


def can_predict(program: Program, dataset: Dataset) -> bool:
    """Return True if the noise model covers a program and its samples lie along axis 0 of all inputs."""
    target, batching = program.target, program.batching
    usual = not batching.whole and not batching.one_by_one and batching.size in (None, 1)
    along_first = all(axis == 0 for axis in batching.inputs.values())
    covered = not target.cell.continuous and program.chip is None and bool(program.layers)
    covered &= not target.cell.nonlinearity_per_v or target.input.highest_digit == 1
    return covered and usual and along_first and not program_couples_samples(program) and not dataset.generated


def error_budget(
    program: Program,
    dataset: Dataset,
    *,
    calibrated: bool = False,
    age: Conditions = NEW,
    sensitivities: NDArray[np.float64] | None = None,
    progress: ProgressBar = no_progress,
) -> ErrorBudget | None:
    """Predict what chips lose; None where the model does not reach, see :func:`can_predict`.

    Parameters
    ----------
    dataset
        Samples to predict for; its calibration samples give the moments of inputs.
    calibrated
        Of chips whose output lines have a scale and an offset each.
    age
        Of the chips.
    sensitivities
        Of the network's output to its layers, [layers], which hold for all mappings; measured when None.
    """
    if not can_predict(program, dataset):
        return None
    with one_blas_thread():
        study, model = _studied(program, dataset, calibrated, age, progress, sensitivities)
        ratios = [layer_ratios(program, number, own, age) for number, own in enumerate(study.network.inputs)]
        return _budget(program, ratios, model)


@dataclass(frozen=True, eq=False)
class LossModel:
    """Loss of a network as a function of the noise-to-signal ratios of its layers.

    What is measured of the network, ``sensitivities`` to its layers [layers], the ``curve`` from the noise of its
    output to points with the ``runs`` that it was fitted to, and the ``share`` of the sum over layers that they make
    together, does not depend on the mapping. Without labels there are no runs. ``calibrated`` chips have a scale and
    an offset of their own for each output line; ``images`` were seen. Losses are for samples of which a share is
    ``wrong`` without noise, if that is more than among those seen. All noise, and all losses, are against a network
    whose inputs of layers are not rounded; on ideal devices the outputs have a ratio of ``rounding`` to it.
    """

    sensitivities: NDArray[np.float64]
    curve: LossCurve
    share: float
    images: int
    calibrated: bool = True
    runs: tuple[CurveRun, ...] = ()
    wrong: float = 0.0
    rounding: float = 0.0

    def loss_at(self, noise: float) -> float:
        """Points lost where the outputs have a noise-to-signal ratio, see :func:`output_noise`."""
        return 100 * self.curve(noise)

    def uncertainty(self, loss: float) -> float:
        """Standard error of a predicted loss, both in points."""
        return _uncertainty(self.runs, self.curve, loss)[0]

    def limit(self, points: float) -> float:
        """Largest sum of sensitivity times ratio at which no more points are lost."""
        return self.curve.inverse(points / 100) / max(self.share, 1e-12)


def loss_model(
    program: Program,
    dataset: Dataset,
    *,
    factors: Sequence[float] = CURVE_FACTORS,
    calibrated: bool = True,
    wrong: float = 0.0,
    progress: ProgressBar = no_progress,
) -> tuple[LossModel, list[LayerInputs]]:
    """Measure how noise of layers acts on the classes that a network names.

    Parameters
    ----------
    program
        Any mapping of the network that :func:`can_predict` allows.
    dataset
        Samples with labels.
    factors
        Factors on the noise of all layers, one a run of the curve; networks with many products do the first half.
    calibrated
        Of chips whose output lines have a scale and an offset each.
    wrong
        Share of wrong answers without noise on the samples that losses are wanted for, if it is larger than here.

    Returns
    -------
    The model, and the quantised inputs of layers that ratios are computed with.
    """
    with one_blas_thread():
        study, model = _studied(program, dataset, calibrated, NEW, progress, factors=factors, wrong=wrong)
    return model, study.network.inputs


def _studied(
    program: Program,
    dataset: Dataset,
    calibrated: bool,
    age: Conditions,
    progress: ProgressBar,
    sensitivities: NDArray[np.float64] | None = None,
    factors: Sequence[float] = CURVE_FACTORS,
    wrong: float = 0.0,
) -> tuple[_Study, LossModel]:
    """Measure sensitivities, unless they are known, and the curve."""
    network = NoisyNetwork(program, dataset.calibration, age)
    ratios = [layer_ratios(program, number, own, age, stand_in=True) for number, own in enumerate(network.inputs)]
    study = _Study(network, dataset, ratios, calibrated)
    layers = range(len(program.layers) if sensitivities is None else 0)
    scaled = factors[: study.runs] if dataset.labels is not None else ()
    with progress("error budget", len(layers) + len(scaled)) as advance:
        alone, noisy = list[_LayerAlone](), list[_NoisyRun]()
        for number in layers:
            alone.append(study.layer_alone(number))
            advance(1)
        for number, factor in enumerate(scaled):
            noisy.append(study.run(number, factor))
            advance(1)
    margins = np.zeros((0, 1)) if study.margins is None else as_often_wrong(study.margins, wrong)
    runs = _curve_runs(noisy, margins)
    curve = _smooth_curve(noisy, margins) if any(run.margins for run in noisy) else curve_of(runs)
    of_layers = np.array([_ratio(own, calibrated) for own in ratios])
    found = sensitivities if sensitivities is not None else np.array([item.sensitivity for item in alone])
    costs = np.array([item.cost(curve, margins) for item in alone]) if alone else np.ones(len(found))
    total, costly = float(of_layers @ found), float(of_layers @ (found * costs))
    rounding = float(np.mean([run.rounding for run in noisy])) if noisy else 0.0
    # The cost of layers alone and that of all together tell of the same loss; each has half of the say.
    share = _share(noisy, total) * (math.sqrt(total / costly) if costly > 0 else 1.0)
    images = sum(run.images for run in runs) or min(dataset.count, study.sensitivity_images)
    return study, LossModel(found * costs, curve, share, images, calibrated, tuple(runs), wrong, rounding)


@dataclass(frozen=True, eq=False)
class _NoisyRun:
    """A run with noise: ratio of the outputs, loss counted in answers, margins of samples without and with noise.

    All are against inputs that are not rounded; ``rounding`` is the ratio that ideal devices have. Samples with margins
    are those with small ones; ratio and count are those of any ``images``.
    """

    factor: float
    noise: float
    rounding: float
    counted: float
    images: int
    margins: tuple[NDArray[np.float64], NDArray[np.float64]] | None


@dataclass(frozen=True, eq=False)
class _LayerAlone:
    """Runs with noise in one layer, each with a chip of its own.

    Noise-to-signal ratios of the layer's output and of the network's, summed over chips, and margins of the samples
    without and with noise.
    """

    of_layer: float
    of_output: float
    margins: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]

    @property
    def sensitivity(self) -> float:
        """Ratio of the network's output by that of the layer's."""
        return self.of_output / self.of_layer if self.of_layer > 0 else 0.0

    def cost(self, curve: LossCurve, margins: NDArray[np.float64]) -> float:
        """Factor on the noise that the curve would need to give the loss that there is, 1 as far as that is unsure.

        One power of noise costs more where it moves the means of scores, or those of samples with small margins.
        """
        if len(self.margins) < 2 or not len(margins) or self.of_output <= 0:
            return 1.0
        losses = np.array([smoothed_loss(margins, *pair)[0] for pair in self.margins])
        error = float(losses.std(ddof=1)) / math.sqrt(len(losses))
        loss = max(float(losses.mean()), error)
        if not 0 < loss < curve.most:
            return 1.0
        found = math.log(curve.inverse(loss) / (self.of_output / len(self.margins)))
        unsure = error / loss / curve.power
        return math.exp(found * COST_SPREAD**2 / (COST_SPREAD**2 + unsure**2))


def _smooth_curve(noisy: Sequence[_NoisyRun], margins: NDArray[np.float64]) -> LossCurve:
    """The curve through what noise of any power does to margins.

    A margin is moved in proportion to the root of the noise, so that the moves of all runs, whatever their factor, tell
    how those at one power are spread.
    """
    factors = {run.factor for run in noisy}
    usual = {one: max(float(np.mean([run.noise for run in noisy if run.factor == one])), TINY) for one in factors}
    pairs = [(run.margins, usual[run.factor]) for run in noisy if run.margins is not None]
    moves = np.sort(np.concatenate([(after - before) / math.sqrt(noise) for (before, after), noise in pairs]))
    ratios = [place * usual[min(factors, key=lambda one: abs(one - 1.0))] for place in CURVE_PLACES]
    losses = [moved_loss(margins, math.sqrt(ratio) * moves)[0] for ratio in ratios]
    return LossCurve.fitted(ratios, losses, [max(loss, LEAST_LOSS) ** 2 / 100 for loss in losses], MOST_LOST)


def _curve_runs(noisy: Sequence[_NoisyRun], margins: NDArray[np.float64]) -> list[CurveRun]:
    """Losses of runs: smoothed over the samples of all of them where margins are known, else counted."""
    runs = []
    for run in noisy:
        loss, error = run.counted, 0.0
        if run.margins is not None:
            before, after = run.margins
            loss, error = moved_loss(margins, np.sort(after - before))
        runs.append(CurveRun(run.factor, run.noise, loss, run.images, error))
    return runs


@dataclass(frozen=True, eq=False)
class _Images:
    """Images of some runs, by their numbers: ``any`` ones first, then others with small margins.

    ``any`` ones tell how much noise there is, and how many answers change where there are no margins. The others tell
    what noise does to answers: images with large margins have more noise and nothing to lose. ``exact`` are outputs
    where inputs are not rounded, ``rounded`` outputs of the network and of its layers on ideal devices, which chips are
    calibrated to; ``rounding`` is the ratio of one to the other.
    """

    numbers: NDArray[np.int64]
    any: int
    exact: Mapping[str, Any]
    rounded: Mapping[str, Any]
    rounding: float


class _Study:
    """Runs of a network with noise on ideal devices."""

    def __init__(
        self,
        network: NoisyNetwork,
        dataset: Dataset,
        ratios: Sequence[LayerRatios],
        calibrated: bool,
    ) -> None:
        self.network, self.dataset, self.ratios, self.calibrated = network, dataset, ratios, calibrated
        self.names = class_names(network.program)
        self.products = max(expanded_products(network.program), 1)
        images = SENSITIVITY_PRODUCTS // (self.products * len(network.program.layers))
        self.sensitivity_images = _between(SENSITIVITY_IMAGES, images // SENSITIVITY_CHIPS[0])
        self.chips = _between(SENSITIVITY_CHIPS, images // self.sensitivity_images)
        self.curve_images = _between(CURVE_IMAGES, CURVE_PRODUCTS // self.products)
        self.runs = len(CURVE_FACTORS) // (1 if self.curve_images > CURVE_IMAGES[0] else 2)
        self._kept: tuple[int, _Images] | None = None
        self._first = np.arange(min(self.sensitivity_images, dataset.count))
        self._clean = network.run(self._inputs(self._first), {}, 0, rounded=False)

    def layer_alone(self, number: int) -> _LayerAlone:
        """Run some images with noise in one layer."""
        program, ratio = self.network.program, _ratio(self.ratios[number], self.calibrated)
        if ratio <= 0:
            return _LayerAlone(0.0, 0.0, ())
        layer, clean = program.layers[number], self._clean
        factor = min(max(ratio, INJECTED[0]), INJECTED[1]) / ratio
        axis = 1 if layer.geometry.layout == "channels_first" else -1
        before = self._margins(clean, self._first)
        of_layer, of_output, margins = 0.0, 0.0, []
        for chip in range(self.chips):
            found = self.network.run(
                clean,
                {layer.name: factor},
                chip,
                fitted_to=clean if self.calibrated else None,
                first_stage=program.stages.index(layer),
                rounded=False,
            )
            of_layer += noise_to_signal(clean[layer.outputs[0]], found[layer.outputs[0]], axis)
            of_output += self._noise(clean, found)
            after = self._margins(found, self._first)
            if before is not None and after is not None:
                margins.append((before, after))
        return _LayerAlone(of_layer, of_output, margins)

    def run(self, number: int, factor: float) -> _NoisyRun:
        """Run some images with noise in all layers."""
        network, program, images = self.network, self.network.program, self._images_of(number * SETS // self.runs)
        factors = dict.fromkeys((layer.name for layer in program.layers), factor)
        fitted_to, count = (images.rounded if self.calibrated else None), images.any
        chip = SENSITIVITY_CHIPS[1] + number
        noisy = self._outputs(network.run(self._inputs(images.numbers), factors, chip, fitted_to=fitted_to))
        close, ends = images.numbers[count:], (images.exact, noisy)
        before, after = (self._margins(_rows(one, slice(count, None)), close) for one in ends)
        clean, found = (_rows(one, slice(count)) for one in ends)
        of_any = images.numbers[:count]
        return _NoisyRun(
            factor,
            self._noise(clean, found),
            images.rounding,
            self._score(clean, of_any) - self._score(found, of_any),
            count,
            None if before is None or after is None else (before, after),
        )

    def _images_of(self, number: int) -> _Images:
        """A set of images; only the last one is kept."""
        if self._kept is None or self._kept[0] != number:
            self._kept = number, self._new_images(number)
        return self._kept[1]

    def _new_images(self, number: int) -> _Images:
        count = self.curve_images * (COUNTED if self.margins is None else 1)
        first = number * count % max(self.dataset.count - count + 1, 1)
        any_images = np.arange(first, min(first + count, self.dataset.count))
        close = np.zeros(0, np.int64) if self.margins is None else closest(self.margins)
        taken = np.random.default_rng(number).permutation(len(close))[: self.curve_images]
        numbers = np.concatenate([any_images, np.sort(close[taken])])
        inputs, program = self._inputs(numbers), self.network.program
        exact = self._outputs(self.network.run(inputs, {}, 0, rounded=False))
        values = self.network.run(inputs, {}, 0)
        rounded = {name: values[name] for name in (*program.outputs, *(layer.outputs[0] for layer in program.layers))}
        of_any = (_rows(self._outputs(one), slice(len(any_images))) for one in (exact, rounded))
        return _Images(numbers, len(any_images), exact, rounded, self._noise(*of_any))

    def _outputs(self, values: Mapping[str, Value]) -> dict[str, Any]:
        return {name: values[name] for name in self.network.program.outputs}

    @cached_property
    def margins(self) -> NDArray[np.float64] | None:
        """Margins of many images where inputs are not rounded, [images]; None where classes are not told by scores."""
        if self.dataset.labels is None:
            return None
        program = self.network.program
        each = sum(layer.geometry.macs for layer in program.layers)
        count = min(self.dataset.count, MOST_SEEN, max(SEEN_PRODUCTS // max(each, 1), CURVE_IMAGES[0]))
        found = []
        for first in range(0, count, BATCH):
            images = np.arange(first, min(first + BATCH, count))
            margins = self._margins(self.network.run(self._inputs(images), {}, 0, rounded=False), images)
            if margins is None:
                return None
            found.append(margins)
        return np.concatenate(found)

    def _margins(self, values: Mapping[str, Value], images: NDArray[np.int64]) -> NDArray[np.float64] | None:
        if self.dataset.labels is None:
            return None
        return class_margins(self._outputs(values), self.dataset.labels[images], self.names)

    def _inputs(self, images: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return {name: array[images] for name, array in self.dataset.inputs.items()}

    def _score(self, values: Mapping[str, Value], images: NDArray[np.int64]) -> float:
        assert self.dataset.labels is not None
        some = Dataset(
            self.dataset.name,
            self._inputs(images),
            self.dataset.labels[images],
            {},
            False,
            self.dataset.layout,
        )
        return score_samples(self._outputs(values), some, self.names)

    def _noise(self, clean: Mapping[str, Value], noisy: Mapping[str, Value]) -> float:
        return output_noise(self.network.program, clean, noisy, classes=self.dataset.labels is not None)


def _between(ends: tuple[int, int], number: int) -> int:
    return max(ends[0], min(ends[1], number))


def _rows(values: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    return {name: value[rows] for name, value in values.items()}


def expanded_products(program: Program) -> int:
    """Multiply-adds of an image with the matrices as they lie on the arrays, blank cells included."""
    return sum(
        replica.unrolling.matrices * replica.unrolling.rows * replica.unrolling.columns * len(replica.windows)
        for layer in program.layers
        for replica in layer.replicas
    )


# --- from noise to loss ---------------------------------------------------------------------------


def _ratio(ratios: LayerRatios, calibrated: bool, cause: Cause | None = None) -> float:
    """Noise-to-signal ratio of a layer, of one cause or of all."""
    causes = ratios.causes
    found = causes.values() if cause is None else [causes[cause]] if cause in causes else []
    return sum(item.calibrated if calibrated else item.plain for item in found)


def _budget(program: Program, ratios: Sequence[LayerRatios], model: LossModel) -> ErrorBudget:
    runs, calibrated = model.runs, model.calibrated
    of_layers = np.array([_ratio(own, calibrated) for own in ratios])
    by_layer = of_layers * model.sensitivities
    total = float(by_layer.sum())
    by_cause = {
        cause: float(
            sum(
                _ratio(own, calibrated, cause) * factor for own, factor in zip(ratios, model.sensitivities, strict=True)
            )
        )
        for cause in Cause
        if any(cause in own.causes for own in ratios)
    }

    def points(noise: float) -> float:
        """Points that noise takes beside what rounded inputs take already."""
        if not runs:
            return 100 * noise
        return model.loss_at(model.rounding + noise * model.share) - model.loss_at(model.rounding)

    loss = points(total)
    uncertainty, spread = _uncertainty(runs, model.curve, loss)
    return ErrorBudget(
        measure="accuracy" if runs else "sqnr",
        loss=loss,
        uncertainty=uncertainty,
        chip_spread=spread,
        noise=total * model.share,
        causes=tuple(
            CauseLoss(cause, points(noise), loss - points(max(total - noise, 0.0))) for cause, noise in by_cause.items()
        ),
        layers=tuple(
            LayerLoss(
                layer.name,
                float(of_layers[number]),
                float(model.sensitivities[number]),
                points(float(by_layer[number])),
                _main_cause(ratios[number], calibrated),
            )
            for number, layer in enumerate(program.layers)
        ),
        images=model.images,
        calibrated=calibrated,
    )


def _share(runs: Sequence[_NoisyRun], total: float) -> float:
    """Noise that all layers make together as a share of the sum of their small contributions.

    It is drawn towards 1 as far as the runs leave it unsure, which they do where rounded inputs make most of the noise.
    """
    small = max(1.0, min((run.factor for run in runs), default=1.0))
    shares = [(run.noise - run.rounding) / (run.factor * total) for run in runs if run.factor <= small and total > 0]
    if len(shares) < 2:
        return 1.0
    error = float(np.var(shares, ddof=1)) / len(shares)
    found = (float(np.mean(shares)) * SHARE_SPREAD**2 + error) / (SHARE_SPREAD**2 + error)
    return max(found, LEAST_SHARE)


def _main_cause(ratios: LayerRatios, calibrated: bool) -> Cause | None:
    return max(ratios.causes, key=lambda cause: _ratio(ratios, calibrated, cause)) if ratios.causes else None


def _uncertainty(runs: Sequence[CurveRun], curve: LossCurve, loss: float) -> tuple[float, float]:
    """Standard error of the predicted mean, and standard deviation from chip to chip, both in points.

    The scatter of the runs around the curve is that of chips, and of images where their answers were counted; that of
    images over which losses were smoothed, and what first order leaves out, are added.
    """
    if not runs:
        return 0.0, 0.0
    scaled = [
        100 * (run.loss - curve(run.noise)) * loss / max(100 * curve(run.noise), 0.1 * loss, 0.01) for run in runs
    ]
    scatter = float(np.sqrt(np.mean(np.square(scaled)) * len(runs) / max(len(runs) - 2, 1)))
    noise = max(run.noise / run.factor for run in runs)
    beyond = loss * max(noise - FIRST_ORDER, 0.0) / max(noise, 1e-12)
    from_images = 100 * math.sqrt(max(loss / 100, 0.0) / max(sum(run.images for run in runs) / len(runs), 1))
    spread = math.sqrt(max(scatter**2 - from_images**2, 0.0))
    smoothed = [run.error / math.sqrt(run.loss) for run in runs if run.error > 0 < run.loss]
    of_images = 10 * float(np.mean(smoothed)) * math.sqrt(max(loss, 0.0)) if smoothed else 0.0
    return math.hypot(scatter / math.sqrt(len(runs)), of_images, beyond), spread
