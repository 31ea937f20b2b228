"""The report in a terminal: it fits its width, folds what is long, and begins with the verdict."""

from __future__ import annotations

import codecs
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from memcompile.cli.console import _plain
from memcompile.figures import counted, points, seconds
from memcompile.hardware.target import load_target
from memcompile.hardware.target_settings import with_target_settings
from memcompile.report.accuracy_report import chip_facts, chip_words
from memcompile.report.terminal_report import (
    LEADING_LAYERS,
    QUALITY_LAYERS,
    Form,
    leading_layers,
    mapping_report,
    quality_report,
)
from memcompile.short_names import short_names

Facts = dict[str, Any]
LONG = "model/activation_{0}/Relu;model/batch_normalization_{0}/FusedBatchNormV3;model/conv2d_{0}/Conv2D1"


def layer(number: int, **changes: Any) -> Facts:
    facts = {
        "name": LONG.format(number),
        "rows": 128,
        "columns": 256,
        "groups": 1,
        "slices": 2,
        "slice_fill": "max",
        "parallel_windows": [[1, 1], [1, 2], [2, 2]],
        "tiles": 7,
        "replicas": 1,
        "arrays": 3,
        "cells": 100,
        "shares_cells_with": None,
        "cell_share": 0.5,
        "segments": None,
        "steps": 100 + number,
        "input_bits": 8,
        "sqnr_db": 20.0 - number / 10,
        "exact": False,
    }
    return {**facts, **changes}


def report_facts(layers: int, **changes: Any) -> Facts:
    """Facts of a network of so many layers, without labels."""
    found = [layer(number) for number in range(layers)]
    ratios = {item["name"]: {"mean": 3.0, "std": 0.5} for item in found}
    limited = f"time on the converters; most of it: {LONG.format(layers - 1)} 30%, {LONG.format(0)} 15%"
    facts: Facts = {
        "model": "net.onnx",
        "target": "yao2020",
        "chips": 2,
        "chips_requested": None,
        "arrays_per_chip": 8,
        "arrays_used": 16,
        "arrays_bound": 16,
        "cells_used": 30_000,
        "cell_utilisation": 0.9,
        "initiation_interval_steps": 427,
        "initiation_interval_bound": 403,
        "latency_steps": 1,
        "latency_bound": None,
        "pipelined_latency_steps": 44_717,
        "step_ns": 400.0,
        "images_per_second": 5854.8,
        "crossing_values": 40_960,
        "crossing_values_bound": 0,
        "buffers": {"alone": 9952, "pipelined": 18_148},
        "segments": 0,
        "batch": None,
        "multiply_adds": {"total": 7_192_896, "on_arrays": 1, "share_on_arrays": 0.4157},
        "cost": {
            "energy_pj": 24_600_000.0,
            "energy_pj_by_component": {"conversion": 24_600_000.0},
            "assumed_share": 0.0,
            "assumed": [],
            "power_mw": 5.89,
            "latency_us": 2930.0,
            "area_mm2": 15.2,
            "counting": {name: {"gops_per_w": 609.0, "gops_per_mm2": 0.63} for name in ("weights", "cells")},
            "transfer": {"cell_writes": 9, "pulses": 99, "failures": 1, "time_s": 0.0101, "energy_j": 1.21e-5},
            "pass": None,
            "not_included": [
                "digital operators",
                "routing",
                "idle arrays",
                "213,722 values between chips",
                "additions",
            ],
        },
        "certificates": [{"quantity": "initiation_interval", "limited_by": limited}],
        "layers": found,
        "data": "made-up samples",
        "accuracy_budget": None,
        "accuracy": None,
        "error_budget": None,
        "output_sqnr_db": {"Identity": 16.6},
        "emulated_quality": {
            "seeds": 1,
            "images": 8,
            "output_sqnr_db": {"Identity": {"mean": 3.6, "std": 0.0}},
            "layer_sqnr_db": ratios,
            "agreement": {"Identity": {"mean": 0.25, "std": 0.0}},
            "ideal_agreement": {"Identity": 1.0},
        },
        "outputs_not_compared": {},
        "warnings": ["no data: the input quantisers are calibrated on generated inputs, so accuracy is not measured"],
    }
    return {**facts, **changes}


