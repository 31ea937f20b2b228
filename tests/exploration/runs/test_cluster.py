"""Clusters of Dask: the same results on processes, also while workers and schedulers die."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from explorations import explored, napping, naps, results

from memcompile.errors import UsageError
from memcompile.exploration.explore import executor_of
from memcompile.exploration.runs import cluster as clusters
from memcompile.exploration.runs.executors import Work
from memcompile.exploration.runs.tasks import Outcome, Task

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[clusters.Cluster]:
    made = clusters.Cluster(2)
    yield made
    made.close()


def test_processes_are_pinned_and_listen_on_the_loopback_address_alone(cluster: clusters.Cluster) -> None:
    client = cluster._client
    allowed = client.run(lambda: len(os.sched_getaffinity(0)))
    assert set(allowed.values()) == {1}
    assert all(address.startswith("tcp://127.0.0.1:") for address in allowed)
    assert cluster._cluster.scheduler_address.startswith("tcp://127.0.0.1:")
    assert cluster.workers == 2
    assert cluster.dashboard is None
    assert urlsplit(cluster._cluster.dashboard_link).hostname == "127.0.0.1"
    with pytest.raises(HTTPError, match="404"):
        urlopen(cluster._cluster.dashboard_link)


def test_results_are_those_of_this_process(cluster: clusters.Cluster, tmp_path: Path) -> None:
    asked = {"varied": ("adc.bits=7,8",), "chips": 2, "images": 50}
    explored(tmp_path / "here", **asked)

    class Kept:
        """The cluster, which stays for other tests."""

        workers, run = cluster.workers, staticmethod(cluster.run)

        def close(self) -> None:
            pass

    explored(tmp_path / "there", executor=Kept(), **asked)
    assert results(tmp_path / "here") == results(tmp_path / "there")


def test_a_scheduler_elsewhere_takes_the_work(cluster: clusters.Cluster, tmp_path: Path) -> None:
    address = cluster._cluster.scheduler_address
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"type": "Scheduler", "id": "x", "address": address}))
    for place in (address, str(file)):
        remote = executor_of(None, place)
        assert remote.workers == 2
        done = [outcome.task.key for outcome in remote.run(napping, 0.0, naps(9))]
        assert sorted(done) == sorted(task.key for task in naps(9))
        remote.close()


def test_a_killed_worker_costs_nothing(cluster: clusters.Cluster) -> None:
    done = []
    for outcome in cluster.run(napping, 0.01, naps(40)):
        assert not outcome.error
        done.append(outcome.task.key)
        if len(done) == 5:
            os.kill(outcome.records[0]["process"], signal.SIGKILL)
    assert sorted(done) == sorted(task.key for task in naps(40))


def test_tasks_that_are_given_up_are_done_anew(cluster: clusters.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those are that were on the way while a scheduler went."""
    sent, submitted = [], cluster._submitted

    def noted(*of: object) -> object:
        sent.append(submitted(*of))
        return sent[-1]

    monkeypatch.setattr(cluster, "_submitted", noted)
    done = []
    for outcome in cluster.run(napping, 0.2, naps(12)):
        assert not outcome.error
        done.append(outcome.task.key)
        if len(done) == 3:
            cluster._client.cancel([item for item in sent if not item.done()], force=True)
    assert sorted(done) == sorted(task.key for task in naps(12))


def test_a_task_that_kills_its_workers_is_a_message(cluster: clusters.Cluster) -> None:
    cluster._cluster.scheduler.allowed_failures = 0
    (outcome,) = cluster.run(napping, 0.0, naps(1, deadly=True))
    assert "workers died of it" in outcome.error
    assert outcome.passing


class LostOnce(clusters.Cluster):
    """A cluster whose scheduler goes away after some outcomes; connections and workers are not there at all."""

    def __init__(self) -> None:
        self._dask, self._scheduler, self._own = clusters.dask(), "tcp://nowhere:1", True
        self._homes, self._attempt, self._patience_s, self.rounds = {}, 0, 0.1, 0
        self._client = SimpleNamespace(status="closed", close=lambda timeout: None)

    def _connected(self) -> object:
        return self._client

    def _round(self, work: Work, shared: object, tasks: list[Task]) -> Iterator[Outcome]:
        self.rounds += 1
        for number, task in enumerate(tasks):
            if self.rounds <= 2 and number == 3:
                raise self._dask.comm.CommClosedError("gone")
            yield work(shared, task)


def test_what_a_lost_scheduler_had_not_handed_back_is_done_anew() -> None:
    cluster = LostOnce()
    done = [outcome.task.key for outcome in cluster.run(napping, 0.0, naps(10))]
    assert cluster.rounds == 3
    assert done == [task.key for task in naps(10)]


def test_a_lost_cluster_of_ones_own_is_told() -> None:
    cluster = LostOnce()
    cluster._scheduler = None
    with pytest.raises(clusters.ClusterError, match="the same command resumes"):
        list(cluster.run(napping, 0.0, naps(10)))


def test_a_scheduler_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda **asked: client(**{**asked, "timeout": 0.2}))  # of five seconds
    with pytest.raises(clusters.ClusterError, match="cannot be reached"):
        clusters.Cluster(scheduler="tcp://127.0.0.1:1", patience_s=0.1)


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install 'memcompile\[explore\]'"):
        executor_of(2, None)
    assert executor_of(0, None).workers == 1
