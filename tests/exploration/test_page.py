"""The page of an exploration: every row in it, names of strangers escaped, and nothing loaded from elsewhere."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from explorations import explored

from memcompile.exploration.effects import main_effects
from memcompile.exploration.judging.quantities import QUANTITIES
from memcompile.exploration.page import exploration_page, write_exploration_page
from memcompile.exploration.search import Search


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    return explored(
        tmp_path_factory.mktemp("page"),
        varied=("adc.bits=6,8", "slices=1,2"),
        chips=2,
        where="slices < 2 or energy < 5000",
    )


def facts_of(text: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data-facts">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def test_rows_of_the_page_are_those_of_the_results(search: Search) -> None:
    facts = facts_of(exploration_page(search, "model.onnx").decode())
    for row, wanted in zip(facts["rows"], search.rows(), strict=True):
        assert row["point"] == wanted["point"]
        assert row["front"] == wanted["front"]
        assert row["figures"]["energy"] == wanted["cost.energy_pj"]
        assert row["excluded"] == (wanted["status"] == "excluded")
        if wanted["status"] == "measured":
            assert row["figures"]["accuracy"] == pytest.approx(wanted["accuracy.emulated_mean"])


def test_the_front_has_commands_and_the_rest_its_reasons(search: Search) -> None:
    text = exploration_page(search, "a model.onnx", ["--data", "x.npz"]).decode()
    for item in search.front:
        assert f"--set adc.bits={item.values['adc.bits']}" in text
    assert "memcompile &#39;a model.onnx&#39; --target yao2020" in text
    assert "does not satisfy slices &lt; 2" in text
    assert "https://" not in re.sub(r'<script type="application/octet-stream".*?</script>', "", text, flags=re.DOTALL)


def test_a_name_from_a_file_of_a_stranger_is_text(search: Search) -> None:
    evil = replace(search, study=replace(search.study, name="<script>alert(1)</script>.onnx"))
    evil.candidates = search.candidates
    text = exploration_page(evil, "</script><script>alert(2)</script>").decode()
    assert "<script>alert" not in text


def test_the_same_results_are_the_same_page(search: Search, tmp_path: Path) -> None:
    write_exploration_page(tmp_path / "explore.html", search, "model.onnx")
    assert (tmp_path / "explore.html").read_bytes() == exploration_page(search, "model.onnx")


def test_main_effects_are_means(search: Search) -> None:
    (effect,) = main_effects(list(search.candidates.values()), [QUANTITIES["energy"]], 2)
    energies = {(row["vary.adc.bits"], row["vary.slices"]): row["cost.energy_pj"] for row in search.rows()}
    assert effect.means["slices"]["1"] == pytest.approx((energies[6, 1] + energies[8, 1]) / 2)
    assert effect.strongest == "adc.bits"
