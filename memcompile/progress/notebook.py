"""The line in a notebook, and the progress of functions that are given none."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from memcompile.ir.pass_manager import Advance, ProgressBar, no_progress
from memcompile.progress.phases import Phases, minutes

LEAST_S = 0.2
"""Time between two updates of the line."""
NOTEBOOK_SHELL = "ZMQInteractiveShell"
"""Shell of IPython that has a notebook in front of it; others are made from it."""


class NotebookLine:
    """Progress as one line under a cell, which in the end says how long all took.

    Parameters
    ----------
    display
        ``IPython.display.display``.
    plan
        Names of the phases in order.
    """

    def __init__(self, display: Any, plan: Sequence[str] = ()) -> None:
        self.phases = Phases(self._changed, plan)
        self._shown_s = 0.0
        self._handle = display(_Line(""), display_id=True)

    @contextmanager
    def __call__(self, description: str, total: int) -> Iterator[Advance]:
        with self.phases(description, total) as advance:
            yield advance

    def close(self, ended: str) -> None:
        """Say how long it took, after ``ended``."""
        self._handle.update(_Line(f"{ended} after {minutes(self.phases.elapsed_s)}"))

    def _changed(self, begins: bool) -> None:
        now_s = self.phases.elapsed_s
        if begins or now_s - self._shown_s > LEAST_S:
            self._handle.update(_Line(f"{self.phases.words}, {minutes(now_s)}", self.phases.share))
            self._shown_s = now_s


class _Line:
    """A line of text with a bar before it while work goes on."""

    def __init__(self, words: str, share: float | None = None) -> None:
        self._words, self._share = words, share

    def __repr__(self) -> str:
        return self._words

    def _repr_html_(self) -> str:
        bar = "" if self._share is None else f'<progress value="{self._share:.3f}"></progress> '
        return f"{bar}<code>{html.escape(self._words)}</code>"


@contextmanager
def shown(given: ProgressBar | None, plan: Sequence[str]) -> Iterator[ProgressBar]:
    """The given progress; without one a line where a notebook shows it, and nothing elsewhere."""
    if given is not None:
        yield given
        return
    display = _display()
    if display is None:
        yield no_progress
        return
    line = NotebookLine(display, plan)
    try:
        yield line
    except BaseException:
        line.close("stopped")
        raise
    line.close("done")


def _display() -> Any:
    """``IPython.display.display`` in a notebook, None elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or NOTEBOOK_SHELL not in {kind.__name__ for kind in type(shell).__mro__}:
        return None
    from IPython.display import display  # noqa: PLC0415 - it is there, for this is a notebook

    return display
