"""The knapsack of an accuracy budget against all choices there are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memcompile.accuracy.candidates import LayerPlan
from memcompile.accuracy.knapsack import pick_options
from memcompile.accuracy.layer_options import LayerOption
from memcompile.hardware.target import load_target

TARGET = load_target("yao2020")


@st.composite
def layers(draw: st.DrawFn) -> list[list[LayerOption]]:
    """A few options of a few layers."""
    number = st.integers(1, 400)
    option = st.builds(
        LayerOption, st.just(LayerPlan()), st.floats(0.001, 1.0), number.map(lambda n: 40 * n), number, number
    )
    return draw(st.lists(st.lists(option, min_size=1, max_size=3), min_size=1, max_size=4))


@settings(max_examples=60, deadline=None)
@given(layers(), st.floats(0.05, 3.0), st.sampled_from([None, 1, 2]))
def test_knapsack_is_the_best_of_all_choices(options: list[list[LayerOption]], limit: float, chips: int | None) -> None:
    def quiet(choice: Sequence[LayerOption]) -> bool:
        return sum(option.noise for option in choice) <= limit

    def cost(choice: Sequence[LayerOption]) -> float:
        if chips is None:
            return sum(option.cells for option in choice)
        arrays = chips * TARGET.chip.arrays
        by_array = sum(option.array_steps for option in choice) / arrays
        return max(by_array, sum(option.cell_steps for option in choice) / (arrays * TARGET.array.cells))

    room = np.inf if chips is None else chips * TARGET.chip.arrays * TARGET.array.cells
    allowed = [
        choice
        for choice in itertools.product(*options)
        if quiet(choice) and sum(option.cells for option in choice) <= room
    ]
    picks = pick_options(options, limit, TARGET, chips)
    found = [own[pick] for own, pick in zip(options, picks, strict=True)]
    fitting = [choice for choice in itertools.product(*options) if sum(item.cells for item in choice) <= room]
    if not fitting:
        assert sum(item.cells for item in found) == sum(min(item.cells for item in own) for own in options)
        return
    if not allowed:
        least = min(sum(item.noise for item in choice) for choice in fitting)
        assert sum(item.noise for item in found) <= least * (1 + 1e-4) + 1e-5
        return
    assert sum(option.noise for option in found) <= limit * (1 + 2e-5)
    # An interval is counted in sixteenths of a step.
    assert cost(found) <= min(map(cost, allowed)) + (0 if chips is None else 1 / 16) + 1e-9
