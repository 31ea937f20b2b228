"""Executors: who runs tasks, and hands back their outcomes in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from memcompile.exploration.runs.tasks import Outcome, Task

Work = Callable[[Any, Task], Outcome]
"""A function of what all tasks share, and of one of them."""


class Executor(Protocol):
    """Runs tasks on what they share."""

    @property
    def workers(self) -> int:
        """Tasks that run at the same time."""

    def run(self, work: Work, shared: Any, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Outcomes of all tasks, as they come."""

    def close(self) -> None:
        """Give back what was started."""


class InThisProcess:
    """Runs tasks one after the other in this process."""

    workers = 1

    def run(self, work: Work, shared: Any, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Outcomes in the order of the tasks."""
        for task in tasks:
            yield work(shared, task)

    def close(self) -> None:
        """Nothing was started."""
