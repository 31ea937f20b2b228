"""One exploration from its options to its results, for the command line and for Python."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memcompile.data.source import Source
from memcompile.errors import UsageError
from memcompile.exploration.iso import Iso
from memcompile.exploration.judging.conditions import NotApplicableError, parse_condition
from memcompile.exploration.judging.quantities import ACCURACY, SUBSTITUTES, USUAL, Quantity, read_quantities
from memcompile.exploration.knobs import Design
from memcompile.exploration.points import Candidate
from memcompile.exploration.results import VARIED, columns, write_results
from memcompile.exploration.runs.executors import Executor, InThisProcess
from memcompile.exploration.runs.journal import Journal, make_folder
from memcompile.exploration.runs.study import Study
from memcompile.exploration.runs.tasks import Task, work
from memcompile.exploration.search import Plan, Search, check_plan, seconds_words
from memcompile.exploration.space import Space, check_base, check_size, read_space
from memcompile.hardware.target import Target, load_target
from memcompile.ir.pass_manager import ProgressBar, no_progress

USUAL_RESOLUTION = 0.005
USUAL_CHIPS = 10
NEAR_THE_FRONT = 0.4
"""Share of points that are expected to get all chips, for the time that is said beforehand."""


@dataclass(frozen=True)
class Asked:
    """Options of an exploration.

    ``varied`` is what :func:`memcompile.exploration.space.read_space` takes; ``chips`` are emulated of each point near
    the front, ``images`` scored at most, and ``resolution`` is a share of right answers. ``quantities`` are names, the
    usual ones when empty. ``sampler`` chooses ``trials`` points of the space with Optuna, kept in ``storage``.
    """

    varied: Sequence[str] | Mapping[str, object]
    base: Design = field(default_factory=Design)
    chips: int = USUAL_CHIPS
    images: int | None = None
    quantities: Sequence[str] = ()
    resolution: float = USUAL_RESOLUTION
    where: str | None = None
    iso: str | None = None
    least: float | None = None
    seed: int = 0
    calibrate: bool = True
    whole: bool = False
    sampler: str | None = None
    trials: int | None = None
    storage: str | None = None


@dataclass(eq=False)
class Exploration:
    """An exploration whose options are checked.

    ``say`` gets lines for the user, ``changed`` what :class:`memcompile.exploration.search.Search` reports, and
    ``progress`` has a bar for each round of tasks.
    """

    asked: Asked
    study: Study
    space: Space
    plan: Plan
    say: Callable[[str], None] = lambda line: None
    changed: Callable[[Search, str, int, int], None] = lambda search, words, done, total: None
    progress: ProgressBar = no_progress
    search: Search | None = field(default=None, repr=False)

    @classmethod
    def of(cls, asked: Asked, read: Callable[[], Source]) -> Exploration:
        """Check options, all at once, before the model and its data are read.

        Raises
        ------
        MemcompileError
            An option, the model or the data are wrong.
        """
        check_base(asked.base)
        space = read_space(asked.varied, asked.base)
        targets = _targets(space, asked.base)
        _check_sampler(asked, space)
        if asked.chips < 0 or not 0 <= asked.resolution < 1:
            raise UsageError("chips are counted from 0, and the resolution is a share from 0 to 1")
        quantities = _quantities(asked, targets)
        iso = None if asked.iso is None else Iso.parse(asked.iso)
        if iso is not None and (asked.base.chips is not None or any(axis.name == "chips" for axis in space.axes)):
            raise UsageError(f"--iso {asked.iso} chooses the chips of each point; leave out --chips and --vary chips")
        study = Study.of(read(), targets, images=asked.images, seed=asked.seed, calibrate=asked.calibrate)
        labelled = study.dataset.labels is not None
        if asked.least is not None and not labelled:
            raise UsageError(f"--accept compares chips by their accuracy, and {study.dataset.name} has no labels")
        chips = asked.chips if labelled else 0
        plan = Plan(chips, quantities, asked.resolution, None, iso, asked.least, asked.whole)
        check_plan(study, plan, targets)
        return cls(asked, study, space, plan)

    def run(self, executor: Callable[[], Executor], folder: Path) -> Search:
        """Explore, and write results to a folder, where an earlier run of the same is taken up.

        Raises
        ------
        MemcompileError
            The folder cannot be written, or the scheduler cannot be reached.
        """
        with ExitStack() as stack:
            make_folder(folder)
            journal = stack.enter_context(Journal(folder / "journal.jsonl", self.study.digest))
            search = Search(self.study, self.plan, InThisProcess(), journal)
            search.changed = lambda words, done, total: self.changed(search, words, done, total)
            search.progress = self.progress
            self.search = search
            first = self._first(search)
            self.plan = search.plan = _with_condition(self.plan, self.asked, first, self.space)
            search.executor = executor()
            stack.callback(search.executor.close)
            self._announce(search, first)
            if self.asked.sampler is None:
                search.add(((point, self.space.order(point)) for point in self.space.points()), self.asked.base)
                search.run()
            else:
                from memcompile.exploration.trials import sample  # noqa: PLC0415 - needs Optuna

                assert self.asked.trials is not None
                storage = self.asked.storage or f"sqlite:///{folder.resolve() / 'study.db'}"
                sample(search, self.space, self.asked.base, self.asked.sampler, self.asked.trials, storage)
            write_results(folder, search.rows())
            return search

    def _first(self, search: Search) -> Candidate:
        """The first point that can be mapped, with one chip of it: keys for conditions, and the time that work takes.

        Raises
        ------
        UsageError
            None of the first few can be mapped.
        """
        tried: list[Candidate] = []
        for point in self._some():
            design = self.asked.base.with_values(point)
            item = Candidate(point, design, self.study.key(design), self.space.order(point))
            search.candidates = {item.key: item}
            search.map([item])
            if item.mapped is not None and self.plan.chips and not item.mapped["continuous"]:
                seed = self.study.seed
                if search.journal.get("chip", item.key, seed) is None:
                    search._write_down(work(self.study, Task("chips", item.key, item.design, (seed,))))
                search.map([item])
            tried.append(item)
            if item.mapped is not None:
                search.candidates = {}
                return item
        search.candidates = {}
        return tried[0]

    def _some(self) -> Iterator[Any]:
        """A few points, spread over the grid."""
        count = min(self.space.size, 3)
        points = list(self.space.points()) if self.space.size <= 1000 else [next(self.space.points())]
        yield from (points[len(points) * number // count] for number in range(min(count, len(points))))

    def _announce(self, search: Search, first: Candidate) -> None:
        """Say how many points there are and how long they will take."""
        count = self.asked.trials if self.asked.sampler else self.space.size
        chips = f", {self.plan.chips} chips of each near the front" if self.plan.chips else ", no chips"
        of = f" of {self.space.size:,}" if self.asked.sampler else ""
        self.say(f"{count:,} points{of}{chips}, {self.study.dataset.count:,} images, {search.executor.workers} workers")
        dashboard = getattr(search.executor, "dashboard", None)
        if dashboard is not None:
            self.say(f"dashboard at {dashboard}")
        if first.mapped is None or count is None:
            return
        record = search.journal.get("chip", first.key, self.study.seed)
        chip_s = 0.0 if record is None else float(record.get("seconds", 0.0)) * self.plan.chips
        seconds = count * (float(first.mapped.get("seconds", 0.0)) + NEAR_THE_FRONT * chip_s) / search.executor.workers
        done = len(search.journal.of_kind("map")) - 1
        resumed = f"; {done:,} points were mapped by an earlier run" if done > 0 else ""
        self.say(f"expected time about {seconds_words(max(seconds, 1.0))}{resumed}")


def _targets(space: Space, base: Design) -> dict[str, Target]:
    names = next((axis.values for axis in space.axes if axis.name == "target"), (base.target,))
    return {str(name): load_target(str(name)) for name in names}


def _check_sampler(asked: Asked, space: Space) -> None:
    if asked.sampler is None:
        if asked.trials is not None or asked.storage is not None:
            raise UsageError(
                "--trials and --storage are for points that a sampler chooses; give --sampler tpe or nsga2"
            )
        check_size(space)
        return
    if asked.trials is None or asked.trials < 1:
        raise UsageError(f"--sampler {asked.sampler} takes a number of points to choose; give --trials N")
    if asked.iso is not None:
        raise UsageError("--iso compares all points of a grid; leave out --iso or --sampler")


def _quantities(asked: Asked, targets: Mapping[str, Target]) -> tuple[Quantity, ...]:
    """Quantities asked for, or the usual ones as far as targets have constants for them."""
    if asked.quantities:
        return read_quantities(asked.quantities)
    known = {
        "energy": all(target.energy is not None for target in targets.values()),
        "area": all(target.area is not None for target in targets.values()),
    }
    return read_quantities([name if known.get(name, True) else SUBSTITUTES[name] for name in USUAL])


def _with_condition(plan: Plan, asked: Asked, first: Candidate, space: Space) -> Plan:
    """The plan with the condition, whose names are looked up in the row of a point.

    Raises
    ------
    UsageError
        The condition is wrong, or there is no point to look at.
    """
    if asked.where is None:
        return plan
    if first.mapped is None:
        raise UsageError(f"--where cannot be checked, because the first points cannot be compiled: {first.error}")
    varied = [f"{VARIED}{axis.name}" for axis in space.axes]
    keys = [*varied, *columns([first.facts]), ACCURACY.key, "predicted.loss"]
    condition = parse_condition(asked.where, keys)
    with suppress(NotApplicableError):  # this point lacks a figure, another may have it
        condition.holds(first.known(plan.chips))  # raises where texts are compared with numbers
    return replace(plan, condition=condition)


@contextmanager
def results_folder(folder: Path | str | None) -> Iterator[Path]:
    """A folder for results: the one given, or one that is gone afterwards."""
    if folder is not None:
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="memcompile-explore-") as name:
        yield Path(name)
