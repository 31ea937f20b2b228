"""The base of every page: escaping, data, charts, and what stands where plotly is missing."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import pytest
from jinja2 import DictLoader

from memcompile.html import library, page
from memcompile.html.charts import Chart, plain
from memcompile.html.numbers import Numbers

HOSTILE = '</script><img src=x onerror="alert(1)">&'
TEMPLATE = """{% extends "base.html.j2" %}{% block main %}<p>{{ word }} {{ number("/a~1b/0", "count") }}</p>
{{ chart("one") }}{{ chart("absent") }}{% endblock %}"""


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> str:
    environment = page._environment()
    own = DictLoader({"own.html.j2": TEMPLATE})
    monkeypatch.setattr(environment, "loader", _Both(own, environment.loader))
    made = page.Page(HOSTILE, "own.html.j2", {"a/b": [12_345], HOSTILE: HOSTILE})
    made.add_chart(Chart("one", HOSTILE, HOSTILE, [{"type": "bar", "x": [plain(HOSTILE)], "y": [1]}]))
    made.add_chart(None)
    made.add_packed("bytes", b"12345")
    return made.render(word=HOSTILE).decode()


class _Both(DictLoader):
    def __init__(self, *loaders: object) -> None:
        super().__init__({})
        self.loaders = loaders

    def get_source(self, environment, template):  # type: ignore[no-untyped-def]
        first, second = self.loaders
        return (first if template in first.mapping else second).get_source(environment, template)


def test_text_is_escaped_wherever_it_stands(rendered: str) -> None:
    assert "<img" not in rendered
    assert "&lt;/script&gt;&lt;img" in rendered
    scripts = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', rendered, re.DOTALL)
    chart, facts = map(json.loads, scripts)
    assert facts == {"a/b": [12_345], HOSTILE: HOSTILE}
    assert chart["data"][0]["x"] == ['&lt;/script&gt;&lt;img src=x onerror="alert(1)"&gt;&amp;']


def test_numbers_carry_their_key_and_their_value(rendered: str) -> None:
    assert '<data data-key="/a~1b/0" data-form="count" value="12345">12,345</data>' in rendered


def test_absent_values_have_no_number() -> None:
    assert str(Numbers({"a": None}).shown("/a", "count")) == "n/a"


def test_packed_data_come_back(rendered: str) -> None:
    (packed,) = re.findall(r'id="packed-bytes">(.*?)</script>', rendered)
    assert gzip.decompress(base64.b64decode(packed)) == b"12345"


def test_a_page_names_no_address(rendered: str) -> None:
    outside = re.sub(r'id="packed-library">.*?</script>', "", rendered, flags=re.DOTALL)
    assert "http:" not in outside
    assert "https:" not in outside


def test_the_library_is_read_from_the_installed_package(rendered: str) -> None:
    (packed,) = re.findall(r'id="packed-library">(.*?)</script>', rendered)
    assert b"plotly.js v" in gzip.decompress(base64.b64decode(packed))[:200]


@pytest.mark.parametrize("found", [None, "empty"])
def test_without_the_library_there_are_no_charts_to_draw(
    found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(library, "find_spec", lambda name: Spec if found else None)
    library.chart_library.cache_clear()
    try:
        assert library.chart_library() is None
    finally:
        library.chart_library.cache_clear()
