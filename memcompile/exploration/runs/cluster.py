"""Clusters: tasks on Dask, on worker processes of this machine or on a scheduler that runs elsewhere.

A cluster of one's own listens on the loopback address, has no dashboard unless one is asked for, and one worker a
processor, each pinned to its own. What tasks share is scattered to the workers once. Few more tasks than there are
workers are on the way at a time, so that the memory of the client does not grow with the number of points. A worker
that dies costs the tasks it had, which run again elsewhere. A scheduler that goes away is looked for again, and what
it had not handed back is done anew.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcompile.errors import MemcompileError, UsageError
from memcompile.exploration.runs.executors import Work
from memcompile.exploration.runs.tasks import Outcome, Task

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

INSTALL = "pip install 'memcompile[explore]'"
AHEAD = 3
"""Tasks on the way for each worker."""
PATIENCE_S = 60.0
"""Time for which a scheduler that went away is looked for."""
COUNTED_S = 1.0
"""Time after which workers are counted again."""
BUNDLE_S = 0.3
"""Time that tasks which travel together should take; longer ones travel alone."""
MOST_BUNDLED = 64
DEATHS = 5
"""Workers that a task may lose before it counts as failed."""


class ClusterError(MemcompileError):
    """The scheduler cannot be reached."""


def dask() -> Any:
    """The package ``distributed``.

    Raises
    ------
    UsageError
        It is not installed.
    """
    try:
        import distributed  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise UsageError(
            f"workers need the packages dask and distributed: {INSTALL}; or give --workers 0 for this process alone"
        ) from error
    return distributed


class Cluster:
    """Executor on Dask.

    Parameters
    ----------
    workers
        Worker processes on this machine; one a processor when None.
    scheduler
        Address such as ``tcp://host:8786`` or ``tls://host:8786``, or a scheduler file, of a cluster that is there. For
        TLS, keys and certificates are those of Dask's own configuration.
    dashboard
        Address of the dashboard of a cluster on this machine, such as ``127.0.0.1:8787``; none when None.
    client
        A client that is there; the other parameters then count nothing.

    Raises
    ------
    UsageError
        Dask is not installed.
    ClusterError
        The scheduler cannot be reached.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        scheduler: str | None = None,
        dashboard: str | None = None,
        client: Client | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._dask = dask()
        self._client: Any
        self._scheduler, self._patience_s, self._dashboard = scheduler, patience_s, dashboard
        self._cluster: LocalCluster | None = None
        self._own = client is None
        self._homes: dict[str, str] = {}
        self._attempt = 0
        self._scattered: tuple[Any, Any] | None = None
        self._counted: tuple[float, dict[str, int]] = (-math.inf, {})
        if client is not None:
            self._client = client
        elif scheduler is not None:
            self._client = self._connected()
        else:
            self._client = self._local(workers or processors(), dashboard)

    @property
    def workers(self) -> int:
        """Threads of all workers; at least one, while they start."""
        return max(sum(self._threads().values()), 1)

    @property
    def dashboard(self) -> str | None:
        """Address of the dashboard of a cluster of one's own."""
        return self._cluster.dashboard_link if self._cluster is not None and self._dashboard else None

    def run(self, work: Work, shared: Any, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Outcomes of all tasks, as they come; those of a lost scheduler are done anew."""
        left = list(tasks)
        while left:
            done: set[str] = set()
            try:
                for outcome in self._round(work, shared, left):
                    done.add(outcome.task.name)
                    yield outcome
            except self._losses() as error:
                self._reconnect(error)
            left = [task for task in left if task.name not in done]

    def _threads(self) -> dict[str, int]:
        """Threads of each worker, by address, asked for once a second."""
        now = time.monotonic()
        if now - self._counted[0] > COUNTED_S or not self._counted[1]:
            self._counted = now, dict(self._client.nthreads())
        return self._counted[1]

    def close(self) -> None:
        """End a cluster of one's own, and the connection to another one."""
        if not self._own:
            return
        with suppress(Exception):  # at the end there is nobody left to tell
            self._client.close(timeout=5)
        if self._cluster is not None:
            with suppress(Exception):
                self._cluster.close(timeout=10)

    def _local(self, workers: int, dashboard: str | None) -> Any:
        import dask.config  # noqa: PLC0415 - of the extra

        # Dask has workers give freed memory back at once, so that every array of the emulator is mapped page by page.
        # With any threshold of its own, glibc maps all larger blocks; without one it learns which come again.
        spawned = dict(dask.config.get("distributed.nanny.pre-spawn-environ"))
        spawned.pop("MALLOC_TRIM_THRESHOLD_", None)
        settings = {"distributed.scheduler.allowed-failures": DEATHS, "distributed.nanny.pre-spawn-environ": spawned}
        with dask.config.set(settings):
            self._cluster = self._dask.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                # Dask serves figures of its own there in any case: on the loopback address, at any port.
                dashboard_address=dashboard or "127.0.0.1:0",
                scheduler_kwargs={"dashboard": dashboard is not None},
                memory_limit=0,
                silence_logs=50,
            )
        client = self._dask.Client(self._cluster, timeout=30, set_as_default=False)
        client.register_plugin(_pinned(self._dask))
        return client

    def _connected(self) -> Any:
        assert self._scheduler is not None
        # A scheduler that went away is looked for again, or told in a message: tracebacks of Dask's own say no more.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        end = time.monotonic() + self._patience_s
        file = Path(self._scheduler)
        place = {"scheduler_file": str(file)} if file.suffix == ".json" else {"address": self._scheduler}
        while True:
            try:
                return self._dask.Client(**place, timeout=5, set_as_default=False)
            except (OSError, TimeoutError, ValueError) as error:
                if isinstance(error, ValueError) or time.monotonic() > end:
                    raise ClusterError(
                        f"the scheduler {self._scheduler} cannot be reached: {error}; check its address, and start it "
                        "with `dask scheduler`. What is done is kept, and the same command resumes"
                    ) from error
                time.sleep(0.5)

    def _losses(self) -> tuple[type[BaseException], ...]:
        """Errors that say that the connection to the scheduler is gone."""
        from concurrent.futures import CancelledError  # noqa: PLC0415

        comm, client = self._dask.comm, self._dask.client
        return (comm.CommClosedError, client.FutureCancelledError, CancelledError, OSError, TimeoutError)

    def _reconnect(self, error: BaseException) -> None:
        self._scattered = None
        self._counted = (-math.inf, {})
        if self._client.status == "running" and self._workers_return():
            return  # only data of workers that died were lost
        if not self._own or self._scheduler is None:
            raise ClusterError(
                f"the scheduler went away ({type(error).__name__}); what is done is kept, and the same command resumes"
            ) from error
        with suppress(Exception):
            self._client.close(timeout=1)
        self._homes.clear()
        self._client = self._connected()

    def _workers_return(self) -> bool:
        """Wait for workers where all have died at once; returns False if the scheduler is gone, too."""
        end = time.monotonic() + self._patience_s
        while self._client.status == "running" and time.monotonic() < end:
            try:
                self._client.wait_for_workers(1, timeout=1)
            except TimeoutError:
                continue
            except self._losses():
                return False
            return True
        return False

    def _round(self, work: Work, shared: Any, tasks: list[Task]) -> Iterator[Outcome]:
        """Outcomes from one connection; results of what is done by then come in one message."""
        future = self._travelled(shared)
        waiting = iter(tasks)
        running = self._dask.as_completed(loop=self._client.loop, with_results=True, raise_errors=False)
        bundles: dict[Any, list[Task]] = {}
        pace = _Pace()

        def submit(bundle: list[Task]) -> None:
            item = self._submitted(work, future, bundle)
            bundles[item.key] = bundle
            running.add(item)

        def fill() -> None:
            # Workers may have joined since.
            while len(bundles) < AHEAD * self.workers and (bundle := list(itertools.islice(waiting, pace.bundle))):
                submit(bundle)

        fill()
        while bundles:
            for item, result in running.next_batch(block=True):
                bundle = bundles.pop(item.key)
                if isinstance(result, _Done):
                    pace.note(result)
                    self._homes |= dict.fromkeys((task.key for task in bundle), result.worker)
                    yield from result.outcomes
                elif len(bundle) > 1:
                    # One of them did it, and the others are innocent.
                    for task in bundle:
                        submit([task])
                else:
                    yield self._failed(bundle[0], result)
            fill()

    def _travelled(self, shared: Any) -> Any:
        """What tasks share, on the workers; those that join later fetch it from the others once."""
        if self._scattered is None or self._scattered[0] is not shared:
            self._scattered = shared, self._client.scatter(shared, broadcast=True, hash=False)
        return self._scattered[1]

    def _submitted(self, work: Work, shared: Any, bundle: list[Task]) -> Any:
        home = self._homes.get(bundle[0].key)
        near = {"workers": [home], "allow_other_workers": True} if home in self._threads() else {}
        # A key that was lost may still be known to the scheduler.
        self._attempt += 1
        key = f"{bundle[0].name}-{self._attempt}"
        return self._client.submit(_on_worker, work, shared, bundle, key=key, pure=False, **near)

    def _failed(self, task: Task, result: Any) -> Outcome:
        """Outcome of a task that Dask has no result of."""
        # A future that was given up with its scheduler has an error without being one that failed.
        error = result[1] if isinstance(result, tuple) else result
        if isinstance(error, self._dask.KilledWorker):
            return Outcome(task, error=f"{DEATHS} workers died of it; they may lack memory", passing=True)
        if isinstance(error, self._losses()):
            raise error
        return Outcome(task, error=f"{type(error).__name__}: {error}", passing=True)


