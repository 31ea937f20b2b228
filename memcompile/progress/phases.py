"""Phases of work: their names, which of them is under way, how far it is, and how long it will take.

A bar of :data:`memcompile.ir.pass_manager.ProgressBar` that opens while no other is open is a phase; bars that open
within it are details of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from memcompile.ir.pass_manager import Advance

READ_MODEL = "reading model and data"
QUANTISE = "quantising layers"
MAP_FRONT = "mapping the front"
MAP = "mapping layers"
CHECK = "checking against onnxruntime"
SCORE = "scoring on ideal devices"
EMULATE = "emulating chips"
EXPLAIN_LOSS = "finding causes of loss"
TUNE_CHIPS = "tuning chips"
WRITE_REPORT = "writing the report"
READ_PROGRAM = "reading program and data"
FIT_LINES = "fitting output lines"
RUN = "running"
AGE = "aging chips"
WRITE_CELLS = "writing cells"
MEASURE = "measuring"
TUNE = "tuning"
SCORE_CHIP = "scoring the chip"

READING = (READ_MODEL, READ_PROGRAM)
"""Phases in which most mistakes show."""
COMPILING = (READ_MODEL, QUANTISE, MAP, CHECK)
"""Phases of compiling a model."""
EVALUATING = (SCORE, EMULATE, EXPLAIN_LOSS)
"""Phases of measuring a program; without labels there is nothing to score or to explain."""
TUNING = (WRITE_CELLS, MEASURE, TUNE)
"""Phases of tuning a chip."""

SURE_SHARE = 0.02
"""Part of a phase after which the time that it takes is extrapolated."""


@dataclass
class Bar:
    """Counted work: what is done, of how much, since when."""

    description: str
    total: int
    begin_s: float
    done: int = 0

    @property
    def share(self) -> float:
        """Part that is done, 0..1."""
        return min(self.done / self.total, 1.0) if self.total > 0 else 0.0


@dataclass
class Phases:
    """A progress bar of many phases.

    Parameters
    ----------
    changed
        Called when bars open, advance and close, with True if another phase has begun.
    plan
        Names of the phases in order, of which some may be left out; phases that it does not name have no number.
    clock
        Seconds since any moment.
    """

    changed: Callable[[bool], None]
    plan: Sequence[str] = ()
    clock: Callable[[], float] = time.monotonic
    remark: str = ""
    """Further words on what is being done."""
    phase: str = ""
    """Name of the last phase that began."""
    _open: tuple[Bar, ...] = ()
    _begin_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._begin_s = self.clock()

    @contextmanager
    def __call__(self, description: str, total: int) -> Iterator[Advance]:
        """Open a bar, which is a phase if no other is open."""
        bar = Bar(description, total, self.clock())
        self._open = (*self._open, bar)
        begins = len(self._open) == 1 and description != self.phase
        if begins:
            self.phase = description

        def advance(done: int) -> None:
            bar.done += done
            self.changed(False)

        try:
            self.changed(begins)
            yield advance
        finally:
            self._open = tuple(other for other in self._open if other is not bar)
            self.remark = ""
            self.changed(False)

    @property
    def elapsed_s(self) -> float:
        """Seconds since this was made."""
        return self.clock() - self._begin_s

    @property
    def left_s(self) -> float | None:
        """Expected seconds until the end of the phase; None where too little of it is done to say."""
        for bar in self._open[:1]:
            if SURE_SHARE <= bar.share < 1.0:
                return (self.clock() - bar.begin_s) * (1.0 / bar.share - 1.0)
        return None

    @property
    def share(self) -> float:
        """Part of the planned phases that is done, 0..1."""
        if self.phase not in self.plan:
            return 0.0
        within = sum(bar.share for bar in self._open[:1])
        return (self.plan.index(self.phase) + within) / len(self.plan)

    @property
    def name(self) -> str:
        """The phase with its number, such as ``phase 3 of 6: mapping layers``."""
        if self.phase not in self.plan:
            return self.phase
        return f"phase {self.plan.index(self.phase) + 1} of {len(self.plan)}: {self.phase}"

    @property
    def words(self) -> str:
        """The phase, the time that is left of it, and what is being done within it."""
        left = self.left_s
        expected = "" if left is None else f" ({minutes(left)} left)"
        return ", ".join(filter(None, (f"{self.name}{expected}", self._detail())))

    def _detail(self) -> str:
        bars = self._open
        if self.remark or not bars:
            return self.remark
        bar = bars[-1]
        counted = f"{bar.done:,} of {bar.total:,}" if bar.total > 1 else ""
        inner = bar.description if len(bars) > 1 else ""
        return " ".join(filter(None, (inner, counted)))


def minutes(seconds: float) -> str:
    """A time such as 0:07, 12:30 or 1:02:03."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
