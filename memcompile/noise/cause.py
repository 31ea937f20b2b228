"""Causes of noise that the model tells apart."""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """Cause of a part of a layer's noise, by its name in reports."""

    PROGRAMMING = "programming error"
    STUCK_CELLS = "stuck cells"
    RELAXATION = "relaxation"
    RETENTION = "retention"
    DRIFT = "drift"
    FLICKER_NOISE = "flicker noise"
    READ_DISTURB = "read disturb"
    DEAD_INPUT_LINES = "dead input lines"
    DEAD_OUTPUT_LINES = "dead output lines"
    DAC_ERROR = "DAC error"
    WIRES = "wires"
    NONLINEAR_IV = "nonlinear I-V"
    READ_NOISE = "read noise"
    ROUNDING = "converter rounding"
    CLIPPING = "converter range"
    ADC_ERROR = "ADC error"
