"""Turns of output lines against a simulation of converters, and what a target says of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from factories import make_target
from hypothesis import given, settings
from hypothesis import strategies as st

from memcompile.errors import TargetError
from memcompile.hardware.converter import Converter
from memcompile.hardware.line_turns import LineTurns
from memcompile.runtime.effects.adc_error import gain_errors, offsets_codes


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.integers(1, 4), st.integers(0, 19))
def test_every_converter_converts_no_more_lines_a_step_than_it_can(
    pairs: int, sharing: int, together: int, per_phase: int, first: int
) -> None:
    lines = 2 * pairs
    target = make_target(
        array={"output_lines": lines, "columns_at_once": min(together, lines)},
        adc={"lines_per_converter": min(sharing, lines), "conversions_per_phase": per_phase},
    )
    turns, count = LineTurns.of(target), target.converters
    assert count == math.ceil(lines / min(sharing, lines))
    first %= lines
    for width in range(1, lines - first + 1):
        steps = [turns.lines(width, turn) for turn in range(int(turns.steps(np.array(width))))]
        assert [line for step in steps for line in range(width)[step]] == list(range(width))
        for step in steps:
            used = np.bincount((first + np.arange(width)[step]) % count)
            assert used.max() <= per_phase
            assert 0 < step.stop - step.start <= min(together, lines)
        # Fewer steps are impossible for the converter with most lines, or for as many lines together.
        most = int(np.bincount((first + np.arange(width)) % count).max())
        if together >= lines:
            assert len(steps) == math.ceil(most / per_phase)
        assert len(steps) >= math.ceil(width / min(together, lines))


def test_narrower_tiles_keep_their_steps() -> None:
    turns = LineTurns(128, 16)
    assert turns.narrower(2, 2, 64) == (16,)
    assert turns.narrower(3, 2, 64) == (24, 16)
    assert turns.narrower(1, 40, 3) == (1,), "one column is as narrow as it gets"
    assert LineTurns(128, 128).narrower(1, 2, 64) == (64,)


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("array", {"rows_at_once": 17}, r"array.rows_at_once = 17: must not be above array.input_lines = 16; give"),
        ("array", {"columns_at_once": 129}, r"columns_at_once = 129: must not be above array.output_lines = 128; give"),
        ("adc", {"lines_per_converter": 129}, r"adc.lines_per_converter = 129: must not be above array.output_lines"),
        ("adc", {"lines_per_converter": 0}, r"adc.lines_per_converter = 0"),
        ("adc", {"conversions_per_phase": 0}, r"adc.conversions_per_phase = 0"),
    ],
)
def test_parts_of_an_array_are_not_larger_than_the_array(section: str, values: dict[str, int], words: str) -> None:
    with pytest.raises(TargetError, match=words):
        make_target(**{section: values})


def test_lines_that_share_a_converter_have_its_errors_in_common() -> None:
    sizes = {"gain_sigma_share": 0.01, "offset_sigma_codes": 0.5}
    shared = make_target(adc={**sizes, "lines_per_converter": 8})
    for errors in (gain_errors, offsets_codes):
        found = errors(shared, 3, 7)
        assert found.shape == (128,)
        assert np.array_equal(found, np.tile(found[:16], 8))
        assert len(np.unique(found)) == 16
        alone = errors(make_target(adc=sizes), 3, 7)
        assert len(np.unique(alone)) == 128


def test_the_range_is_that_of_the_lines_driven_together() -> None:
    """Four lines at g_max carry a quarter of what sixteen do, so a code is a quarter as large."""
    whole, part = (Converter.adc(make_target(array={"rows_at_once": rows}, adc={"range": "fixed"})) for rows in (16, 4))
    assert whole.max_code == part.max_code == 255
    assert whole.unit_us == pytest.approx(4 * part.unit_us)
    assert part.unit_us * 255 == pytest.approx(4 * 20.0)
