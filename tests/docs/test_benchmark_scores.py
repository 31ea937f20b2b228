"""The accuracy benchmark: what chips share when they are scored, and what they do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from accuracy import digest_before_last
from places import FIVE_LAYER_CNN as MODEL

import memcompile
from memcompile.program.line_corrections import Calibration, LineCorrections
from memcompile.runtime.training.transfer import transfer


def test_chips_share_measurements_only_where_the_last_layer_alone_differs() -> None:
    program = memcompile.compile(MODEL, effort="fast", objective="arrays", max_loss=None)
    chip, _ = transfer(program, 0)
    assert chip.chip is not None
    none = tuple(map(LineCorrections.none, program.layers))

    def calibrated(number: int) -> str:
        shape = none[number].gain.shape
        changed = none[number].then(np.full(shape, 1.1), np.zeros(shape))
        lines = tuple(changed if place == number else own for place, own in enumerate(none))
        return digest_before_last(replace(chip, calibration=Calibration(0, lines)))

    assert calibrated(2) == digest_before_last(replace(chip, calibration=Calibration(0, none)))
    assert len({digest_before_last(chip), calibrated(0), calibrated(1), calibrated(2)}) == 4
    other, _ = transfer(program, 1)
    assert digest_before_last(other) != digest_before_last(chip)
