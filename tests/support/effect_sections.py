"""Sections of target files, one or more of each device effect, and a small program under them."""

from __future__ import annotations

from typing import Any

import factories
import numpy as np

from memcompile.hardware.target import WriteVerifySpec
from memcompile.ir.geometry import Geometry
from memcompile.program.program import Program

PULSES = WriteVerifySpec(
    set_step_us=0.8,
    reset_step_us=0.7,
    cycle_sigma_share=0.5,
    device_sigma_share=0.3,
    margin_us=0.5,
    max_pulses=200,
    pulse_ns=50.0,
    set_voltage_v=2.0,
    reset_voltage_v=1.8,
)
SECTIONS: dict[str, dict[str, Any]] = {
    "polynomial": {"programming": {"sigma_polynomial_us": [0.348, 16.03, -43.853, 45.393, -16.815]}},
    "mean polynomial": {"programming": {"mean_polynomial_us": [-0.5, 2.0, -1.0]}},
    "mean table": {"programming": {"mean_table_us": [[2.0, 0.4], [8.0, -0.3], [20.0, -1.0]]}},
    "proportional": {"programming": {"sigma_proportional_share": 0.1}},
    "write_verify": {"write_verify": PULSES.model_dump()},
    "relaxation": {"relaxation": {"sigma_us": 0.7, "time_constant_s": 10.0}},
    "sigma table": {"programming": {"sigma_table_us": [[2.0, 0.4], [8.0, 1.3], [20.0, 1.0]]}},
    "retention": {"retention": {"reference_s": 1.0, "mean_per_ln_us": -0.08, "sigma_us": 0.4, "sigma_per_ln_us": 0.05}},
    "retention table": {
        "retention": {
            "reference_s": 1.0,
            "times_s": [60.0, 1e4],
            "conductances_us": [2.0, 20.0],
            "mean_table_us": [[0.1, -0.2], [0.3, -1.0]],
            "sigma_table_us": [[0.2, 0.4], [0.5, 1.1]],
        }
    },
    "drift by state": {
        "drift": {
            "exponent_mean": 0.0,
            "exponent_sigma": 0.01,
            "exponent_mean_table": [[2.0, 0.1], [20.0, 0.04]],
            "exponent_sigma_table": [[2.0, 0.05], [20.0, 0.01]],
            "reference_s": 20.0,
        }
    },
    "flicker noise": {
        "flicker_noise": {"share_table": [[0.2, 0.05], [20.0, 0.008]], "read_s": 250e-9, "first_read_s": 20.0}
    },
    "drift": {"drift": {"exponent_mean": 0.05, "exponent_sigma": 0.01, "reference_s": 1.0}},
    "read disturb": {"read_disturb": {"shift_us": 0.5, "sigma_us": 0.2}},
    "dead lines": {"faults": {"dead_input_line_share": 0.2, "dead_output_line_share": 0.2}},
    "dac": {"input": {"dac_sigma_share": 0.05}},
    "adc": {"adc": {"gain_sigma_share": 0.03, "offset_sigma_codes": 1.0}},
    "range": {"adc": {"range_share": 0.2}},
    "fixed range": {"adc": {"range": "fixed"}},
    "wires": {"wires": {"input_segment_ohm": 10.0, "output_segment_ohm": 10.0}},
}


def small_program(sections: dict[str, Any], slices: int = 2) -> tuple[Program, np.ndarray]:
    rng = np.random.default_rng(1)
    target = factories.make_target(**sections)
    layer = factories.random_layer(rng, Geometry(40, 6, (1,), (3,), layout="channels_last"), target, slices=slices)
    program = factories.layer_program(rng, layer, target)
    return program, rng.integers(0, 256, (4, 3, 40)).astype(np.float32)
