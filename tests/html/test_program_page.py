"""The report of a program in a browser: its numbers are those of the JSON, and it loads and leaks nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pytest
from browser import Opened, chromium, opened
from kept import Kept
from places import FIVE_LAYER_CNN

from memcompile.figures import FORMS, at_key
from memcompile.html.numbers import NONE, typeset
from memcompile.html.program_page import Origin, program_page
from memcompile.ir.graph import MappedLayer
from memcompile.program.program import Program
from memcompile.report.evaluation import TunedAccuracy, evaluate
from memcompile.report.explain import Explanation
from memcompile.report.facts import Facts, program_facts

HOSTILE = '</script><img src=x onerror="window.hacked=1">'
MEGABYTE = 1_000_000

Case = tuple[Program, Facts]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def five_layer_cnn(kept: Kept) -> Case:
    """With everything that an evaluation can tell."""
    explanation = Explanation()
    compilation = kept.compilation(FIVE_LAYER_CNN, instruments=(explanation,))
    explanation.weigh(compilation.multiply_adds)
    program = compilation.program
    found = evaluate(program, compilation.model, compilation.dataset, images=20, seeds=2)
    assert found.accuracy is not None
    tuned = TunedAccuracy(found.accuracy.emulated, "digits", 100)
    found = replace(found, accuracy=replace(found.accuracy, tuned=tuned)).accepting(0.9)
    return program, program_facts(program, found, operators=explanation.facts())


@pytest.fixture(scope="module")
def segmented() -> Case:
    program = factories.two_layer_program(np.random.default_rng(0), factories.make_target())
    program = factories.in_segments(program, (1,), batch=6)
    return program, program_facts(program)


@pytest.fixture(scope="module")
def within_budget() -> Case:
    """Slices that an accuracy budget chose."""
    program = factories.two_layer_program(np.random.default_rng(3), factories.make_target())
    budget = {
        "max_loss": 0.5,
        "predicted_loss": 0.4,
        "measured_losses": [0.3, 0.45],
        "shared_loss": 0.1,
        "held": True,
        "steps_without": 7,
        "least_chips": 1,
        "least_steps": 5,
        "write_again_share": 1.0,
        "range_calibrated": True,
    }
    return program, {**program_facts(program), "accuracy_budget": budget}


@pytest.fixture(scope="module")
def hostile() -> Case:
    """Names from a file of a stranger."""
    program = factories.two_layer_program(np.random.default_rng(1), factories.make_target())
    first, *others = program.stages
    assert isinstance(first, MappedLayer)
    provenance = replace(program.provenance, model=HOSTILE, notes=(HOSTILE,), options={HOSTILE: HOSTILE})
    program = replace(program, stages=(replace(first, name=HOSTILE), *others), provenance=provenance)
    return program, program_facts(program)


@pytest.fixture(scope="module")
def digital() -> Case:
    """No layer on crossbars."""
    program = factories.two_layer_program(np.random.default_rng(2), factories.make_target())
    stage = factories.digital_stage("relu", "Relu", "x", "y", 4)
    none = program.placement.tiles.take(np.zeros(0, np.int64))
    placement = replace(program.placement, tiles=none, chips=0, certificates=())
    program = replace(program, stages=(stage,), outputs=("y",), placement=placement)
    return program, program_facts(program)


def check_numbers(found: Opened, facts: Facts) -> None:
    """Every number of a page is that of the report, and nothing was asked for or went wrong."""
    assert found.errors == []
    assert found.requests == []
    assert found.page.evaluate("JSON.parse(document.getElementById('data-facts').textContent)") == facts
    shown = found.page.evaluate(
        "[...document.querySelectorAll('data')].map(e => [e.dataset.key, e.dataset.form, e.value, e.textContent])"
    )
    for key, form, value, text in shown:
        assert repr(at_key(facts, key)) == value, key
        assert typeset(FORMS[form](at_key(facts, key))) == text, key
    bare = found.page.evaluate(
        "[...document.querySelectorAll('td.n')].filter(e => /\\d/.test(e.textContent) && !e.querySelector('data'))"
        ".map(e => e.textContent)"
    )
    assert bare == [], f"numbers without a key, and not {NONE}"
    assert len(shown) >= 50 * bool(facts["layers"])
    has = {
        "accuracy": facts["accuracy"],
        "budget": facts["accuracy_budget"],
        "losses": facts["error_budget"],
        "floor-plan": facts["layers"],
        "schedule": facts["layers"],
        "layers": facts["layers"],
        "converters": facts["converter_inputs"],
        "bounds": facts["certificates"] and facts["layers"],
        "cost": facts["layers"],
    }
    sections = found.page.evaluate("[...document.querySelectorAll('main section')].map(e => e.id)")
    assert sections == [*(name for name, data in has.items() if data), "network", "target", "origin"]


@pytest.mark.parametrize("case", ["segmented", "hostile", "digital", "within_budget"])
def test_every_number_of_a_page_is_that_of_the_report(
    case: str, browser: Any, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, facts = request.getfixturevalue(case)
    if case == "segmented":  # what stands where plotly is not installed
        monkeypatch.setattr("memcompile.html.page.chart_library", lambda: None)
    path = tmp_path / "page.html"
    path.write_bytes(program_page(program, facts, Origin("memcompile net.onnx")))
    with opened(browser, path) as found:
        check_numbers(found, facts)
        assert found.page.evaluate("window.hacked") is None
        assert found.page.evaluate("document.querySelectorAll('img').length") == 0
        drawn = found.page.evaluate("document.querySelectorAll('.plot > *').length")
        assert bool(drawn) == (case in ("hostile", "within_budget"))


@pytest.fixture(scope="module")
def page(browser: Any, five_layer_cnn: Case, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """The page of the five-layer CNN; charts take their time, so it is opened once."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_bytes(program_page(*five_layer_cnn))
    with opened(browser, path) as found:
        yield found


