"""Ranges of explorations: what they stand for, and all that can be wrong with them, at once."""

from __future__ import annotations

import numpy as np
import pytest

from memcompile.errors import UsageError
from memcompile.exploration.commands import compile_command
from memcompile.exploration.knobs import Design
from memcompile.exploration.space import MOST_POINTS, Axis, Space, check_size, read_space

BASE = Design()


def values(text: str) -> tuple[object, ...]:
    return read_space([text], BASE).axes[0].values


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("adc.bits=4..7", (4, 5, 6, 7)),
        ("adc.bits=8,4..6", (8, 4, 5, 6)),
        ("adc.bits=4..9:2", (4, 6, 8)),
        ("max_loss=0.5..1.5:0.5", (0.5, 1, 1.5)),
        ("max_loss=none,1", (None, 1)),
        ("chips=auto,2", (None, 2)),
        ("slices= 1 , 2 ", (1, 2)),
        ("slices=1,3:equal", (1, "3:equal")),
        ("adc.range=fixed,aligned", ("fixed", "aligned")),
        ("optimise=latency,arrays", ("latency", "arrays")),
        ("replicate.parallel_windows=true,false", (True, False)),
        ("programming.sigma_us=0.1,1e0", (0.1, 1.0)),
        ("programming.sigma_polynomial_us=[0.1,0.2],[0.3]", ("[0.1,0.2]", "[0.3]")),
        ("target=yao2020,hermes", ("yao2020", "hermes")),
    ],
)
def test_a_text_stands_for_values(text: str, wanted: tuple[object, ...]) -> None:
    assert values(text) == wanted


def test_values_in_python_are_those_of_texts() -> None:
    space = read_space({"adc.bits": range(4, 6), "slices": np.array([1, 2]), "max_loss": [None, 0.5]}, BASE)
    assert [axis.values for axis in space.axes] == [(4, 5), (1, 2), (None, 0.5)]
    assert all(type(value) is int for value in space.axes[1].values)


def test_points_are_in_the_order_of_the_grid() -> None:
    space = Space((Axis("a", (1, 2)), Axis("b", ("x", "y"))))
    points = list(space.points())
    assert [tuple(point.values()) for point in points] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]
    backwards = points[::-1]
    backwards.sort(key=space.order)
    assert backwards == points


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("adc.bits", "not of the form"),
        ("adc.bits=", "not of the form"),
        ("=4", "not of the form"),
        ("adc.bitz=4", "did you mean 'adc.bits'"),
        ("adc.bits=7..4", "the range is empty"),
        ("adc.bits=4,99", "adc.bits = 99"),
        ("adc.bits=4,4", "the value 4 twice"),
        ("adc.bits=4.5", "integer"),
        ("adc.bits=4..8:0", "above 0"),
        ("adc.bits=1..1000000", "at most 10,000"),
        ("adc.bits=a..b", "a range is FIRST..LAST"),
        ("max_loss=0.5..2", "needs a step"),
        ("max_loss=0", "above 0"),
        ("slices=0", "from 1 to 4"),
        ("slices=1.5", "a whole number"),
        ("slices=x", "should be a number"),
        ("slices=2:x", "a number, or one with how slices are filled, such as 3:equal"),
        ("chips=0", "at least 1"),
        ("effort=fst", "should be 'fast'"),
        ("target=nowhere", "nowhere"),
        ("replicate.parallel_windows=7", "replicate.parallel_windows"),
        ("adc.bits=inf..nan", "ends and step of a range are numbers"),
    ],
)
def test_a_wrong_range_is_one_message(text: str, wanted: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_space([text], BASE)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        read_space(["adc.bits=0..2,17", "foo=1", "slices=9", "slices=2"], BASE)
    first, *lines = str(caught.value).splitlines()
    assert first == "5 errors"
    for line, words in zip(lines, ["'foo'", "varies twice", "bits = 0", "bits = 17", "slices = 9"], strict=True):
        assert words in line


def test_many_wrong_values_of_a_knob_are_counted() -> None:
    with pytest.raises(UsageError, match=r"adc\.bits: 80 more of its values are wrong"):
        read_space(["adc.bits=4..99"], BASE)


def test_a_value_that_one_of_the_targets_allows_is_taken() -> None:
    # One pair of `ideal` holds any weight, so that it refuses slices.
    assert values("slices=2") == (2,)
    space = read_space(["target=ideal,yao2020", "slices=1,2"], BASE)
    assert space.size == 4
    with pytest.raises(UsageError, match="slices = 2"):
        read_space(["slices=2"], Design(target="ideal"))


def test_what_is_set_cannot_vary() -> None:
    with pytest.raises(UsageError, match=r"adc\.bits varies and is set to 6"):
        read_space(["adc.bits=4,5"], Design(settings=(("adc.bits", "6"),)))


def test_nothing_to_vary_is_an_error() -> None:
    with pytest.raises(UsageError, match="nothing varies"):
        read_space([], BASE)


def test_a_grid_has_a_largest_size() -> None:
    side = tuple(range(1, 102))
    with pytest.raises(UsageError, match=f"at most {MOST_POINTS:,}"):
        check_size(Space((Axis("a", side), Axis("b", side))))


def test_a_design_takes_values_and_keeps_the_rest() -> None:
    base = Design("hermes", settings=(("adc.bits", "6"), ("cell.levels", "4")))
    design = base.with_values({"slices": 2, "adc.bits": 5, "effort": "fast", "max_loss": None})
    assert design.slices == 2
    assert design.target == "hermes"
    assert dict(design.settings) == {"adc.bits": "5", "cell.levels": "4", "replicate.effort": "fast"}


def test_command_of_a_design_says_how_slices_are_filled() -> None:
    words = compile_command("m.onnx", Design(slices="3:equal")).split()
    assert words == ["memcompile", "m.onnx", "--target", "yao2020", "--slices", "3:equal", "--max-loss", "none"]
