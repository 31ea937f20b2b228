"""Memory for cells: its bound, what does not fit, and results that do not depend on either."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Literal

import numpy as np
import pytest
from effect_sections import small_program

from memcompile.errors import UsageError
from memcompile.runtime.cells import memory
from memcompile.runtime.cells.cache import BoundedCache, RecentArrays, RecentValues
from memcompile.runtime.emulator import Effects, Emulator


@pytest.mark.parametrize("effects", [Effects(), Effects(adc=False), Effects(adc=False, read_noise=False)])
@pytest.mark.parametrize("bits", [1, 4])
def test_results_do_not_depend_on_memory(bits: int, effects: Effects, monkeypatch: pytest.MonkeyPatch) -> None:
    program, x = small_program({"input": {"bits_per_phase": bits}})
    whole = Emulator(program, 3, effects=effects, threads=2, chunk=1)
    want = whole.run(x)["y"]
    assert not whole.machine.prepared.full
    monkeypatch.setattr(memory, "LEAST_BYTES", 0)
    monkeypatch.setenv(memory.VARIABLE, "0.001")
    tight = Emulator(program, 3, effects=effects, threads=2, chunk=1)
    np.testing.assert_array_equal(tight.run(x)["y"], want)
    assert tight.machine.prepared.full


def test_a_bound_leaves_what_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 20 * memory.GIB)
    monkeypatch.setattr(memory, "used_bytes", lambda: memory.GIB)
    monkeypatch.delenv(memory.VARIABLE, raising=False)
    assert memory.bytes_for_cells() == 5 * memory.GIB
    monkeypatch.setenv(memory.VARIABLE, "3.5")
    assert memory.bytes_for_cells() == int(2.5 * memory.GIB) - memory.WORKING_BYTES
    monkeypatch.setenv(memory.VARIABLE, "1")
    assert memory.bytes_for_cells() == memory.LEAST_BYTES


@pytest.mark.parametrize("text", ["much", "0", "-3", "nan", "inf"])
def test_a_bound_that_is_no_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, text)
    with pytest.raises(UsageError, match="no number of GiB"):
        memory.bytes_for_cells()


def test_the_system_says_what_is_free_and_used() -> None:
    assert 1_000_000 < memory.used_bytes() < 1 << 45
    assert 1_000_000 < memory.free_bytes() < 1 << 45
    assert memory._field("/proc/no such file", "x") is None
    assert memory._number("/proc/no such file") is None


def test_threads_make_different_values_at_the_same_time_and_none_twice() -> None:
    cache, both, made = BoundedCache(100), threading.Barrier(2, timeout=20), list[str]()

    def make(key: str) -> str:
        both.wait()  # the other thread is here too, or this raises
        made.append(key)
        return key

    def ask(key: str) -> None:
        assert cache.get(key, lambda: make(key), len) == key
        assert cache.get(key, lambda: make(key), len) == key

    threads = [threading.Thread(target=ask, args=(key,)) for key in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == ["a", "b"]
    assert "a" in cache
    assert not cache.full


def test_what_does_not_fit_is_made_anew() -> None:
    cache, made = BoundedCache(10), list[int]()

    def ask(key: int) -> None:
        cache.get(key, lambda: made.append(key), lambda _: 6)

    for key in (1, 2, 1, 2):
        ask(key)
    assert made == [1, 2, 2]
    assert cache.full


def test_recent_arrays_stay() -> None:
    recent, made = RecentArrays(6 * 80), list[int]()

    def ask(key: int) -> np.ndarray:
        def make() -> np.ndarray:
            made.append(key)
            return np.full(10, float(key))

        return recent.get(key, make)

    for key in (0, 1, 2, 3, 4, 5, 0, 6, 0, 1):
        assert ask(key)[0] == key
    assert made == [0, 1, 2, 3, 4, 5, 6, 1]


def test_prepared_lines_keep_no_other_cells() -> None:
    """A view of cells as programmed, even an empty one, would hold them all in memory."""
    program, _ = small_program({})
    lines = Emulator(program, 3).machine.lines(0)
    assert lines.variances.size == 0
    assert lines.variances.base is None


def test_recent_values_are_those_used_last() -> None:
    recent, made = RecentValues[int](2), list[int]()

    def get(number: int) -> int:
        def make() -> int:
            made.append(number)
            return 10 * number

        return recent.get(number, make)

    assert [get(number) for number in (1, 2, 1, 3, 1, 2)] == [10, 20, 10, 30, 10, 20]
    assert made == [1, 2, 3, 2]


@pytest.mark.parametrize("executor", ["fast", "literal"])
def test_a_chip_that_nobody_needs_gives_its_memory_back_at_once(executor: Literal["fast", "literal"]) -> None:
    program, x = small_program({})
    gc.collect()
    gc.disable()
    try:
        emulator = Emulator(program, 3, executor=executor)
        emulator.run(x)
        devices = weakref.ref(emulator.machine.devices)
        del emulator
        assert devices() is None
    finally:
        gc.enable()
