"""The base of every page: one HTML file with its style, scripts, data and charts, which loads nothing from elsewhere.

Another page is made like this::

    page = Page("Exploration of cnn.onnx", "explore.html.j2", facts=facts)
    page.add_chart(Chart("pareto", "Energy against steps", "Scatter of 40 mappings ...", traces, layout))
    page.add_data("mappings", rows)
    data = page.render(headline="40 mappings, 7 of them on the front")

with a template in ``templates/`` that extends ``base.html.j2``, fills its blocks ``header`` and ``main``, shows charts
with ``{{ chart("pareto") }}`` and numbers with ``{{ number("/cost/energy_pj", "energy_pj") }}``
(:mod:`memcompile.html.numbers`), and may name further scripts in ``scripts``. Every ``<section id>`` with a ``<h2>``
gets a link in the navigation. All text is escaped. The page's own scripts find plain data with ``page.data(name)`` and
packed data with ``await page.unpacked(name)``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from memcompile.html.charts import Chart
from memcompile.html.library import chart_library, packed_bytes
from memcompile.html.numbers import Numbers
from memcompile.html.page_cache import cache_folder

if TYPE_CHECKING:
    from jinja2 import Environment
    from jinja2.bccache import Bucket
    from markupsafe import Markup


class Page:
    """A page in the making.

    Parameters
    ----------
    title
        Plain text.
    template
        Name of a template that extends ``base.html.j2``.
    facts
        The dictionary behind the numbers of the page, which is embedded as JSON.
    scripts
        Further scripts of ``templates/``, in order.
    """

    def __init__(self, title: str, template: str, facts: Mapping[str, Any], scripts: tuple[str, ...] = ()) -> None:
        self._title = title
        self._template = template
        self._facts = facts
        self._scripts = scripts
        self._charts: dict[str, Chart] = {}
        self._data: dict[str, object] = {"facts": facts}
        self._packed: dict[str, str] = {}

    def add_chart(self, chart: Chart | None) -> None:
        """Add a chart; None, that of data that are not there, adds nothing."""
        if chart is not None:
            self._charts[chart.name] = chart

    def add_data(self, name: str, value: object) -> None:
        """Add data for scripts, as JSON."""
        self._data[name] = value

    def add_packed(self, name: str, data: bytes) -> None:
        """Add bytes for scripts, compressed."""
        self._packed[name] = packed_bytes(data)

    def render(self, **context: object) -> bytes:
        """Make the HTML; ``context`` are further variables of the template."""
        from markupsafe import Markup  # noqa: PLC0415 - comes with jinja2, which few commands need

        template = _environment().get_template(self._template)
        library = chart_library() if self._charts else None
        text = template.render(
            title=self._title,
            facts=self._facts,
            charts=self._charts,
            chart=self._chart,
            number=Numbers(self._facts).shown,
            # Base64 and our own sources have nothing to escape.
            library=None if library is None else Markup(library),
            packed={name: Markup(data) for name, data in self._packed.items()},
            data={name: _json(value) for name, value in self._data.items()},
            styles=Markup(_source("page.css")),
            sources=[Markup(_source(name)) for name in ("page.js", *self._scripts)],
            **context,
        )
        return text.encode("utf-8", "replace")

    def _chart(self, name: str) -> Markup:
        """HTML of a chart; nothing where it was not added."""
        from markupsafe import Markup  # noqa: PLC0415 - only where it is used, for a quick start

        if name not in self._charts:
            return Markup("")
        chart = self._charts[name]
        return Markup(_environment().get_template("chart.html.j2").render(chart=chart, figure=_json(chart.figure)))


def _json(value: object) -> Markup:
    """JSON for a script element, which must not hold the end of one."""
    from markupsafe import Markup  # noqa: PLC0415 - only where it is used, for a quick start

    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


@cache
def _source(name: str) -> str:
    return (resources.files("memcompile.html") / "templates" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import (  # noqa: PLC0415 - only where it is used, for a quick start
        Environment,
        FileSystemBytecodeCache,
        PackageLoader,
        StrictUndefined,
    )

    class Kept(FileSystemBytecodeCache):
        def dump_bytecode(self, bucket: Bucket) -> None:
            with suppress(OSError):  # a page needs no cache
                super().dump_bytecode(bucket)

    folder = cache_folder()
    return Environment(
        loader=PackageLoader("memcompile.html"),
        bytecode_cache=None if folder is None else Kept(str(folder), "template-%s.cache"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
