"""Cells and steps that options of layers are counted with, against those of mapped programs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kept import Kept

from memcompile.accuracy.candidates import LayerPlan
from memcompile.accuracy.layer_options import _option
from memcompile.ir.geometry import Unrolling
from memcompile.ir.slicing import SliceChoice

MODEL = Path(__file__).parents[2] / "examples" / "five_layer_cnn.onnx"


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("target", ["yao2020", "hermes"])
def test_options_count_the_cells_and_steps_of_the_mapping(target: str, slices: int, kept: Kept) -> None:
    """A pair is two cells, whether they share an output line or not; no array works longer than an interval."""
    program = kept.compilation(MODEL, target, slices=slices, max_loss=None, settings=("replicate.effort=fast",)).program
    predictor: Any = SimpleNamespace(first=program, option_noise=lambda number, layer, replica: 1.0)
    plan, array = LayerPlan(SliceChoice(slices)), program.target.array
    options = []
    for number, layer in enumerate(program.layers):
        tiled: Any = SimpleNamespace(unrolling=Unrolling.im2col(layer.geometry), cut=layer.replicas[0].cut)
        options.append(_option(predictor, number, tiled, plan))
    weights = [layer.integer_matrix().size for layer in program.layers]
    assert [option.cells for option in options] == [2 * slices * number for number in weights]
    interval = program.placement.initiation_interval_steps
    arrays = program.placement.chips * program.target.chip.arrays
    assert sum(option.array_steps for option in options) <= arrays * interval
    assert sum(option.cell_steps for option in options) <= arrays * array.cells * interval
    for option, layer in zip(options, program.layers, strict=True):
        entries = sum(
            replica.unrolling.rows * replica.unrolling.columns * len(replica.windows) for replica in layer.replicas
        )
        assert option.cell_steps == 2 * slices * entries
