"""``python -m memcompile`` and the console command: listens to signals before the slow imports."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End at once: nothing is under way yet."""
    os._exit(128 + number)


def run() -> NoReturn:
    """Console entry point."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as for a job in the background
            signal.signal(number, _leave)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever called
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process lives
    from memcompile.cli.overview import HELP, print_overview  # noqa: PLC0415 - signals come first

    if sys.argv[1:] in HELP:
        with suppress(OSError):  # an output that cannot be written gets its message below
            print_overview()
            sys.exit(0)
    waits = sys.stderr.isatty() and "--quiet" not in sys.argv and os.environ.get("TERM") != "dumb"
    if waits:
        sys.stderr.write("loading memcompile ...")
        sys.stderr.flush()
    from memcompile.cli.main import main  # noqa: PLC0415 - slow to import; signals come first
    from memcompile.frontend.sandbox import allow_fork  # noqa: PLC0415 - as above

    if waits:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
    for number, handler in before.items():
        signal.signal(number, handler)
    allow_fork()
    sys.exit(main())


if __name__ == "__main__":
    run()
