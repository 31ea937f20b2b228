"""Bounds over all choices within an accuracy budget, against mappings with every choice of slices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import Kept

from memcompile.accuracy.candidates import LayerPlan
from memcompile.accuracy.choice_bound import ChoiceBound, ChoiceFamily
from memcompile.accuracy.layer_options import LayerOption
from memcompile.ir.slicing import SliceChoice
from memcompile.program.program import Program

MODEL = Path(__file__).parents[2] / "examples" / "five_layer_cnn.onnx"
CHIPS = 3
"""More arrays than those on which layers may mix windows."""
LAYERS = ("C1", "C3", "FC")
Costs = Mapping[tuple[int, ...], Program]


@pytest.fixture(scope="module")
def mapped(kept: Kept) -> Costs:
    """The network with all choices of one or two slices a layer."""
    choices = itertools.product((1, 2), repeat=len(LAYERS))
    return {
        choice: kept.compilation(
            MODEL,
            chips=CHIPS,
            slices=dict(zip(LAYERS, choice, strict=True)),
            max_loss=None,
            settings=("replicate.effort=fast",),
        ).program
        for choice in choices
    }


def family(program: Program, noise: list[tuple[float, float]], limit: float) -> ChoiceFamily:
    """Choices of one or two slices with some noise."""
    options = [
        [LayerOption(LayerPlan(SliceChoice(1 + more)), own, 0, 0, 0) for more, own in enumerate(of_layer)]
        for of_layer in noise
    ]
    return ChoiceFamily([layer.geometry for layer in program.layers], options, limit, program.target)


@settings(max_examples=25, deadline=None)
@given(
    noise=st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0.001, 1.0)), min_size=3, max_size=3),
    share=st.floats(0, 1),
)
def test_no_choice_within_the_limit_goes_below(noise: list[tuple[float, float]], share: float, mapped: Costs) -> None:
    sums = {choice: sum(own[slices - 1] for own, slices in zip(noise, choice, strict=True)) for choice in mapped}
    limit = min(sums.values()) + share * (max(sums.values()) - min(sums.values()))
    steps = {
        choice: program.placement.initiation_interval_steps
        for choice, program in mapped.items()
        if sums[choice] <= limit
    }
    bound = family(mapped[1, 1, 1], noise, limit).bound(CHIPS, min(steps.values()), 1)
    assert 1 <= bound.chips <= CHIPS
    assert bound.steps <= min(steps.values())


def test_the_less_noise_is_allowed_the_more_steps_are_proven(mapped: Costs) -> None:
    """Where two slices everywhere are the only choice, its own bound is reached but for what cutting planes add."""
    noise = [(0.2, 0.1)] * len(LAYERS)
    worst = mapped[2, 2, 2].placement.initiation_interval_steps
    found = [family(mapped[1, 1, 1], noise, limit).bound(CHIPS, worst, 1) for limit in (math.inf, 0.6, 0.4, 0.3)]
    steps = [bound.steps for bound in found]
    assert steps == sorted(steps)
    assert steps[0] == steps[1] <= mapped[1, 1, 1].placement.initiation_interval_steps < steps[-1] <= worst
    (certificate,) = (item for item in mapped[2, 2, 2].placement.certificates if item.quantity == "initiation_interval")
    assert steps[-1] >= 0.9 * certificate.bound


def test_chips_are_counted_by_the_slices_that_the_limit_asks_for(mapped: Costs) -> None:
    """On chips of five arrays two slices take more of them, and no fewer than cells alone."""
    program = mapped[1, 1, 1]
    chip = program.target.chip.model_copy(update={"arrays": 5})
    small = program.target.model_copy(update={"chip": chip})
    noise = [(0.2, 0.1)] * len(LAYERS)
    geometries = [layer.geometry for layer in program.layers]
    options = family(program, noise, 0.3).options
    fewest = [ChoiceFamily(geometries, options, limit, small).bound(8, 10**6, 1).chips for limit in (0.6, 0.3)]
    cells = [sum(layer.integer_matrix().size for layer in program.layers) * 2 * slices for slices in (1, 2)]
    assert fewest[0] < fewest[1]
    assert all(chips >= -(-own // (5 * small.array.cells)) for chips, own in zip(fewest, cells, strict=True))


def test_where_layers_may_mix_windows_the_bound_is_that_of_any_noise(mapped: Costs) -> None:
    assert family(mapped[1, 1, 1], [(0.2, 0.1)] * len(LAYERS), 0.3).bound(1, 76, 43) == ChoiceBound(1, 43)


def test_where_lines_take_turns_tiles_may_be_cut_in_ways_that_are_not_known(mapped: Costs) -> None:
    program = mapped[1, 1, 1]
    shared = program.target.with_(adc__lines_per_converter=8)
    options = family(program, [(0.2, 0.1)] * len(LAYERS), 0.3).options
    geometries = [layer.geometry for layer in program.layers]
    assert ChoiceFamily(geometries, options, 0.3, shared).bound(4, 900, 55) == ChoiceBound(1, 55)
