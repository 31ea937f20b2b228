"""Other emulators under the settings of the W1 cases of emulator.py, as far as they can be set so.

What is alike: 512 x 512 weights of 15 levels in pairs of cells of 2 to 20 uS, 256 input vectors of 8 bits
without sign, Gaussian read noise of 0.1 uS a cell in every read, tiles of so many rows, and, where the case
has one, an 8-bit converter whose range holds all lines. What differs is said where it is set.

Run with CrossSim 3.2.0, and with aihwkit 1.1.0 on PyTorch 2.10, the only version its wheel was found to run on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGMA_US, G_MIN_US, G_MAX_US = 0.1, 2.0, 20.0
LEVELS = 7
INPUT_BITS = ADC_BITS = 8


@dataclass(frozen=True)
class PeerCase:
    """One W1 case: rows of a tile, bits of an input that a phase applies, and whether there is a converter."""

    name: str
    tile_rows: int
    bits_per_phase: int
    adc: bool


def aihwkit_run(case: PeerCase, weights: NDArray[np.int64], x: NDArray[np.float32]) -> Callable[[], object] | str:
    """One call of IBM's aihwkit for all vectors, or why there is none.

    Its tile is a signed matrix: noise is that of a pair, referred to the output, and the converter
    sees the difference of the pair. All bits of an input are applied at once.
    """
    import torch  # noqa: PLC0415 - a peer's dependency
    from aihwkit.nn import AnalogLinear  # noqa: PLC0415 - the peer itself
    from aihwkit.simulator.configs import InferenceRPUConfig  # noqa: PLC0415 - the peer itself
    from aihwkit.simulator.parameters import enums  # noqa: PLC0415 - the peer itself

    if case.bits_per_phase == 1 and case.adc:
        return "converts bit by bit only together with its model of IR drop"
    config = InferenceRPUConfig()
    forward = config.forward
    forward.inp_res = 1 / (2**INPUT_BITS - 2)
    forward.out_noise = 0.0
    forward.w_noise_type = enums.WeightNoiseType.ADDITIVE_CONSTANT
    forward.w_noise = 2**0.5 * SIGMA_US / (G_MAX_US - G_MIN_US)
    forward.noise_management = enums.NoiseManagementType.NONE
    forward.bound_management = enums.BoundManagementType.NONE
    forward.out_bound = float(case.tile_rows)
    forward.out_res = 1 / (2**ADC_BITS - 2) if case.adc else -1.0
    config.mapping.max_input_size = case.tile_rows
    config.mapping.max_output_size = 0
    config.modifier.enable_during_test = False
    layer = AnalogLinear(*weights.shape, bias=False, rpu_config=config)
    layer.set_weights(torch.from_numpy((weights / LEVELS).T.astype(np.float32)))
    layer.eval()
    vectors = torch.from_numpy(x / (2**INPUT_BITS - 1))

    def run() -> object:
        with torch.no_grad():
            return layer(vectors)

    return run


def crosssim_run(case: PeerCase, weights: NDArray[np.int64], x: NDArray[np.float32]) -> Callable[[], object] | str:
    """One call of Sandia's CrossSim for all vectors, or why there is none."""
    from simulator import AnalogCore, CrossSimParameters  # noqa: PLC0415 - the peer itself
    from simulator.parameters.core_parameters import CoreStyle  # noqa: PLC0415 - the peer itself
    from simulator.parameters.xbar_parameters import ADCRangeLimits  # noqa: PLC0415 - the peer itself

    settings = CrossSimParameters()
    settings.core.style = CoreStyle.BALANCED
    settings.core.rows_max = case.tile_rows
    settings.core.cols_max = weights.shape[1]
    settings.core.mapping.weights.min, settings.core.mapping.weights.max = -1.0, 1.0
    settings.core.mapping.inputs.mvm.min, settings.core.mapping.inputs.mvm.max = 0.0, 1.0
    device = settings.xbar.device
    device.Rmin, device.Rmax = 1e6 / G_MAX_US, 1e6 / G_MIN_US
    device.read_noise.enable = True
    device.read_noise.model = "NormalIndependentDevice"
    device.read_noise.magnitude = SIGMA_US / G_MAX_US
    dac = settings.xbar.dac.mvm
    dac.model, dac.bits, dac.signed = "QuantizerDAC", INPUT_BITS, False
    dac.input_bitslicing = case.bits_per_phase == 1 and case.adc
    if case.adc:
        # Each line has a converter of its own, and the pair is subtracted digitally.
        settings.core.balanced.subtract_current_in_xbar = False
        adc = settings.xbar.adc.mvm
        adc.model = "QuantizerADC"
        adc = settings.xbar.adc.mvm
        adc.bits, adc.signed, adc.adc_per_ibit = ADC_BITS, False, case.bits_per_phase == 1
        adc.adc_range_option = ADCRangeLimits.MAX
    core = AnalogCore((weights / LEVELS).T, settings)
    vectors = np.ascontiguousarray((x / (2**INPUT_BITS - 1)).T.astype(np.float64))
    return lambda: core @ vectors


Peer = Callable[[PeerCase, NDArray[np.int64], NDArray[np.float32]], Callable[[], object] | str]
PEERS: dict[str, tuple[str, Peer]] = {
    "aihwkit": ("aihwkit", aihwkit_run),
    "simulator": ("CrossSim", crosssim_run),
}
"""By the name of the peer's module: what it is called, and how it is run."""


def peer_runs(
    module: str, cases: tuple[PeerCase, ...], weights: NDArray[np.int64], x: NDArray[np.float32]
) -> Iterator[tuple[str, Callable[[], Any] | str]]:
    """Each case of one peer with a call that does all of its work once, or why there is none."""
    title, run = PEERS[module]
    for case in cases:
        yield f"peer {title}: {case.name}", run(case, weights, x)
