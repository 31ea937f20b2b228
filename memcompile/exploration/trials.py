"""Trials: points that a sampler of Optuna chooses where a grid is too large.

Trials are asked for in batches of one size, and the sampler is seeded anew for each trial, so that what it chooses
depends on the results so far alone: neither on the number of workers nor on how often the exploration was resumed.
They live in Optuna's own storage, where its dashboard and other scripts find them.
"""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

from memcompile.errors import OutputError, UsageError
from memcompile.exploration.judging.quantities import ACCURACY
from memcompile.exploration.knobs import Design, Value
from memcompile.exploration.points import Candidate
from memcompile.exploration.search import Search
from memcompile.exploration.space import Point, Space

INSTALL = "pip install 'memcompile[explore]'"
SAMPLERS = ("tpe", "nsga2")
BATCH = 8
"""Trials that are asked for before any of them is told."""
FEW_CHIPS = 2
"""Chips of a trial; points near the front get all chips at the end."""
POPULATION = 16


def optuna() -> Any:
    """The package ``optuna``, silent.

    Raises
    ------
    UsageError
        It is not installed.
    """
    try:
        import optuna as package  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise UsageError(f"--sampler needs the package optuna: {INSTALL}; or explore the whole grid") from error
    package.logging.set_verbosity(package.logging.ERROR)
    return package


def sample(search: Search, space: Space, base: Design, sampler: str, trials: int, storage: str) -> None:
    """Let a sampler choose points, then race those that it chose to the front.

    Raises
    ------
    UsageError
        There is no such sampler, or the storage holds a study of something else.
    OutputError
        The storage cannot be written.
    """
    package = optuna()
    study = _study(package, search, space, sampler, storage)
    distributions = _distributions(package, space)
    finished = package.trial.TrialState.COMPLETE, package.trial.TrialState.FAIL
    while True:
        started = len(study.get_trials(deepcopy=False))
        batch = _left_over(package, study, distributions)
        # A batch is told when all of it has been asked for.
        end = min(-(-started // BATCH) * BATCH, trials)
        if not batch and started >= end:
            if started >= trials:
                break
            end = min(started + BATCH, trials)
        for number in range(started, end):
            study.sampler = _sampler(package, sampler, search.study.seed, number)
            trial = study.ask(distributions)
            batch.append((trial.number, trial.params))
        _evaluate(package, search, space, base, study, batch)
    points = [_point(space, trial.params) for trial in study.get_trials(deepcopy=False, states=finished)[:trials]]
    search.candidates = {}
    search.add(((point, space.order(point)) for point in points), base)
    search.run()


def _study(package: Any, search: Search, space: Space, sampler: str, storage: str) -> Any:
    if sampler not in SAMPLERS:
        raise UsageError(f"no sampler is called {sampler!r}; there are {', '.join(SAMPLERS)}")
    directions = ["maximize" if item.more_is_better else "minimize" for item in search.plan.quantities]
    try:
        study = package.create_study(
            study_name="memcompile", storage=storage, directions=directions, load_if_exists=True
        )
        of = f"{search.study.digest} {sampler} {[(axis.name, axis.values) for axis in space.axes]}"
        digest = hashlib.sha256(of.encode()).hexdigest()
        held = study.user_attrs.get("memcompile")
        if held is None:
            study.set_user_attr("memcompile", digest)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it is new in Optuna, and may change
                study.set_metric_names([item.name for item in search.plan.quantities])
    except package.exceptions.OptunaError as error:
        raise OutputError(f"Optuna's storage {storage} cannot be used: {error}") from error
    except Exception as error:  # of any database driver
        raise OutputError(f"Optuna's storage {storage} cannot be used: {str(error).splitlines()[0]}") from error
    if held not in (None, digest) or [item.name.lower() for item in study.directions] != directions:
        raise UsageError(
            f"{storage} holds trials of another space, network, sampler or other quantities; choose another folder "
            "with -o, or another --storage"
        )
    return study


def _sampler(package: Any, name: str, seed: int, number: int) -> Any:
    """A sampler for one trial, whose choice depends on the seed, its number and the trials before it alone."""
    own = int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "little")
    if name == "tpe":
        return package.samplers.TPESampler(seed=own, multivariate=False, constant_liar=True)
    return package.samplers.NSGAIISampler(seed=own, population_size=POPULATION)


def _distributions(package: Any, space: Space) -> dict[str, Any]:
    """Whole numbers that follow each other as such, all other values as categories."""
    kinds = package.distributions
    found: dict[str, Any] = {}
    for axis in space.axes:
        values = axis.values
        whole = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
        if len(whole) == len(values) > 1 and whole == list(range(whole[0], whole[0] + len(whole))):
            found[axis.name] = kinds.IntDistribution(whole[0], whole[-1])
        else:
            found[axis.name] = kinds.CategoricalDistribution(values)
    return found


def _left_over(package: Any, study: Any, distributions: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """Trials that were asked for and not told when the process was killed; those without all values are given up."""
    left = []
    for trial in study.get_trials(deepcopy=False, states=(package.trial.TrialState.RUNNING,)):
        if trial.params.keys() == distributions.keys():
            left.append((trial.number, trial.params))
        else:
            study.tell(trial.number, state=package.trial.TrialState.FAIL)
    return left


def _point(space: Space, params: dict[str, Any]) -> Point:
    values: dict[str, Value] = {axis.name: params[axis.name] for axis in space.axes}
    return values


def _evaluate(
    package: Any,
    search: Search,
    space: Space,
    base: Design,
    study: Any,
    batch: list[tuple[int, dict[str, Any]]],
) -> None:
    """Map the points of a batch, emulate a few chips of each, and tell the results in the order of the batch."""
    points = [_point(space, params) for _, params in batch]
    items = search.add(((point, space.order(point)) for point in points), base)
    distinct = list({item.key: item for item in items}.values())
    search.map(distinct)
    search.emulate(distinct, min(FEW_CHIPS, search.plan.chips))
    for (number, _), item in zip(batch, items, strict=True):
        values = _values(search, item)
        if values is None:
            study.tell(number, state=package.trial.TrialState.FAIL)
        else:
            study.tell(number, values)


def _values(search: Search, item: Candidate) -> list[float] | None:
    """Values of a trial; None where a point failed, or lacks a figure."""
    if item.mapped is None or item.error:
        return None
    facts = item.facts
    found = [
        sum(item.interval(search.plan.chips)) / 2 if quantity is ACCURACY else facts.get(quantity.key)
        for quantity in search.plan.quantities
    ]
    return None if any(value is None for value in found) else [float(value) for value in found]  # type: ignore[arg-type]
