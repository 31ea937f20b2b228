"""Objects that print in a few lines."""

from __future__ import annotations

import html
from collections.abc import Sequence

MOST_LINES = 10


class Described:
    """Base of objects whose ``repr`` is a line that says what they are, and a few facts; notebooks show the same."""

    def described(self) -> Sequence[str]:
        """Lines, the most important first; those beyond ten are left out."""
        raise NotImplementedError

    def __repr__(self) -> str:
        lines = list(self.described())
        if len(lines) > MOST_LINES:
            lines = [*lines[: MOST_LINES - 1], f"  ... {len(lines) - MOST_LINES + 1} more"]
        return "\n".join(lines)

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        """The text of ``repr`` for notebooks."""
        return f"<pre>{html.escape(repr(self))}</pre>"
