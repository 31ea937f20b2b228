"""The report of a program in a browser: its numbers are those of the JSON, and it loads and leaks nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pytest
from browser import chromium, opened
from places import FIVE_LAYER_CNN

from memcompile.figures import FORMS, at_key
from memcompile.html.numbers import NONE, typeset
from memcompile.html.program_page import Origin, program_page
from memcompile.ir.graph import MappedLayer
from memcompile.pipelines import compile_model
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
def five_layer_cnn() -> Case:
    """With everything that an evaluation can tell."""
    explanation = Explanation()
    compilation = compile_model(FIVE_LAYER_CNN, instruments=(explanation,), check=False)
    explanation.weigh(compilation.multiply_adds)
    program = compilation.program
    found = evaluate(program, compilation.model, compilation.dataset, images=40, seeds=2)
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


CASES = ("five_layer_cnn", "segmented", "hostile", "digital")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_number_of_the_page_is_that_of_the_report(
    case: str, browser: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    program, facts = request.getfixturevalue(case)
    path = tmp_path / "page.html"
    path.write_bytes(program_page(program, facts, Origin("memcompile net.onnx")))
    with opened(browser, path) as found:
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
        assert found.page.evaluate("window.hacked") is None
        assert len(shown) >= 50 * bool(facts["layers"])
        sections = found.page.evaluate("[...document.querySelectorAll('main section')].map(e => e.id)")
    has = {
        "accuracy": facts["accuracy"],
        "losses": facts["error_budget"],
        "floor-plan": facts["layers"],
        "schedule": facts["layers"],
        "layers": facts["layers"],
        "bounds": facts["certificates"],
        "cost": facts["layers"],
    }
    assert sections == [*(name for name, data in has.items() if data), "network", "target", "origin"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(scheme: str, browser: Any, five_layer_cnn: Case, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    path = tmp_path / "page.html"
    path.write_bytes(program_page(*five_layer_cnn))
    with opened(browser, path, scheme=scheme) as found:
        results = axe.Axe().run(found.page).response["violations"]
    serious = [
        (item["id"], [node["html"] for node in item["nodes"]][:3])
        for item in results
        if item["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.slow
def test_canvases_zoom_from_the_system_to_a_cell(browser: Any, five_layer_cnn: Case, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(program_page(*five_layer_cnn))
    with opened(browser, path) as found:
        page = found.page
        plan = page.locator("#plan")
        plan.scroll_into_view_if_needed()
        page.wait_for_timeout(100)
        whole = plan.screenshot()
        box = plan.bounding_box()
        page.locator("[data-plan=array]").click()
        page.wait_for_timeout(100)
        array = plan.screenshot()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        words = page.locator("#plan-status").inner_text()
        page.locator("[data-plan=cell]").click()
        page.wait_for_timeout(100)
        cells = plan.screenshot()
        page.fill("#search", "FC")
        dimmed = page.evaluate("[...document.querySelectorAll('#layers tr.dim th')].map(e => e.textContent)")
        page.locator("[data-schedule=alone]").click()
        page.locator("#gantt").hover()
        step = page.locator("#gantt-status").inner_text()
        assert found.errors == []
    assert len({whole, array, cells}) == 3
    assert "target" in words
    assert "programmed" in words
    assert "% of its cells used" in words
    assert dimmed == ["C1", "C3"]
    assert "step" in step


@pytest.mark.slow
def test_a_phone_needs_no_scrolling_sideways(browser: Any, five_layer_cnn: Case, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(program_page(*five_layer_cnn))
    with opened(browser, path, width=390, height=844) as found:
        assert found.page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_page_is_small_and_always_the_same(five_layer_cnn: Case) -> None:
    first, second = program_page(*five_layer_cnn), program_page(*five_layer_cnn)
    assert first == second
    assert len(first) < 3 * MEGABYTE
