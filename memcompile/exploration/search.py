"""Search: many points from the cheapest look at each to all chips of those near the front.

Work goes round by round, and every round decides from all results of those before it, so that neither the number of
workers nor the order in which they finish matters: all points are mapped; one of them measures how the network loses
accuracy by noise; then the points whose place is open get a few chips, more chips, and all chips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from memcompile.errors import UsageError
from memcompile.exploration.iso import Iso
from memcompile.exploration.judging.conditions import Condition, NotApplicableError
from memcompile.exploration.judging.intervals import NetworkCurve
from memcompile.exploration.judging.quantities import ACCURACY, Quantity
from memcompile.exploration.judging.racing import Verdict, front_of, judge
from memcompile.exploration.knobs import Design
from memcompile.exploration.points import Candidate
from memcompile.exploration.results import Row
from memcompile.exploration.runs.executors import Executor
from memcompile.exploration.runs.journal import Journal
from memcompile.exploration.runs.study import Study
from memcompile.exploration.runs.tasks import CURVE_NOISE, Outcome, Task, work
from memcompile.exploration.space import Point
from memcompile.figures import counted
from memcompile.ir.pass_manager import ProgressBar, no_progress

CURVE_RUNS = 20
CURVE_AT = 0.1
"""Sum of the noise of layers that the point which measures the curve is nearest to."""
CHIPS_A_TASK = 4
STAGES = (0.4, 0.7, 1.0)
"""Shares of all chips that points near the front get, round by round, after the first two."""


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    ``chips`` are emulated of each point on the front, 0 for predictions alone; accuracies that differ by ``resolution``
    (0..1) or less count as equal. Points that do not satisfy ``condition`` are left out; ``iso`` gives all points the
    same area, chips or rate. ``least`` is the accuracy from which on a chip is accepted. With ``whole`` nothing is
    dropped.
    """

    chips: int
    quantities: tuple[Quantity, ...]
    resolution: float
    condition: Condition | None = None
    iso: Iso | None = None
    least: float | None = None
    whole: bool = False

    @property
    def stages(self) -> tuple[int, ...]:
        """Numbers of chips that points near the front get, one round after the other."""
        if not self.chips:
            return ()
        if self.whole:
            return (self.chips,)
        return tuple(sorted({min(2, self.chips), *(math.ceil(share * self.chips) for share in STAGES)}))


@dataclass
class Work:
    """Work that was done, and what the whole grid would have been.

    ``seconds`` are of processor time, of this run and those that it resumed.
    """

    chips: int = 0
    all_chips: int = 0
    map_seconds: float = 0.0
    chip_seconds: float = 0.0

    @property
    def saved_share(self) -> float:
        """Share of all chips that were not emulated, 0..1."""
        return 1 - self.chips / self.all_chips if self.all_chips else 0.0