def test_every_number_of_the_whole_page_is_that_of_the_report(page: Opened, five_layer_cnn: Case) -> None:
    check_numbers(page, five_layer_cnn[1])
    names = page.page.evaluate("[...document.querySelectorAll('figure.chart:has(.main-svg)')].map(e => e.id)")
    assert names == [f"chart-{name}" for name in ("accuracy", "causes", "layers", "energy", "noise")]


def test_histograms_of_currents_are_those_of_the_report(page: Opened, five_layer_cnn: Case) -> None:
    found = five_layer_cnn[1]["converter_inputs"]
    drawn = page.page.evaluate(
        "[...document.querySelectorAll('#converters tbody tr')].map(row => [row.dataset.name,"
        " row.querySelector('.within').getAttribute('d'), row.querySelector('.beyond').getAttribute('d')])"
    )
    assert [name for name, _, _ in drawn] == [layer["name"] for layer in found["layers"]] == ["C1", "C3", "FC"]
    for (_, within, beyond), layer in zip(drawn, found["layers"], strict=True):
        counts = layer["counts"]
        assert sum(counts) == layer["conversions"] > 0
        bars = [float(height) for height in re.findall(r"v-([\d.]+)h", within + beyond)]
        filled = [count for count in counts if count]
        assert len(bars) == len(filled)
        assert (np.diff(np.array(bars)[np.argsort(filled)]) >= 0).all(), "as tall as there are conversions"
        assert len(set(bars)) > 2
        outside = [number for number in range(len(counts)) if layer["first_bin"] + number >= found["bins_of_range"]]
        assert beyond.count("M") == sum(1 for number in outside if counts[number])


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_axe_finds_nothing_serious(scheme: str, page: Opened) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.page.emulate_media(color_scheme=scheme)
    results = axe.Axe().run(page.page).response
    serious = [
        (item["id"], [node["html"] for node in item["nodes"]][:3])
        for item in results["violations"]
        if item["impact"] in ("serious", "critical")
    ]
    assert serious == []
    passed = {item["id"] for item in results["passes"]}
    assert {"color-contrast", "document-title", "html-has-lang"} <= passed, "axe has looked"


def test_canvases_zoom_from_the_system_to_a_cell(page: Opened) -> None:
    window, plan = page.page, page.page.locator("#plan")
    plan.scroll_into_view_if_needed()
    window.wait_for_timeout(50)
    whole = plan.screenshot()
    window.locator("[data-plan=array]").click()
    window.wait_for_timeout(50)
    array = plan.screenshot()
    plan.hover(position={"x": 300, "y": 100})
    words = window.locator("#plan-status").inner_text()
    window.locator("[data-plan=cell]").click()
    window.wait_for_timeout(50)
    cells = plan.screenshot()
    window.fill("#search", "FC")
    dimmed = window.evaluate("[...document.querySelectorAll('#layers tr.dim th')].map(e => e.textContent)")
    window.fill("#search", "")
    window.locator("[data-schedule=alone]").click()
    window.locator("#gantt").hover()
    step = window.locator("#gantt-status").inner_text()
    assert page.errors == []
    assert len({whole, array, cells}) == 3
    for word in ("% of its cells used", "rows 0 to", "target ", "programmed "):
        assert word in words
    assert dimmed == ["C1", "C3"]
    assert "step" in step


def test_keys_switch_the_theme_and_find_the_search(page: Opened) -> None:
    window = page.page
    window.locator("h1").click()
    before = window.evaluate("getComputedStyle(document.body).backgroundColor")
    window.keyboard.press("t")
    assert window.evaluate("getComputedStyle(document.body).backgroundColor") != before
    window.keyboard.press("t")
    window.keyboard.press("/")
    assert window.evaluate("document.activeElement.id") == "search"
    window.keyboard.press("Escape")


def test_a_phone_needs_no_scrolling_sideways(page: Opened) -> None:
    page.page.set_viewport_size({"width": 390, "height": 844})
    page.page.wait_for_timeout(300)
    assert page.page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_page_is_small_and_always_the_same(five_layer_cnn: Case) -> None:
    first, second = program_page(*five_layer_cnn), program_page(*five_layer_cnn)
    assert first == second
    assert len(first) < 3 * MEGABYTE
