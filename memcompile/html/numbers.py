"""Numbers on a page: each with the key of the JSON report it comes from, so that a test can compare the two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memcompile.figures import FORMS, at_key

if TYPE_CHECKING:
    from markupsafe import Markup

NONE = "n/a"
"""Word for a value that is not there."""


def typeset(text: str) -> str:
    """A quantity with the signs that a page has and a terminal may not: µ, and superscripts."""
    return text.replace(" u", " µ").replace("mm2", "mm²")


class Numbers:
    """Numbers of a dictionary of facts, found by JSON pointers (RFC 6901) such as ``/layers/0/tiles``."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts

    def shown(self, key: str, form: str) -> Markup:
        """A number as HTML: its text, and in attributes its key, its form and its value in full."""
        from markupsafe import Markup  # noqa: PLC0415 - comes with jinja2, which few commands need

        value = at_key(self._facts, key)
        if value is None:
            return Markup(NONE)
        return Markup('<data data-key="{}" data-form="{}" value="{}">{}</data>').format(
            key, form, repr(value), typeset(FORMS[form](value))
        )
