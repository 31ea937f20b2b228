"""The line under a notebook's cell; IPython itself is replaced by what is used of it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import models
import pytest

import memcompile
from memcompile.errors import UsageError
from memcompile.ir.pass_manager import no_progress
from memcompile.progress.notebook import shown


class ZMQInteractiveShell:
    """The name that IPython's shell has behind a notebook."""


class ColabShell(ZMQInteractiveShell):
    """A shell made from it."""


class Handle:
    """Handle of a display: keeps what was shown."""

    def __init__(self, first: Any) -> None:
        self.texts = [repr(first)]
        self.pages = [first._repr_html_()]

    def update(self, item: Any) -> None:
        self.texts.append(repr(item))
        self.pages.append(item._repr_html_())


@pytest.fixture
def displays(monkeypatch: pytest.MonkeyPatch) -> list[Handle]:
    """A notebook; returns what cells show."""
    handles: list[Handle] = []

    def display(item: Any, display_id: bool) -> Handle:
        assert display_id
        handles.append(Handle(item))
        return handles[-1]

    ipython, of_display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = ColabShell  # type: ignore[attr-defined]
    of_display.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", of_display)
    return handles


def test_functions_show_a_line_in_a_notebook(displays: list[Handle]) -> None:
    program = memcompile.compile(models.conv_bn(), effort="fast")
    memcompile.evaluate(program, models.conv_bn(), chips=1, images=4)
    compiled, measured = displays
    assert any(text.startswith("phase 3 of 4: mapping layers, ") for text in compiled.texts)
    assert any('<progress value="0.500"></progress> <code>phase 3 of 4' in page for page in compiled.pages)
    assert any("of 3: emulating chips" in text for text in measured.texts)
    assert [handle.texts[-1].rpartition(" ")[0] for handle in displays] == ["done after", "done after"]


def test_an_exploration_shows_one_line_for_all_its_rounds(displays: list[Handle]) -> None:
    memcompile.explore(
        models.small_digits(),
        models.digit_samples(),
        vary={"adc.bits": (6, 8)},
        settings=("replicate.effort=fast",),
        chips_sampled=2,
        images=50,
        calibrate=False,
        workers=0,
    )
    (line,) = displays
    shown_phases = " ".join(line.texts)
    for words in ("mapping", "measuring how noise costs accuracy", "emulating 1 chip", "emulating 2 chips"):
        assert words in shown_phases
    assert line.texts[-1].startswith("done after ")


def test_a_failure_stops_it(displays: list[Handle]) -> None:
    with pytest.raises(UsageError), shown(None, ("a",)) as bar, bar("a <b>", 3):
        raise UsageError("no")
    (handle,) = displays
    assert any("a &lt;b&gt;" in page for page in handle.pages)
    assert handle.texts[-1].startswith("stopped after ")


def test_own_progress_comes_first(displays: list[Handle]) -> None:
    seen: list[str] = []

    def own(description: str, total: int) -> Any:
        seen.append(description)
        return no_progress(description, total)

    memcompile.compile(models.conv_bn(), effort="fast", progress=own)
    assert seen[0] == "reading model and data"
    assert displays == []


@pytest.mark.parametrize("shell", [type("TerminalInteractiveShell", (), {}), lambda: None])
def test_other_shells_show_nothing(shell: Any, displays: list[Handle], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", shell)
    with shown(None, ("a",)) as bar:
        assert bar is no_progress
    assert displays == []