@dataclass(eq=False)
class Search:
    """An exploration under way.

    ``changed`` is called after each result, with a line on what is being done, and tasks done and wanted.
    """

    study: Study
    plan: Plan
    executor: Executor
    journal: Journal
    changed: Callable[[str, int, int], None] = lambda words, done, total: None
    progress: ProgressBar = no_progress
    candidates: dict[str, Candidate] = field(default_factory=dict)
    passing: dict[str, str] = field(default_factory=dict)
    curves: dict[tuple[str, ...], NetworkCurve] = field(default_factory=dict)
    shared: dict[str, Study] = field(default_factory=dict)

    def add(self, points: Iterable[tuple[Point, tuple[int, ...]]], base: Design) -> list[Candidate]:
        """Add points, each with its place among all; of equal designs the first one is kept for both."""
        added = []
        for values, order in points:
            design = base.with_values(values)
            key = self.study.key(design)
            candidate = self.candidates.get(key)
            if candidate is None:
                candidate = self.candidates[key] = Candidate(values, design, key, order)
            added.append(candidate)
        return added

    def run(self) -> None:
        """Map all points and race them to the front.

        Raises
        ------
        MemcompileError
            The journal cannot be written, or the scheduler went away.
        """
        self.map(self.candidates.values())
        if self.plan.iso is not None:
            self._same_level(self.plan.iso)
        self.race()

    def map(self, candidates: Iterable[Candidate]) -> None:
        """Map points that are not mapped yet."""
        self._recall(candidates)
        tasks = [Task("map", item.key, item.design) for item in candidates if item.mapped is None and not item.error]
        self._do("mapping", tasks)
        self._recall(candidates)

    def emulate(self, candidates: Sequence[Candidate], chips: int) -> None:
        """Emulate chips of points, so many of each."""
        for item in candidates:
            item.granted = max(item.granted, chips)
        self._recall(candidates)
        tasks = []
        for item in candidates:
            if item.error or item.mapped is None or item.mapped["continuous"]:
                continue
            seeds = [self.study.seed + number for number in range(chips)]
            missing = [seed for seed in seeds if seed not in item.chips]
            tasks += [
                Task("chips", item.key, item.design, tuple(missing[begin : begin + CHIPS_A_TASK]))
                for begin in range(0, len(missing), CHIPS_A_TASK)
            ]
        self._do(f"emulating {counted(chips, 'chip')}", tasks)
        self._recall(candidates)

    def race(self) -> None:
        """Give chips to points until the front is settled, and mark it."""
        if not (self.plan.chips and self.plan.whole):
            self._measure_curves()
        for chips in self.plan.stages:
            verdict, order = self._judged()
            racing = [
                item
                for item, on, out in zip(order, verdict.on, verdict.out, strict=True)
                if (on or not out or self.plan.whole) and not item.excluded
            ]
            self.emulate(racing, chips)
        self._settle()

    def rows(self) -> list[Row]:
        """Rows of all points, by their place."""
        ordered = sorted(self.candidates.values(), key=lambda item: item.order)
        return [item.row(self.plan.chips, self.plan.least) for item in ordered]

    @property
    def front(self) -> list[Candidate]:
        """Points on the front, by their place."""
        return sorted((item for item in self.candidates.values() if item.on_front), key=lambda item: item.order)

    @property
    def work(self) -> Work:
        """Work that went into the points so far."""
        found = Work()
        for item in self.candidates.values():
            if item.mapped is None:
                continue
            found.map_seconds += item.mapped.get("seconds", 0.0)
            found.chips += len(item.chips)
            found.chip_seconds += sum(chip.get("seconds", 0.0) for chip in item.chips.values())
            found.all_chips += 0 if item.mapped["continuous"] or item.error else self.plan.chips
        return found

    # --- rounds ---

    def _do(self, words: str, tasks: Sequence[Task]) -> None:
        """Run tasks and write down what comes of them."""
        if not tasks:
            return
        self.changed(words, 0, len(tasks))
        with self.progress(words, len(tasks)) as advance:
            for done, outcome in enumerate(self.executor.run(work, self.study, tasks), start=1):
                self._write_down(outcome)
                self.changed(words, done, len(tasks))
                advance(1)

    def _write_down(self, outcome: Outcome) -> None:
        task = outcome.task
        if not outcome.error:
            each = outcome.seconds / max(len(outcome.records), 1)
            self.journal.append({**record, "seconds": each} for record in outcome.records)
            self._recall([self.candidates[task.key]] if task.key in self.candidates else [])
        elif outcome.passing:
            self.passing[task.key] = outcome.error
        else:
            self.journal.append([{"kind": "failed", "key": task.key, "task": task.kind, "error": outcome.error}])

    def _recall(self, candidates: Iterable[Candidate]) -> None:
        """Take what the journal has of points."""
        for item in candidates:
            seeds = range(self.study.seed, self.study.seed + item.granted)
            item.mapped = self.journal.get("map", item.key)
            failed = self.journal.get("failed", item.key)
            item.error = failed["error"] if failed else self.passing.get(item.key, "")
            found = ((seed, self.journal.get("chip", item.key, seed)) for seed in seeds)
            item.chips = {seed: record for seed, record in found if record is not None}
            if item.mapped is not None and item.curve is None:
                item.curve = self.curves.get(tuple(item.mapped["layers"]))

    def _measure_curves(self) -> None:
        """Measure the loss of the network by noise, once for all points with the same layers on arrays."""
        groups: dict[tuple[str, ...], list[Candidate]] = {}
        for item in sorted(self.candidates.values(), key=lambda item: item.order):
            if item.mapped is not None and item.mapped["noise"] and not item.error and sum(item.mapped["noise"]) > 0:
                groups.setdefault(tuple(item.mapped["layers"]), []).append(item)
        measuring: dict[tuple[str, ...], Task] = {}
        for layers, items in groups.items():
            item = min(items, key=lambda item: abs(math.log(sum(item.mapped["noise"]) / CURVE_AT)))  # type: ignore[index]
            assert item.mapped is not None
            scale = 1 / sum(item.mapped["noise"])
            factors = tuple(scale * noise for noise in CURVE_NOISE * (CURVE_RUNS // len(CURVE_NOISE)))
            measuring[layers] = Task("curve", item.key, item.design, factors=factors)
        missing = [task for task in measuring.values() if self.journal.get("curve", task.key) is None]
        self._do("measuring how noise costs accuracy", missing)
        found = {layers: self.journal.get("curve", task.key) for layers, task in measuring.items()}
        self.curves = {layers: NetworkCurve.of(record) for layers, record in found.items() if record is not None}
        self._recall(self.candidates.values())

    def _judged(self) -> tuple[Verdict, list[Candidate]]:
        """Verdict on all points that compete, and these in the order of its flags."""
        order, costs, sure, possible = [], list[list[float]](), list[bool](), list[bool]()
        for item in sorted(self.candidates.values(), key=lambda item: item.order):
            if item.mapped is None or item.error:
                continue
            holds = self._admits(item)
            found = item.costs(self.plan.quantities)
            if found is None:
                missing = [one.name for one in self.plan.quantities if item.facts.get(one.key) is None]
                item.excluded = (
                    f"its target has no constants for {', '.join(name for name in missing if name != 'accuracy')}"
                )
            if item.excluded or found is None:
                continue
            order.append(item)
            costs.append(found)
            sure.append(holds is True)
            possible.append(holds is not False)
        low, high = self._intervals(order)
        shape = (len(order), self._cost_count)
        verdict = judge(
            np.array(costs, np.float64).reshape(shape),
            low,
            high,
            np.array(sure, np.bool_),
            np.array(possible, np.bool_),
            self._resolution,
        )
        for item, number in zip(order, verdict.beaten_by.tolist(), strict=True):
            item.beaten_by = order[number].key if number >= 0 else ""
        return verdict, order

    @property
    def _cost_count(self) -> int:
        return len(self.plan.quantities) - (ACCURACY in self.plan.quantities)

    @property
    def _resolution(self) -> float:
        return self.plan.resolution if ACCURACY in self.plan.quantities else 0.0

    def _intervals(self, order: Sequence[Candidate]) -> tuple[Any, Any]:
        """Ends of the intervals of accuracy, [points] each; all 0 where the front asks nothing of it."""
        if ACCURACY not in self.plan.quantities:
            return np.zeros(len(order)), np.zeros(len(order))
        ends = np.array([item.interval(self.plan.chips) for item in order], np.float64).reshape(-1, 2)
        return ends[:, 0], ends[:, 1]

    def _admits(self, item: Candidate) -> bool | None:
        """Truth of the conditions for a point; notes why where it is false."""
        if self.plan.condition is None:
            return True
        try:
            holds = self.plan.condition.holds(item.known(self.plan.chips))
        except NotApplicableError as missing:
            item.excluded = f"--where asks for {missing}, which it does not have"
            return False
        if holds is False:
            item.excluded = f"does not satisfy {self.plan.condition.text}"
        return holds

    def _settle(self) -> None:
        """Mark the front among the points that are complete."""
        _, order = self._judged()
        complete = [item for item in order if item.is_complete(self.plan.chips)]
        costs = np.array([item.costs(self.plan.quantities) for item in complete], np.float64)
        low, _ = self._intervals(complete)
        admitted = np.array([self._admits(item) is True for item in complete], np.bool_)
        numbers = front_of(costs.reshape(len(complete), self._cost_count), low, admitted, self._resolution)
        for item in self.candidates.values():
            item.on_front = False
        for number in numbers.tolist():
            complete[number].on_front = True
            complete[number].beaten_by = ""

    # --- the same area, chips or rate ---

    def _same_level(self, iso: Iso) -> None:
        """Give each point the chips that make it equal to the others."""
        fewest = [item for item in self.candidates.values() if item.mapped is not None and not item.error]
        if not fewest:
            return
        level = iso.of([item.facts for item in fewest])
        budgets = self._fewest_for(iso, level, fewest)
        kept = {item.key: item for item in self.candidates.values()}
        self.candidates = {}
        for key, item in kept.items():
            if key not in budgets:
                self.candidates[key] = item
                continue
            chips, why = budgets[key]
            if why:
                item.error = why
                self.passing[key] = why
                self.candidates[key] = item
                continue
            self.add([(item.values, item.order)], replace(item.design, chips=chips))
        self.map(self.candidates.values())

    def _fewest_for(self, iso: Iso, level: float, items: Sequence[Candidate]) -> dict[str, tuple[int, str]]:
        """Chips of each point, by key, or the reason why none will do."""
        budgets: dict[str, tuple[int, str]] = {}
        brackets = {item.key: iso.bracket(item.facts, level) for item in items}
        for item in items:
            bracket = brackets[item.key]
            if bracket.why or bracket.chips is not None:
                budgets[item.key] = (bracket.chips or 0, bracket.why)
        while True:
            trials: dict[str, tuple[Candidate, Candidate]] = {}
            for item in items:
                if item.key in budgets:
                    continue
                chips = brackets[item.key].next
                design = replace(item.design, chips=chips)
                key = self.study.key(design)
                trials[item.key] = (item, Candidate(item.values, design, key, item.order))
            if not trials:
                return budgets
            self._tried([trial for _, trial in trials.values()])
            for key, (_, trial) in trials.items():
                bracket = brackets[key] = brackets[key].narrowed(trial.facts, level, trial.error)
                if bracket.why or bracket.chips is not None:
                    budgets[key] = (bracket.chips or 0, bracket.why)

    def _tried(self, trials: list[Candidate]) -> None:
        kept, self.candidates = self.candidates, {item.key: item for item in trials}
        try:
            self.map(trials)
        finally:
            self.candidates = kept


def seconds_words(seconds: float) -> str:
    """A duration for a person."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def check_plan(study: Study, plan: Plan, targets: Mapping[str, Any]) -> None:
    """Raise UsageError where the front asks for what cannot be known."""
    errors = []
    for quantity in plan.quantities:
        for name, target in targets.items():
            section = {"energy": target.energy, "power": target.energy, "area": target.area}.get(quantity.name, True)
            if section is None:
                errors.append(
                    f"{name} gives no constants for {quantity.name}; compare by others with --quantities, or add them "
                    "to a target file"
                )
    if study.dataset.labels is None and ACCURACY in plan.quantities:
        errors.append("accuracy takes data with labels; give --data, or compare by others with --quantities")
    if errors:
        raise UsageError("\n".join(errors))
