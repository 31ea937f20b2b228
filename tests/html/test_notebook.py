"""The page in a notebook: a frame with the whole report, and what it says in text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import factories
import numpy as np
import pytest
from browser import chromium
from places import FIVE_LAYER_CNN

import memcompile
from memcompile.errors import UsageError
from memcompile.program.program import Program


@pytest.fixture
def program() -> Program:
    return factories.two_layer_program(np.random.default_rng(0), factories.make_target())


def test_a_page_says_its_verdict_in_text(program: Program, tmp_path: Path) -> None:
    page = memcompile.report_page(program)
    first, verdict = repr(page).splitlines()
    assert first == "Report of test"
    assert verdict.startswith("  test fits on 1 chip of ")
    assert page.facts["arrays_used"] == program.arrays_used
    page.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == page.html


def test_a_notebook_shows_it_in_a_frame(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><title>notebook</title>{memcompile.report_page(program)._repr_html_()}")
    with chromium() as browser:
        window = browser.new_page()
        errors: list[str] = []
        window.on("pageerror", lambda error: errors.append(str(error)))
        window.goto(path.as_uri())
        frame = window.frame_locator("iframe")
        frame.locator("html[data-ready=true]").wait_for(state="attached", timeout=60_000)
        assert frame.locator("h1").inner_text() == f"test on {program.target.name}"
        assert errors == []


def test_a_picture_is_a_figure(program: Program) -> None:
    figure = memcompile.draw(program)
    assert any("one image every" in axes.get_title(loc="left") for axes in figure.axes)


def test_a_program_lists_its_layers(program: Program) -> None:
    first, *others = program.stages
    named = replace(program, stages=(replace(first, name="<b>"), *others))
    shown = named._repr_html_()
    assert shown.startswith("<pre>")
    assert "<summary>crossbar layers: 2</summary>" in shown
    layer = program.layers[0]
    tiles = int((program.placement.tiles.layer == 0).sum())
    assert f"<tr><td>&lt;b&gt;</td><td>18 x 3</td><td>{layer.slices}</td><td>{len(layer.replicas)}</td>" in shown
    assert f"<td>{tiles}</td></tr>" in shown
    assert "<b>" not in shown


def test_methods_of_a_program_are_the_functions_of_the_package(program: Program) -> None:
    assert program.report().html == memcompile.report_page(program).html
    assert len(program.plot().axes) == len(memcompile.draw(program).axes) > 1


def test_accuracy_of_a_program_needs_no_model() -> None:
    digits = memcompile.compile(FIVE_LAYER_CNN, effort="fast", objective="arrays", max_loss=None)
    found = digits.accuracy(chips=1)
    measured = memcompile.evaluate(digits, FIVE_LAYER_CNN, chips=1, images=797, emulated_images=797, budget=False)
    assert measured.accuracy is not None
    np.testing.assert_array_equal(found, measured.accuracy.emulated)
    assert digits.accuracy(ideal=True).tolist() == [measured.accuracy.ideal]
    with pytest.raises(UsageError, match="has no labels, so there is no accuracy"):
        digits.accuracy({"image": np.zeros((4, 1, 28, 28), np.float32)})
