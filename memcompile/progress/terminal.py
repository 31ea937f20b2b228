"""The line in a terminal, which is written again and again, and the lines in a pipe, one a phase."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO
from weakref import WeakSet

from memcompile.ir.pass_manager import Advance
from memcompile.progress.phases import READING, Phases, minutes

TICK_S = 0.25
"""Interval at which the line is written again."""
USUAL_WIDTH = 80
BAR_WIDTH = 12
THREAD = "memcompile progress"
FEWEST_COLUMNS = 40
"""Below this there is no room for the bar."""
ERASE_TO_END = "\x1b[K"


class PlainLines:
    """Progress as lines of text, one when a phase begins.

    That of reading comes when the next one begins, so that a mistake in what is read is one message and nothing else.
    """

    def __init__(self, plan: Sequence[str] = (), stream: TextIO | None = None) -> None:
        self.phases = Phases(self._changed, plan)
        self._stream = stream or sys.stderr
        self._held = ""

    @contextmanager
    def __call__(self, description: str, total: int) -> Iterator[Advance]:
        with self.phases(description, total) as advance:
            yield advance

    def _changed(self, begins: bool) -> None:
        if begins:
            self.say(self.phases.name, at_once=self.phases.phase not in READING)

    def say(self, words: str, at_once: bool = True) -> None:
        """Write a line with the time that has passed, now or before the next one."""
        self._held += f"{words} (after {minutes(self.phases.elapsed_s)})\n"
        if not at_once:
            return
        with suppress(OSError, ValueError):  # nobody reads it any more
            self._stream.write(self._held)
            self._stream.flush()
        self._held = ""

    def remark(self, words: str) -> None:
        """Nothing: what lasts for moments is no line."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing: lines are in nobody's way."""
        yield

    def close(self) -> None:
        """Nothing: lines stay."""


class TerminalLine:
    """Progress as one line at the bottom of a terminal, from the first phase until it is closed.

    A thread writes it again while the work is at one thing. It stands still while the process forks: a lock that a
    thread holds would stay locked in the child. This is why the line is not one of rich, whose threads cannot be
    waited for.
    """

    def __init__(self, plan: Sequence[str] = (), stream: TextIO | None = None) -> None:
        self.phases = Phases(self._changed, plan)
        self._stream = stream or sys.stderr
        self._shown = ""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._begun = False

    @contextmanager
    def __call__(self, description: str, total: int) -> Iterator[Advance]:
        with self.phases(description, total) as advance:
            yield advance

    def remark(self, words: str) -> None:
        """Add words on what the work is at just now."""
        self.phases.remark = words
        self._write()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the line away while something else is printed."""
        self.stand_still()
        with self._lock:
            self._put("")
        try:
            yield
        finally:
            self.go_on()

    def close(self) -> None:
        """Take the line away for good."""
        self._begun = False
        _under_way.discard(self)
        self.stand_still()
        with self._lock:
            self._put("")

    def text(self, columns: int) -> str:
        """The line, no longer than a number of columns."""
        elapsed = f"  {minutes(self.phases.elapsed_s)}"
        wide = columns >= FEWEST_COLUMNS and self.phases.plan
        bar = f"{_bar(self.phases.share, self._stream.encoding)} " if wide else ""
        room = max(columns - len(bar) - len(elapsed), 0)
        words = self.phases.words
        if len(words) > room:
            words = f"{words[: max(room - 3, 0)]}..."[:room]
        return f"{bar}{words:<{room}}{elapsed}"[:columns]

    def _changed(self, begins: bool) -> None:
        if begins:
            self._write()
        if not self._begun:
            self._begun = True
            _under_way.add(self)
            self.go_on()

    def _write(self) -> None:
        columns = _columns(self._stream)
        with self._lock:
            self._put(self.text(columns - 1))

    def _put(self, text: str) -> None:
        """Write the line if it is another one; nothing in place of what is not there."""
        if text == self._shown:
            return
        with suppress(OSError, ValueError):  # the terminal is gone
            self._stream.write(f"\r{text}{ERASE_TO_END}")
            self._stream.flush()
        self._shown = text

    def go_on(self) -> None:
        """Write the line now and then."""
        if not self._begun or self._thread is not None:
            return
        self._ended.clear()
        self._thread = threading.Thread(target=self._tick, name=THREAD, daemon=True)
        self._thread.start()

    def stand_still(self) -> None:
        """Wait until nothing is being written, and write nothing by itself."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None

    def _tick(self) -> None:
        # Signals are for the main thread, whose waiting they end.
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        while not self._ended.wait(TICK_S):
            self._write()


def _bar(share: float, encoding: str | None) -> str:
    """A bar of fixed width, in letters that the encoding has."""
    done, rest = "━─"
    try:
        done.encode(encoding or "ascii")
    except UnicodeEncodeError:
        done, rest = "#-"
    filled = round(BAR_WIDTH * share)
    return done * filled + rest * (BAR_WIDTH - filled)


def _columns(stream: TextIO) -> int:
    """Columns of a terminal."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or USUAL_WIDTH
    except (OSError, ValueError):
        return USUAL_WIDTH


_under_way: WeakSet[TerminalLine] = WeakSet()
"""Lines whose thread runs, or stands still while the process forks."""


def _stand_still() -> None:
    for line in tuple(_under_way):
        line.stand_still()


def _go_on() -> None:
    for line in tuple(_under_way):
        line.go_on()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_stand_still, after_in_parent=_go_on)
