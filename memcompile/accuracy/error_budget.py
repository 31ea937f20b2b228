"""Error budget: accuracy that a chip loses, predicted from the noise model, by cause and by layer.

What chips lose against ideal devices is the curve of the network (:mod:`memcompile.accuracy.loss_model`) at the noise
of layers and of rounded inputs together, less what rounding alone takes of the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memcompile.accuracy.loss_model import LossModel, can_predict, loss_model
from memcompile.blas import one_blas_thread
from memcompile.data.loader import Dataset
from memcompile.hardware.conditions import NEW, Conditions
from memcompile.ir.pass_manager import ProgressBar, no_progress
from memcompile.noise.cause import Cause
from memcompile.noise.program_noise import LayerRatios, layer_ratios
from memcompile.program.program import Program


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


def error_budget(
    program: Program,
    dataset: Dataset,
    *,
    calibrated: bool = False,
    age: Conditions = NEW,
    sensitivities: NDArray[np.float64] | None = None,
    progress: ProgressBar = no_progress,
) -> ErrorBudget | None:
    """Predict what chips lose; None where the noise model does not reach.

    It reaches what :func:`~memcompile.accuracy.loss_model.can_predict` allows.

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
        model, inputs = loss_model(
            program,
            dataset,
            calibrated=calibrated,
            age=age,
            sensitivities=sensitivities,
            count_rounding=True,
            progress=progress,
        )
        ratios = [layer_ratios(program, number, own, age) for number, own in enumerate(inputs)]
        return _budget(program, ratios, model)


def _budget(program: Program, ratios: Sequence[LayerRatios], model: LossModel) -> ErrorBudget:
    runs, calibrated = model.runs, model.calibrated
    of_layers = np.array([own.ratio(calibrated) for own in ratios])
    by_layer = of_layers * model.sensitivities
    total = float(by_layer.sum())
    by_cause = {
        cause: float(
            sum(own.ratio(calibrated, cause) * factor for own, factor in zip(ratios, model.sensitivities, strict=True))
        )
        for cause in Cause
        if any(cause in own.causes for own in ratios)
    }

    def points(noise: float) -> float:
        """Points that noise takes beside what rounded inputs take already."""
        if not runs:
            return 100 * noise
        return model.loss_at(model.rounding + noise * model.share) - model.loss_at(model.rounding)

    by_curve = points(total)
    loss = model.device_loss(total * model.share) if runs else by_curve
    uncertainty, spread = model.error_and_spread(max(loss, by_curve))
    return ErrorBudget(
        measure="accuracy" if runs else "sqnr",
        loss=loss,
        uncertainty=uncertainty,
        chip_spread=spread,
        noise=total * model.share,
        causes=tuple(
            CauseLoss(cause, points(noise), by_curve - points(max(total - noise, 0.0)))
            for cause, noise in by_cause.items()
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


def _main_cause(ratios: LayerRatios, calibrated: bool) -> Cause | None:
    return max(ratios.causes, key=lambda cause: ratios.ratio(calibrated, cause)) if ratios.causes else None