@dataclass(frozen=True)
class _Done:
    """Outcomes of a bundle of tasks, where they came from, and the time by the clock that they took together."""

    outcomes: tuple[Outcome, ...]
    worker: str
    wall_s: float


class _Pace:
    """Number of tasks that travel together: the scheduler takes milliseconds for each message, however short a task."""

    def __init__(self) -> None:
        self.bundle = 1

    def note(self, done: _Done) -> None:
        """Take the time of a bundle into account."""
        fits = int(BUNDLE_S * len(done.outcomes) / max(done.wall_s, 1e-6))
        self.bundle = max(1, min(fits, 2 * self.bundle, MOST_BUNDLED))


def _on_worker(work: Work, shared: Any, bundle: list[Task]) -> _Done:
    """Do tasks, and say where."""
    import distributed  # noqa: PLC0415 - of the extra

    begin = time.monotonic()
    outcomes = tuple(work(shared, task) for task in bundle)
    return _Done(outcomes, distributed.get_worker().address, time.monotonic() - begin)


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pinned(distributed: Any) -> Any:
    """Plugin that gives each worker process a processor of its own."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

    class Pinned(distributed.WorkerPlugin):  # type: ignore[misc]
        name = "memcompile-pinned"

        def setup(self, worker: Any) -> None:
            if allowed and isinstance(worker.name, int):
                os.sched_setaffinity(0, {allowed[worker.name % len(allowed)]})

    return Pinned()
