"""Sandia's CrossSim. Read noise is drawn anew for each cell and vector; inputs of networks have one fixed range."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from simulator import AnalogCore, CrossSimParameters
from simulator.parameters.core_parameters import CoreStyle
from simulator.parameters.xbar_parameters import ADCRangeLimits

from . import cases

INPUT_RANGE = 4.0


def prepare(case: cases.Case) -> Callable[[], object] | str:
    """One call of all work of a case, or why there is none."""
    if isinstance(case, cases.WiresCase):
        return "solves wires together with the inputs of each product"
    return _matrix(case) if isinstance(case, cases.MatrixCase) else _network(case)


def _settings(rows: int, columns: int) -> CrossSimParameters:
    settings = CrossSimParameters()
    settings.core.style = CoreStyle.BALANCED
    settings.core.rows_max, settings.core.cols_max = rows, columns
    device = settings.xbar.device
    device.Rmin, device.Rmax = 1e6 / cases.G_MAX_US, 1e6 / cases.G_MIN_US
    device.read_noise.enable = True
    device.read_noise.model = "NormalIndependentDevice"
    device.read_noise.magnitude = cases.READ_SIGMA_US / cases.G_MAX_US
    dac = settings.xbar.dac.mvm
    dac.model, dac.bits = "QuantizerDAC", cases.INPUT_BITS
    return settings


def _matrix(case: cases.MatrixCase) -> Callable[[], object]:
    weights, x = cases.matrix_inputs()
    settings = _settings(case.tile_rows, weights.shape[1])
    settings.core.mapping.weights.min, settings.core.mapping.weights.max = -1.0, 1.0
    settings.core.mapping.inputs.mvm.min, settings.core.mapping.inputs.mvm.max = 0.0, 1.0
    settings.xbar.dac.mvm.signed = False
    settings.xbar.dac.mvm.input_bitslicing = case.bits_per_phase == 1 and case.adc
    if case.adc:
        # Each line has a converter of its own, and the pair is subtracted digitally.
        settings.core.balanced.subtract_current_in_xbar = False
        _add_converter(settings, signed=False)
        settings.xbar.adc.mvm.adc_per_ibit = case.bits_per_phase == 1
    core = AnalogCore((weights / cases.LEVELS).T, settings)
    vectors = np.ascontiguousarray((x / (2**cases.INPUT_BITS - 1)).T.astype(np.float64))
    return lambda: core @ vectors


def _add_converter(settings: CrossSimParameters, *, signed: bool) -> None:
    adc = settings.xbar.adc.mvm
    adc.model = "QuantizerADC"
    adc = settings.xbar.adc.mvm
    adc.bits, adc.signed = cases.ADC_BITS, signed
    adc.adc_range_option = ADCRangeLimits.MAX


def _network(case: cases.NetworkCase) -> Callable[[], object]:
    import torch  # noqa: PLC0415 - only for networks
    from simulator.algorithms.dnn.torch.convert import from_torch  # noqa: PLC0415 - only for networks

    from .torch_networks import network  # noqa: PLC0415 - only for networks

    settings = _settings(case.tile_rows or 1024, case.tile_columns or 512)
    settings.core.mapping.inputs.mvm.min, settings.core.mapping.inputs.mvm.max = -INPUT_RANGE, INPUT_RANGE
    settings.xbar.dac.mvm.signed = True
    _add_converter(settings, signed=True)
    if case.programming:
        error = settings.xbar.device.programming_error
        error.enable, error.model = True, "NormalIndependentDevice"
        error.magnitude = cases.WRITE_SIGMA_US / cases.G_MAX_US
    x = torch.from_numpy(cases.images(case))

    def converted() -> torch.nn.Module:
        return from_torch(network(case.network), settings, fuse_batchnorm=False).eval()

    def run(analog: torch.nn.Module) -> object:
        with torch.no_grad():
            return analog(x)

    if case.chip:
        return lambda: run(converted())
    analog = converted()
    return lambda: run(analog)
