"""IBM's aihwkit.

Its tile is a signed matrix: noise is that of a pair, referred to the output, and the converter sees the difference of
the pair. All bits of an input are applied at once. In networks each input vector is scaled by its largest entry.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from aihwkit.inference.converter.conductance import SinglePairConductanceConverter
from aihwkit.inference.noise.custom import StateIndependentNoiseModel
from aihwkit.nn import AnalogLinear
from aihwkit.nn.conversion import convert_to_analog
from aihwkit.simulator.configs import InferenceRPUConfig
from aihwkit.simulator.parameters import enums

from . import cases
from .torch_networks import network


def prepare(case: cases.Case) -> Callable[[], object] | str:
    """One call of all work of a case, or why there is none."""
    if isinstance(case, cases.WiresCase):
        return "has no wires that are solved"
    return _matrix(case) if isinstance(case, cases.MatrixCase) else _network(case)


def _config(tile_rows: int, tile_columns: int, out_bound: float, *, adc: bool) -> InferenceRPUConfig:
    config = InferenceRPUConfig()
    forward = config.forward
    forward.inp_res = 1 / (2**cases.INPUT_BITS - 2)
    forward.out_noise = 0.0
    forward.w_noise_type = enums.WeightNoiseType.ADDITIVE_CONSTANT
    forward.w_noise = 2**0.5 * cases.READ_SIGMA_US / (cases.G_MAX_US - cases.G_MIN_US)
    forward.bound_management = enums.BoundManagementType.NONE
    forward.out_bound = out_bound
    forward.out_res = 1 / (2**cases.ADC_BITS - 2) if adc else -1.0
    config.mapping.max_input_size, config.mapping.max_output_size = tile_rows, tile_columns
    config.modifier.enable_during_test = False
    return config


def _matrix(case: cases.MatrixCase) -> Callable[[], object] | str:
    if case.bits_per_phase == 1 and case.adc:
        return "converts bit by bit only together with its model of IR drop"
    weights, x = cases.matrix_inputs()
    config = _config(case.tile_rows, 0, float(case.tile_rows), adc=case.adc)
    config.forward.noise_management = enums.NoiseManagementType.NONE
    layer = AnalogLinear(*weights.shape, bias=False, rpu_config=config)
    layer.set_weights(torch.from_numpy((weights / cases.LEVELS).T.astype(np.float32)))
    layer.eval()
    vectors = torch.from_numpy(x / (2**cases.INPUT_BITS - 1))
    return _without_gradients(lambda: layer(vectors))


def _network(case: cases.NetworkCase) -> Callable[[], object]:
    config = _config(case.tile_rows or 0, case.tile_columns or 0, 10.0, adc=True)
    config.forward.noise_management = enums.NoiseManagementType.ABS_MAX
    pair = SinglePairConductanceConverter(g_max=cases.G_MAX_US, g_min=cases.G_MIN_US)
    config.noise_model = StateIndependentNoiseModel(
        pair, prog_coeff=[cases.WRITE_SIGMA_US, 0.0, 0.0], drift_scale=0.0, read_noise_scale=0.0
    )
    config.drift_compensation = None
    x = torch.from_numpy(cases.images(case))
    analog = convert_to_analog(network(case.network), config).eval()

    def program() -> None:
        if case.programming:
            analog.program_analog_weights()
            analog.drift_analog_weights(0.0)

    def chip() -> object:
        program()
        return analog(x)

    if case.chip:
        return _without_gradients(chip)
    program()
    return _without_gradients(lambda: analog(x))


def _without_gradients(work: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return work()

    return run
