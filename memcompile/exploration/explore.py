"""``memcompile.explore``: explorations from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from memcompile.data.loader import Data
from memcompile.data.source import read_source
from memcompile.exploration.exploration import USUAL_CHIPS, USUAL_RESOLUTION, Asked, Exploration, results_folder
from memcompile.exploration.knobs import Design
from memcompile.exploration.results import completed
from memcompile.exploration.runs.executors import Executor, InThisProcess
from memcompile.frontend.sources import Network
from memcompile.ir.pass_manager import ProgressBar
from memcompile.ir.slicing import SliceChoice
from memcompile.pipelines import DEFAULT_TARGET
from memcompile.progress.notebook import shown
from memcompile.report.acceptance import accuracy_share


def explore(  # noqa: PLR0913 - its options are those of the command line
    model: Network,
    data: Data = None,
    *,
    vary: Mapping[str, object] | Sequence[str],
    target: str = DEFAULT_TARGET,
    chips: int | None = None,
    slices: int | str = 1,
    slice_base: int | None = None,
    max_loss: float | None = None,
    settings: Sequence[str] = (),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    frozen_inputs: Mapping[str, ArrayLike] | None = None,
    example_inputs: Sequence[Any] | None = None,
    chips_sampled: int = USUAL_CHIPS,
    images: int | None = None,
    quantities: Sequence[str] = (),
    resolution: float = USUAL_RESOLUTION,
    where: str | None = None,
    iso: str | None = None,
    accept: float | str | None = None,
    sampler: str | None = None,
    trials: int | None = None,
    storage: str | None = None,
    seed: int = 0,
    calibrate: bool = True,
    client: Any = None,
    workers: int | None = None,
    scheduler: str | None = None,
    folder: Path | str | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: ProgressBar | None = None,
) -> Any:
    """Compile and emulate many designs, with work where the front of the best is.

    Parameters
    ----------
    model, data, mean, std, input_shapes, frozen_inputs, example_inputs
        As for :func:`memcompile.compile`.
    vary
        Values by the name of what varies: ``target``, options such as ``slices``, ``max_loss``, ``optimise`` or
        ``effort``, fields of targets such as ``adc.bits``, options of passes. Values are a sequence, or a text such as
        ``"4..10"``.
    target, chips, slices, slice_base, max_loss, settings
        Of all points, where they do not vary.
    chips_sampled
        Chips emulated of each point on the front, of seeds ``seed``, ``seed + 1``, ...; 0 predicts accuracy alone.
    images
        Samples scored at most; 1,000 when None.
    quantities
        Two or more names that the front is of: accuracy, energy, area, rate, latency, chips, arrays, cells, power.
    resolution
        Difference of accuracy, 0..1, up to which designs count as equal.
    where
        Condition that points have to satisfy, such as ``"energy_uj < 2 and accuracy > 97%"``.
    iso
        ``area``, ``chips`` or ``rate``, at which all points are to be equal, perhaps with a number: ``"area=25"``.
    accept
        Accuracy from which on a chip is accepted.
    sampler, trials, storage
        ``tpe`` or ``nsga2``: Optuna chooses so many points, and keeps them in its storage.
    client
        Client of Dask to run on.
    workers
        Worker processes on this machine otherwise; 0 for this process alone, one a processor when None.
    scheduler
        Address of Dask's scheduler.
    folder
        Folder for results, in which a killed exploration resumes; none are kept when None.
    say
        Gets lines for the user.
    progress
        As for :func:`memcompile.compile`.

    Returns
    -------
    pandas.DataFrame or list of dict
        A row a point in the order of the grid, with the keys of ``results.csv``; a DataFrame where pandas is installed.

    Raises
    ------
    MemcompileError
        Anything is wrong with the options, the model, the data or the cluster.
    """
    base = Design(target, chips, SliceChoice.of(slices).value, slice_base, max_loss, _pairs(settings))
    asked = Asked(
        vary,
        base,
        chips=chips_sampled,
        images=images,
        quantities=quantities,
        resolution=resolution,
        where=where,
        iso=iso,
        least=None if accept is None else accuracy_share(accept),
        seed=seed,
        calibrate=calibrate,
        sampler=sampler,
        trials=trials,
        storage=storage,
    )
    source = lambda: read_source(  # noqa: E731
        model,
        data=data,
        mean=mean,
        std=std,
        input_shapes=input_shapes,
        frozen_inputs=frozen_inputs,
        example_inputs=example_inputs,
        seed=seed,
    )
    exploration = Exploration.of(asked, source)
    exploration.say = say
    with shown(progress, ()) as bar, results_folder(folder) as place:
        exploration.progress = bar
        search = exploration.run(lambda: executor_of(workers, scheduler, client), place)
        return as_table(search.rows())


def executor_of(
    workers: int | None, scheduler: str | None, client: Any = None, dashboard: str | None = None
) -> Executor:
    """The executor that options ask for.

    Raises
    ------
    UsageError
        Dask is needed and not installed.
    ClusterError
        The scheduler cannot be reached.
    """
    if workers == 0 and scheduler is None and client is None:
        return InThisProcess()
    from memcompile.exploration.runs.cluster import Cluster  # noqa: PLC0415 - needs Dask

    return Cluster(workers, scheduler=scheduler, dashboard=dashboard, client=client)


def as_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Rows as a DataFrame where pandas is installed, else as they are."""
    whole = completed([dict(row) for row in rows])
    try:
        import pandas as pd  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        return whole
    return pd.DataFrame(whole)


def _pairs(settings: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Settings by name, the last of each."""
    found = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        found[name.strip()] = text.strip()
    return tuple(sorted(found.items()))
