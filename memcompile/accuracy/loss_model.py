"""Loss of a network as a function of the noise of its layers, measured on ideal devices.

1. The noise model gives the noise-to-signal ratio of each layer's output, by cause.
2. The sensitivity of the network's output to a layer is measured: noise of the layer's power is added on ideal
   devices whose inputs are not rounded, and the noise-to-signal ratio of the output is divided by that of the layer.
   Contributions of layers add up.
3. A curve turns the ratio of the output into accuracy that is lost against the network without rounded inputs: all
   layers get noise of their powers times some factors, and the losses of these runs are fitted. Rounded inputs make
   noise of their own, on chips and on ideal devices alike; it is measured once.

The runs are those of :mod:`memcompile.accuracy.network_study`, the fit is in :mod:`memcompile.accuracy.curve_fit`. See
docs/noise_model.md for where this breaks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.curve_fit import LEAST_LOSS, fitted_curve, noise_cost, share_of_sum
from memcompile.accuracy.network_study import CURVE_FACTORS, LayerAlone, NetworkStudy, NoisyRun
from memcompile.accuracy.noise_injection import NoisyNetwork
from memcompile.blas import one_blas_thread
from memcompile.data.loader import Dataset
from memcompile.hardware.conditions import NEW, Conditions
from memcompile.ir.pass_manager import ProgressBar, no_progress
from memcompile.noise.layer_inputs import LayerInputs
from memcompile.noise.loss_curve import CurveRun, LossCurve
from memcompile.noise.margins import as_often_wrong
from memcompile.noise.program_noise import layer_ratios
from memcompile.program.coupled_samples import program_couples_samples
from memcompile.program.program import Program

FIRST_ORDER = 0.3
"""Ratio of the output above which contributions no longer add up."""


def can_predict(program: Program, dataset: Dataset) -> bool:
    """Return True if the noise model covers a program and its samples lie along axis 0 of all inputs."""
    target, batching = program.target, program.batching
    usual = not batching.whole and not batching.one_by_one and batching.size in (None, 1)
    along_first = all(axis == 0 for axis in batching.inputs.values())
    covered = not target.cell.continuous and program.chip is None and bool(program.layers)
    covered &= not target.cell.nonlinearity_per_v or target.input.highest_digit == 1
    return covered and usual and along_first and not program_couples_samples(program) and not dataset.generated


@dataclass(frozen=True, eq=False)
class LossModel:
    """Loss of a network as a function of the noise-to-signal ratios of its layers.

    What is measured of the network, ``sensitivities`` to its layers [layers], the ``curve`` from the noise of its
    output to points with the ``runs`` that it was fitted to, and the ``share`` of the sum over layers that they make
    together, does not depend on the mapping. Without labels there are no runs. ``calibrated`` chips have a scale and
    an offset of their own for each output line; ``images`` were seen. Losses are for samples of which a share is
    ``wrong`` without noise, if that is more than among those seen. All noise, and all losses, are against a network
    whose inputs of layers are not rounded; on ideal devices the outputs have a ratio of ``rounding`` to it. What that
    takes of these very samples is ``rounding_loss``, in points; it is NaN where it was not counted.
    """

    sensitivities: NDArray[np.float64]
    curve: LossCurve
    share: float
    images: int
    calibrated: bool = True
    runs: tuple[CurveRun, ...] = ()
    wrong: float = 0.0
    rounding: float = 0.0
    rounding_loss: float = math.nan

    def loss_at(self, noise: float) -> float:
        """Points lost where the outputs have a noise-to-signal ratio (:mod:`memcompile.noise.output_noise`)."""
        return 100 * self.curve(noise)

    def device_loss(self, noise: float) -> float:
        """Points lost to noise of devices against ideal ones, which rounded inputs have cost answers already.

        The curve knows how many answers rounding costs a usual set of samples, and not how many it costs this one.
        Where devices make as much noise as rounding or more, they lose what the curve says of both, whatever ideal ones
        had lost; the less noise they make, the more they lose the very answers of ideal ones.
        """
        usual, counted = self.loss_at(self.rounding), self.rounding_loss
        apart = 0.0 if math.isnan(counted) else usual - counted
        return self.loss_at(self.rounding + noise) - usual + apart * min(noise / max(self.rounding, 1e-12), 1.0)

    def uncertainty(self, loss: float) -> float:
        """Standard error of a predicted loss, both in points."""
        return self.error_and_spread(loss)[0]

    def error_and_spread(self, loss: float) -> tuple[float, float]:
        """Standard error of the predicted mean, and standard deviation from chip to chip, both in points.

        The scatter of the runs around the curve is that of chips, and of images where their answers were counted; that
        of images over which losses were smoothed, and what first order leaves out, are added.
        """
        runs, curve = self.runs, self.curve
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
        smoothed = [run.error / math.sqrt(max(run.loss, LEAST_LOSS)) for run in runs if run.error > 0]
        of_images = 10 * float(np.mean(smoothed)) * math.sqrt(max(loss, 0.0)) if smoothed else 0.0
        return math.hypot(scatter / math.sqrt(len(runs)), of_images, beyond), spread

    def limit(self, points: float) -> float:
        """Largest sum of sensitivity times ratio at which no more points are lost."""
        return self.curve.inverse(points / 100) / max(self.share, 1e-12)


def loss_model(
    program: Program,
    dataset: Dataset,
    *,
    factors: Sequence[float] = CURVE_FACTORS,
    calibrated: bool = True,
    age: Conditions = NEW,
    sensitivities: NDArray[np.float64] | None = None,
    wrong: float = 0.0,
    count_rounding: bool = False,
    progress: ProgressBar = no_progress,
) -> tuple[LossModel, list[LayerInputs]]:
    """Measure how noise of layers acts on the classes that a network names.

    Parameters
    ----------
    program
        Any mapping of the network that :func:`can_predict` allows.
    dataset
        Samples; without labels the curve is not measured.
    factors
        Factors on the noise of all layers, one a run of the curve; networks with many products do the first half.
    calibrated
        Of chips whose output lines have a scale and an offset each.
    age
        Of the chips.
    sensitivities
        Of the network's output to its layers, [layers], which hold for all mappings; measured when None.
    wrong
        Share of wrong answers without noise on the samples that losses are wanted for, if it is larger than here.
    count_rounding
        Whether to count what rounded inputs take on ideal devices, too.

    Returns
    -------
    The model, and the quantised inputs of layers that ratios are computed with.
    """
    with one_blas_thread():
        network = NoisyNetwork(program, dataset.calibration, age)
        ratios = [layer_ratios(program, number, own, age, stand_in=True) for number, own in enumerate(network.inputs)]
        study = NetworkStudy(network, dataset, ratios, calibrated)
        alone, noisy = _runs(study, sensitivities is None, factors, progress)
        margins = np.zeros((0, 1)) if study.margins is None else as_often_wrong(study.margins, wrong)
        curve, runs = fitted_curve(noisy, margins)
        of_layers = np.array([own.ratio(calibrated) for own in ratios])
        found = sensitivities if sensitivities is not None else np.array([item.sensitivity for item in alone])
        costs = np.array([noise_cost(item, curve, margins) for item in alone]) if alone else np.ones(len(found))
        total, costly = float(of_layers @ found), float(of_layers @ (found * costs))
        rounding = float(np.mean([run.rounding for run in noisy])) if noisy else 0.0
        # The cost of all layers together is measured; costs of layers alone only say how they differ.
        share = share_of_sum(noisy, total) * (total / costly if costly > 0 else 1.0)
        images = sum(run.images for run in runs) or min(dataset.count, study.sensitivity_images)
        model = LossModel(found * costs, curve, share, images, calibrated, tuple(runs), wrong, rounding)
        if count_rounding and runs:
            model = replace(model, rounding_loss=_rounding_loss(study, model))
        return model, network.inputs


def _rounding_loss(study: NetworkStudy, model: LossModel) -> float:
    """Points that rounded inputs take: counted on images that were looked at, from the curve for others."""
    counted, of_curve = study.rounding_loss(), model.loss_at(model.rounding)
    if counted is None:
        return of_curve
    loss, images = counted
    return of_curve + images / study.dataset.count * (100 * loss - of_curve)


def _runs(
    study: NetworkStudy, each_layer: bool, factors: Sequence[float], progress: ProgressBar
) -> tuple[list[LayerAlone], list[NoisyRun]]:
    """Runs with noise in each layer alone, if they are wanted, and in all layers, one a factor."""
    layers = range(len(study.ratios) if each_layer else 0)
    scaled = factors[: study.runs] if study.dataset.labels is not None else ()
    alone, noisy = list[LayerAlone](), list[NoisyRun]()
    with progress("error budget", len(layers) + len(scaled)) as advance:
        for item in study.each(study.layer_alone, layers):
            alone.append(item)
            advance(1)
        if scaled:
            _ = study.margins  # takes threads of its own, for which no run may wait
        for run in study.each(lambda number: study.run(number, scaled[number]), range(len(scaled))):
            noisy.append(run)
            advance(1)
    return alone, noisy
