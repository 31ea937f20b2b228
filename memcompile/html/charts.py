"""Charts of a page: traces and layout for plotly.js, which draws them in the reader's browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#a69a00", "#7a6fd0")
"""Colours that people with any colour vision tell apart (Okabe and Ito, the yellow darkened and one added)."""


@dataclass(frozen=True)
class Chart:
    """One chart, as plotly's dictionaries.

    ``name`` is unique on its page, ``title`` is shown above, and ``words`` say for those who cannot see the chart what
    is in it. Colours of text and axes follow the page. Text in traces goes through :func:`plain`.
    """

    name: str
    title: str
    words: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    height: int = 320
    """In CSS pixels."""

    @property
    def figure(self) -> dict[str, Any]:
        """What the page hands to plotly."""
        return {"data": list(self.traces), "layout": dict(self.layout)}


def plain(text: str) -> str:
    """Text for a trace: plotly reads ``<`` and ``&`` as HTML, and names come from files of strangers."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def colour_of(number: int) -> str:
    """Colour of a layer, or of a series; they begin again after eight."""
    return COLOURS[number % len(COLOURS)]
