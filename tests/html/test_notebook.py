"""The page in a notebook: a frame with the whole report, and what it says in text."""

from __future__ import annotations

from pathlib import Path

import factories
import numpy as np
import pytest
from browser import chromium

import memcompile
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
