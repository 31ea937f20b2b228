"""Small explorations for tests: a classifier of digits on a small grid, and executors that behave badly."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from models import digit_samples, small_digits

from memcompile.data.source import Source, read_source
from memcompile.exploration.exploration import Asked, Exploration
from memcompile.exploration.knobs import Design
from memcompile.exploration.runs.executors import InThisProcess, Work
from memcompile.exploration.runs.tasks import Outcome, Task
from memcompile.exploration.search import Search

GRID = ("adc.bits=6,8", "slices=1,2", "programming.sigma_us=0.2,2.0")
SMALL = Asked(
    GRID, Design(settings=(("replicate.effort", "fast"),)), chips=4, images=150, resolution=0.01, calibrate=False
)


@cache
def source() -> Source:
    """The classifier and its samples."""
    return read_source(small_digits(), data=digit_samples())


def explored(folder: Path, asked: Asked = SMALL, executor: Any = None, **changes: Any) -> Search:
    """Run an exploration."""
    exploration = Exploration.of(replace(asked, **changes), source)
    return exploration.run(lambda: executor or InThisProcess(), folder)


def results(folder: Path) -> bytes:
    """Both files of results."""
    return (folder / "results.jsonl").read_bytes() + (folder / "results.csv").read_bytes()


class Shuffled:
    """Hands back outcomes in a random order."""

    workers = 3

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def run(self, work: Work, shared: Any, tasks: Iterable[Task]) -> Iterator[Outcome]:
        left = list(tasks)
        self._random.shuffle(left)
        return (work(shared, task) for task in left)

    def close(self) -> None:
        pass


class KilledError(Exception):
    """Stands for kill -9 of the client."""


class Killer(Shuffled):
    """Dies after some outcomes."""

    def __init__(self, seed: int, after: int) -> None:
        super().__init__(seed)
        self._left = after

    def run(self, work: Work, shared: Any, tasks: Iterable[Task]) -> Iterator[Outcome]:
        for outcome in super().run(work, shared, tasks):
            if self._left == 0:
                raise KilledError
            self._left -= 1
            yield outcome


class Counting:
    """Counts tasks by kind, and fails those that a test names."""

    workers = 1

    def __init__(self, fails: Callable[[Task], str] = lambda task: "") -> None:
        self.done: list[Task] = []
        self._fails = fails

    def run(self, work: Work, shared: Any, tasks: Iterable[Task]) -> Iterator[Outcome]:
        for task in tasks:
            self.done.append(task)
            message = self._fails(task)
            yield Outcome(task, error=message) if message else work(shared, task)

    def close(self) -> None:
        pass


def napping(shared: float, task: Task) -> Outcome:
    """Work that takes a while and little else: which process did it, and how often it was begun."""
    if task.options.get("deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(shared)
    return Outcome(task, ({"kind": "chip", "key": task.key, "seed": 0, "process": os.getpid()},))


def naps(count: int, **options: Any) -> list[Task]:
    """Tasks for it."""
    return [Task("chips", f"nap{number}", Design(), options=options) for number in range(count)]