def text_of(facts: Facts, form: Form) -> str:
    console = Console(file=io.StringIO(), width=form.width, highlight=False)
    console.print(mapping_report(facts, form))
    console.print(quality_report(facts, form))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("layers", [1, 20, 28, 200])
def test_nothing_is_wider_than_the_terminal(width: int, layers: int) -> None:
    lines = text_of(report_facts(layers), Form(width)).splitlines()
    assert max(map(len, lines)) <= width
    assert " ".join(lines[:3]).startswith("net.onnx fits on 2 chips of yao2020: 5,850 images/s, 2.93 ms latency")


def test_a_network_of_many_layers_takes_a_page() -> None:
    lines = text_of(report_facts(28), Form(80)).splitlines()
    assert len(lines) <= 60 - len(("program written to ...", "report written to ..."))
    rows = [line for line in lines if line.startswith("│")]
    assert len(rows) == LEADING_LAYERS + 1 + QUALITY_LAYERS
    assert rows[LEADING_LAYERS].startswith(f"│ {28 - LEADING_LAYERS} more layers ")
    assert rows[LEADING_LAYERS].rstrip("│ ").endswith(f"{3 * (28 - LEADING_LAYERS)}")


def test_all_layers_are_listed_if_that_is_wanted() -> None:
    text = text_of(report_facts(28), Form(120, all_layers=True))
    assert len([line for line in text.splitlines() if line.startswith("│")]) == 2 * 28


def test_layers_of_most_steps_and_of_most_arrays_lead() -> None:
    layers = [layer(number, steps=number, arrays=1) for number in range(30)]
    layers[0]["arrays"] = 99
    assert list(leading_layers(layers)) == [0, *range(31 - LEADING_LAYERS, 30)]
    assert list(leading_layers(layers[:20])) == list(range(20))


def test_a_line_of_the_totals_keeps_its_label() -> None:
    lines = text_of(report_facts(28), Form(80)).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("limited by "))
    assert lines[first + 1].startswith(" " * 17 + "…")
    assert "1 step, 2.93 ms, one image alone; 44,717 steps" in "\n".join(lines)
    assert "10.1 ms, 12.1 uJ" in "\n".join(lines)


def test_names_keep_the_tails_that_tell_them_apart() -> None:
    assert short_names(["block/conv1", "block/conv2", "fc"], 6) == ["…conv1", "…conv2", "fc"]
    assert short_names(["left/weights/conv", "right/weights/conv"], 8) == ["l…s/conv", "r…s/conv"]
    assert short_names(["a" * 20, "a" * 21, "a" * 20], 8) == ["…aaaaa#1", "…aaaaa#2", "…aaaaa#1"]


@given(st.lists(st.text("ab/", min_size=1, max_size=30), min_size=1, max_size=8, unique=True), st.integers(8, 20))
def test_short_names_stay_different(names: list[str], most: int) -> None:
    found = short_names(names, most)
    assert len(set(found)) == len(names)
    assert all(len(short) <= most for short in found)


def test_an_encoding_without_the_signs_gets_plain_letters() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", "strict")
    codecs.register_error("memcompile.test", _plain)
    stream.reconfigure(errors="memcompile.test")
    stream.write("1.0 ± 0.5 of …name 漢")
    stream.flush()
    assert stream.buffer.getvalue() == b"1.0 +- 0.5 of ..name ?"  # type: ignore[attr-defined]


def test_points_are_tenths_without_a_negative_zero() -> None:
    assert [points(value) for value in (-0.04, 0.0, 0.04, -0.06, 12.34)] == ["0.0", "0.0", "0.0", "-0.1", "12.3"]


def test_figures_have_units_that_fit() -> None:
    assert seconds(0.00293) == "2.93 ms"
    assert seconds(4200.0) == "4,200 s"
    assert (counted(1, "step"), counted(2000, "step")) == ("1 step", "2,000 steps")


