"""SIGINT and SIGTERM end a command in order: temporary files go, and the exit code is 128 and the signal's number."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

AGAIN_S = 0.01
"""Time after which an ending that was ignored is tried again, in seconds."""


class Ended(SystemExit):
    """End of a command that a signal asked for."""


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Turn a signal into an exception, so that temporary files are removed on the way out."""
    # A second signal must not cut that short.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Ended(128 + number)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have signals end what runs meanwhile; a job in the background goes on ignoring SIGINT."""
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        numbers.append(signal.SIGINT)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in numbers:
        signal.signal(number, _end)
    try:
        with _trying_again():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _trying_again() -> Iterator[None]:
    """Raise an ending again that came where Python ignores exceptions, such as while it frees an object."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    others, alarm = sys.unraisablehook, signal.getsignal(signal.SIGALRM)

    def ignored(what: UnraisableHookArgs) -> None:
        ended = what.exc_value
        if not isinstance(ended, Ended):
            others(what)
            return
        code = ended.code

        def end(number: int, frame: FrameType | None) -> NoReturn:
            raise Ended(code)

        signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)

    sys.unraisablehook = ignored
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        sys.unraisablehook = others
