"""Sharing work among threads: tasks in their order, ranges of a task on its own thread."""

from __future__ import annotations

import os
import signal
import threading
import time

import factories
import numpy as np
import pytest

from memcompile.errors import DataError
from memcompile.ir.batching import Batching
from memcompile.ir.geometry import Geometry
from memcompile.runtime.cells.cache import BoundedCache
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.executors.batches import Batches
from memcompile.runtime.kernels import compiled
from memcompile.runtime.kernels.compiled import Workers


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_the_order_of_tasks(threads: int) -> None:
    def task(number: int) -> int:
        time.sleep(0.002 * (number % 3 == 0))
        return number

    assert list(Workers(threads).in_order([lambda n=n: task(n) for n in range(20)])) == list(range(20))


def test_ranges_of_a_task_stay_on_its_thread() -> None:
    workers, seen = Workers(3), []

    def task() -> None:
        here = threading.get_ident()
        workers.each_range(10, lambda begin, end: seen.append((threading.get_ident() == here, begin, end)))

    list(workers.in_order([task] * 4))
    assert seen == [(True, 0, 10)] * 4
    workers.each_range(9, lambda begin, end: seen.append((False, begin, end)))
    assert sorted(seen[4:]) == [(False, 0, 3), (False, 3, 6), (False, 6, 9)]


def test_the_first_failure_in_order_is_raised() -> None:
    def task(number: int) -> int:
        if number in (3, 5):
            raise ValueError(number)
        return number

    done: list[int] = []
    with pytest.raises(ValueError, match="3"):
        done.extend(Workers(2).in_order([lambda n=n: task(n) for n in range(8)]))
    assert done == [0, 1, 2]


def test_a_process_that_was_forked_has_threads_of_its_own() -> None:
    assert list(Workers(2).in_order([lambda: 1] * 3)) == [1] * 3
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # threads of the parent would be waited for in vain
        found = list(Workers(2).in_order([lambda: 1] * 3))
        Workers(2).each_range(4, lambda begin, end: found.append(end - begin))
        os._exit(found != [1, 1, 1, 2, 2])
    assert os.waitpid(child, 0)[1] == 0


def test_what_two_threads_ask_for_is_made_once() -> None:
    cache, made = BoundedCache(1000), []

    def make() -> int:
        made.append(1)
        time.sleep(0.01)
        return 7

    asked = list(Workers(4).in_order([lambda: cache.get("key", make, lambda _: 10)] * 12))
    assert asked == [7] * 12
    assert len(made) == 1


@pytest.mark.parametrize(
    ("images", "threads"), [(1, 2), (10, 2), (11, 2), (25, 2), (100, 3), (99, 2), (11, 16), (30, 64)]
)
def test_threads_get_equal_shares_of_images(images: int, threads: int) -> None:
    chosen = Batches.of({}, Batching({}), None, 10)
    cuts = list(chosen.cuts(images, threads))
    assert [begin for begin, _ in cuts] == [0, *(end for _, end in cuts[:-1])]
    assert cuts[-1][1] == images
    sizes = [end - begin for begin, end in cuts]
    assert max(sizes) <= 10
    assert min(sizes) >= 1
    assert len(cuts) in (1, images) or (len(cuts) % threads == 0 and max(sizes) - min(sizes) <= 1)
    given = list(Batches.of({}, Batching({}), 10, 10).cuts(images, threads))
    assert all(end - begin == 10 for begin, end in given[:-1])


def test_chunks_on_threads_report_progress_in_order_and_fail_as_one() -> None:
    rng = np.random.default_rng(3)
    target = factories.make_target()
    layer = factories.random_layer(rng, Geometry(12, 3, (1,), (2,), layout="channels_last"), target)
    program = factories.layer_program(rng, layer, target)
    x = rng.integers(0, 256, (50, 2, 12)).astype(np.float32)
    done: list[int] = []
    whole = Emulator(program, 1, chunk=50, threads=1).run(x)["y"]
    assert np.array_equal(Emulator(program, 1, chunk=7, threads=3).run(x, progress=done.append)["y"], whole)
    assert done == [7] * 7 + [1]
    x[20, 0, 0] = np.nan
    with pytest.raises(DataError, match="index \\(20, 0, 0\\)"):
        Emulator(program, 1, chunk=7, threads=3).run(x)


def test_kernels_that_are_compiled_are_told_of_once() -> None:
    numba = pytest.importorskip("numba")
    assert compiled.kernels() is not None, "listens once kernels are loaded"
    told = list[int]()
    double = numba.njit(lambda x: 2 * x)
    with compiled.when_compiling(lambda: told.append(1)):
        assert double(3) == 6
        assert double(4) == 8
    assert told == [1]
    assert double(1.5) == 3.0
    assert told == [1]


@pytest.mark.parametrize(("images", "threads"), [(3, 2), (5, 2), (5, 16)])
def test_images_that_threads_do_not_share_evenly(images: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images so large that each is a chunk, and fewer of them than chunks that all threads would get."""
    monkeypatch.setattr("memcompile.runtime.emulator.CHUNK_BYTES", 1)
    rng = np.random.default_rng(3)
    target = factories.make_target()
    layer = factories.random_layer(rng, Geometry(12, 3, (1,), (2,), layout="channels_last"), target)
    program = factories.layer_program(rng, layer, target)
    x = rng.integers(0, 256, (images, 2, 12)).astype(np.float32)
    want = Emulator(program, 3, threads=1).run(x)
    for name, found in Emulator(program, 3, threads=threads).run(x).items():
        np.testing.assert_array_equal(found, want[name])