@pytest.mark.parametrize("width", range(60, 101))
def test_headings_are_whole_whatever_the_width(width: int) -> None:
    """Names shorter than their own heading leave no room to the columns beside it."""
    short = [layer(number, name=f"C{number}") for number in range(3)]
    text = text_of({**report_facts(3), "layers": short}, Form(width))
    heading = next(line for line in text.splitlines() if line.startswith("┃"))
    assert heading.startswith("┃ layer ┃")
    assert "…" not in heading


def test_layers_that_share_cells_are_counted() -> None:
    assert "shared cells" not in text_of(report_facts(3), Form(80))
    layers = [layer(number, shares_cells_with=first) for number, first in enumerate(("a", "a", "b", "b", "b", None))]
    text = text_of({**report_facts(6), "layers": layers}, Form(80))
    assert "shared cells     5 layers work with 2 sets of weights, held once" in text


def test_one_chip_has_no_spread() -> None:
    row = chip_facts(np.array([0.98]))
    assert chip_words(row, 1) == ("98.00%", "98.00%", "98.00%")
    assert chip_words(row, 2)[0] == "98.00% ± 0.00%"


def test_a_budget_that_no_slices_hold_says_what_is_lost_with_any() -> None:
    choice = {
        "max_loss": 1.0,
        "predicted_loss": 5.1,
        "measured_losses": [4.2, 4.4],
        "steps_without": 403,
        "least_chips": None,
        "least_steps": None,
        "write_again_share": 0.0,
        "range_calibrated": False,
        "shared_loss": 4.6,
        "held": False,
    }
    text = " ".join(text_of(report_facts(2, accuracy_budget=choice), Form(120)).split())
    assert (
        "cannot be held, for 4.6 are lost with any slices, above all to inputs rounded to 8 bits, fewer than the"
        in text
    )
    assert "than the network was trained with: 5.1 predicted" in text
    assert "427 steps instead of 403; what helps is training with such inputs" in text
    assert "--set" not in text
    few = {**report_facts(2, accuracy_budget=choice), "layers": [layer(0, input_bits=4), layer(1, input_bits=None)]}
    helps = next(line for line in text_of(few, Form(400)).splitlines() if "what helps" in line)
    assert "rounded to 4 bits" in helps
    assert helps.endswith("training with such inputs, or more bits for longer steps (--set input.bits=6)")
    assert with_target_settings(load_target("neurram"), ["input.bits=6"])[0].input.bits == 6
    again = {**choice, "held": True, "write_again_share": 1.0}
    text = " ".join(text_of(report_facts(2, accuracy_budget=again), Form(120)).split())
    assert "calibration samples; the worst pairs written again, 1 correction a pair; " in text
    assert "1 correction" not in " ".join(text_of(report_facts(2, accuracy_budget=choice), Form(120)).split())
    bound = {**choice, "least_chips": 2, "least_steps": 310}
    text = " ".join(text_of(report_facts(2, accuracy_budget=bound), Form(120)).split())
    assert "instead of 403; proven for any slices and windows within it: 2 chips or more, 310 steps or more" in text
    given = report_facts(2, accuracy_budget=bound, chips_requested=2)
    assert "windows within it: 310 steps or more" in " ".join(text_of(given, Form(120)).split())
    ranged = {**again, "range_calibrated": True}
    text = " ".join(text_of(report_facts(2, accuracy_budget=ranged), Form(120)).split())
    assert "calibration samples; converter ranges calibrated; the worst pairs written again, 1 correction" in text
    nothing = report_facts(2, accuracy_budget={**bound, "least_steps": 1}, chips_requested=2)
    assert "proven for any" not in text_of(nothing, Form(120))
    other = {**choice, "shared_loss": 0.2}
    text = " ".join(text_of(report_facts(2, accuracy_budget=other), Form(120)).split())
    assert "1 point cannot be held; the least loss that was found: 5.1 predicted" in text
