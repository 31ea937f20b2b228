"""Histograms of line currents against sums written out."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import factories
import numpy as np
import pytest
from numpy.typing import NDArray

from memcompile.hardware.converter import Converter
from memcompile.ir.graph import MappedLayer
from memcompile.ir.quantizers import InputQuantizer
from memcompile.noise.layer_inputs import LayerInputs
from memcompile.noise.line_currents import BINS, LAST_BIN, line_currents
from memcompile.program.program import Program

SIGNED = {"pairs": "crossings"}
IMAGES = 3


def program_of(share: float | None, **sections: dict[str, Any]) -> Program:
    """A program whose layers have a range of their own."""
    program = factories.two_layer_program(np.random.default_rng(3), factories.make_target(**sections))
    stages = tuple(
        replace(stage, range_share=share) if isinstance(stage, MappedLayer) else stage for stage in program.stages
    )
    return replace(program, stages=stages)


def inputs_of(program: Program) -> list[LayerInputs]:
    rng = np.random.default_rng(0)
    found = []
    for layer in program.layers:
        assert isinstance(layer.quantizer, InputQuantizer)
        low, high = layer.quantizer.lowest, layer.quantizer.highest
        shape = (IMAGES, layer.geometry.in_channels, *layer.geometry.input_size)
        found.append(LayerInputs(layer.quantizer, rng.integers(low, high + 1, shape).astype(np.int16)))
    return found


def written_out(program: Program, layer: MappedLayer, inputs: LayerInputs) -> NDArray[np.float64]:
    """Currents of all conversions as shares of the range: each line is a sum of conductances times digits."""
    target, found = program.target, list[float]()
    converter = Converter.adc(target, layer.range_share)
    conductances_us = target.cell.g_min_us + layer.cells * target.cell.level_step_us
    assert isinstance(inputs.quantizer, InputQuantizer)
    kinds = {(copy.unrolling, copy.cut): [] for copy in layer.replicas}  # type: dict[Any, list[Any]]
    for copy in layer.replicas:
        kinds[(copy.unrolling, copy.cut)].append(copy.windows)
    for (unrolling, cut), windows in kinds.items():
        vectors = unrolling.patches(inputs.values, np.concatenate(windows))
        vectors = vectors.reshape(-1, *vectors.shape[2:]).astype(np.int16)
        blank_us = np.full((1, *layer.cells.shape[2:]), 1.0)
        used = unrolling.expand(blank_us)[0] > 0
        for vector, matrix in itertools.product(vectors, range(unrolling.matrices)):
            for begin, end in itertools.pairwise(cut.rows):
                for phase in range(inputs.quantizer.phase_count):
                    digits = inputs.quantizer.digits(vector[matrix, begin:end], phase).astype(float)
                    for slice_ in range(layer.slices):
                        pair = [
                            np.where(
                                used[matrix, begin:end],
                                unrolling.expand(conductances_us[polarity, slice_][None])[0, matrix, begin:end],
                                target.cell.g_min_us,
                            )
                            for polarity in (0, 1)
                        ]
                        lines = [pair[0] - pair[1]] if target.array.signed_lines else pair
                        found += [float(value) for line in lines for value in digits @ line]
    assert converter.max_code is not None
    return np.array(found) / converter.unit_us / converter.max_code


@pytest.mark.parametrize(
    ("share", "sections"),
    [(None, {}), (0.1, {}), (0.1, {"array": SIGNED}), (0.1, {"input": {"bits": 4, "bits_per_phase": 2}})],
)
def test_histograms_count_every_conversion(share: float | None, sections: dict[str, Any]) -> None:
    program = program_of(share, **sections)
    inputs = inputs_of(program)
    for layer, own, found in zip(program.layers, inputs, line_currents(program, inputs), strict=True):
        shares = written_out(program, layer, own)
        converter = Converter.adc(program.target, layer.range_share)
        assert found.conversions == len(shares)
        assert found.largest == pytest.approx(np.abs(shares).max(), rel=1e-5)
        codes = shares * (converter.max_code or 1)
        low = converter.min_code or 0
        surely = int(((codes > (converter.max_code or 0) + 0.501) | (codes < low - 0.501)).sum())
        perhaps = int(((codes > (converter.max_code or 0) + 0.499) | (codes < low - 0.499)).sum())
        assert surely <= found.clipped <= perhaps
        bins = np.clip(np.floor(shares * BINS + 1e-4), -LAST_BIN - 1, LAST_BIN).astype(int)
        want = np.bincount(bins - found.first, minlength=len(found.counts))
        # Single precision may put a current at an edge on its other side.
        assert np.abs(np.cumsum(want) - np.cumsum(found.counts)).max() <= 0.01 * len(shares)
        assert found.counts[0] > 0
        assert found.counts[-1] > 0
    if share is not None:
        assert any(item.clipped for item in line_currents(program, inputs)), "ranges are short enough to tell"


def test_large_layers_are_looked_at_in_part() -> None:
    program = program_of(None)
    inputs = [replace(own, values=np.repeat(own.values, 40, axis=0)) for own in inputs_of(program)]
    few, many = line_currents(program, inputs_of(program)), line_currents(program, inputs)
    for one, other in zip(few, many, strict=True):
        assert other.conversions < 40 * one.conversions
        assert other.largest <= one.largest * 1.001
