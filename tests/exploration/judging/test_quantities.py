"""Texts of quantities."""

from __future__ import annotations

import pytest

from memcompile.exploration.judging.quantities import QUANTITIES


@pytest.mark.parametrize(
    ("name", "value", "text", "heading"),
    [
        ("energy", 108_000.0, "108 nJ", "energy"),
        ("energy", 24_600_000.0, "24.6 uJ", "energy"),
        ("latency", 2930.0, "2.93 ms", "latency"),
        ("power", 4330.0, "4.33 W", "power"),
        ("area", 0.0374, "0.0374", "area, mm2"),
        ("rate", 45_500.0, "45,500", "rate, 1/s"),
        ("chips", 3, "3", "chips"),
        ("cells", 425_760, "425,760", "cells"),
    ],
)
def test_units_with_prefixes_stand_in_the_text_and_others_in_the_heading(
    name: str, value: float, text: str, heading: str
) -> None:
    assert (QUANTITIES[name].text(value), QUANTITIES[name].heading) == (text, heading)
