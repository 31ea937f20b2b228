"""Memory that is given back: all of it where the C library can, no error where it cannot."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from memcompile import heap
from memcompile.ir.geometry import Geometry
from memcompile.verify import interpreter


def resident_kib() -> int:
    with open("/proc/self/status", encoding="ascii") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("VmRSS"))


def test_pages_between_blocks_in_use_are_given_back() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("another C library")
    blocks = [bytes(20_000) for _ in range(10_000)]
    del blocks[::2]
    before = resident_kib()
    heap.give_back_memory()
    assert before - resident_kib() > 40_000
    assert len(blocks) == 5_000


def test_memory_is_given_back_once_the_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([100, 100, 109, 110, 105, 50, 59, 60, 60])
    given: list[int] = []
    monkeypatch.setattr(heap, "WORTH_BYTES", 10)
    monkeypatch.setattr(heap, "_process", heap._Process())
    monkeypatch.setattr(heap, "process_bytes", lambda what: next(sizes))
    monkeypatch.setattr(heap, "give_back_memory", lambda: given.append(1))
    rounds = []
    for _ in range(6):
        heap.give_back_grown_memory()
        rounds.append(len(given))
    assert rounds == [1, 1, 2, 2, 2, 3], "at 100, not at 109, at 110; not at 50 and 59, at 60"


def test_memory_is_given_back_where_the_system_does_not_tell_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(heap, "process_bytes", lambda what: None)
    monkeypatch.setattr(heap, "_process", heap._Process())
    monkeypatch.setattr(heap, "give_back_memory", lambda: given.append(1))
    heap.give_back_grown_memory()
    heap.give_back_grown_memory()
    assert len(given) == 2


LARGE_BLOCKS = """
from memcompile import heap

def resident_kib():
    with open("/proc/self/status", encoding="ascii") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("VmRSS"))

def returned_kib():
    blocks = [(bytearray(heap.LARGE_BYTES), bytes(2000)) for _ in range(10)]
    for large, _ in blocks:
        large[::4096] = large[::4096].replace(bytes(1), b"x")
    before, small = resident_kib(), [second for _, second in blocks]
    blocks.clear()
    del large, _
    return before - resident_kib()

bytearray(6 * heap.LARGE_BYTES)[:1]  # freed once: glibc keeps blocks up to this size from now on
with heap.large_blocks_go_back():
    returned = returned_kib()
print(returned, returned_kib(), 10 * heap.LARGE_BYTES // 1024)
"""


def test_large_blocks_go_back_although_small_ones_behind_them_are_in_use() -> None:
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("another C library")
    # In a process of its own, whose heap has no room yet.
    done = subprocess.run([sys.executable, "-c", LARGE_BLOCKS], capture_output=True, text=True, check=True)
    returned_kib, later_kib, blocks_kib = map(int, done.stdout.split())
    assert returned_kib > 0.9 * blocks_kib
    assert later_kib < 0.5 * blocks_kib, "kept for reuse, as glibc does otherwise"


@pytest.mark.parametrize("error", [OSError("no such library"), TypeError("expected str, got None")])
def test_other_systems_do_nothing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: Any) -> Any:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", absent)
    heap.give_back_memory()
    with heap.large_blocks_go_back():
        pass
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    heap.give_back_memory()
    with heap.large_blocks_go_back():
        pass


@pytest.mark.parametrize("size", [(199, 31), (7,), ()], ids=str)
def test_cut_images_give_the_same_sums(size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    ones = (1,) * len(size)
    geometry = Geometry(16, 24, (3,) * len(size), size, 2, ones, ones, ones, ones)
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, (2, 16, *size)).astype(np.float32)
    matrices = rng.integers(-9, 9, (2, geometry.group_rows, geometry.group_columns)).astype(np.float32)
    whole = interpreter.apply_matrices(x, geometry, matrices, cut_images=True)
    monkeypatch.setattr(interpreter, "PATCH_BYTES", geometry.groups * geometry.group_rows * 4 * 1000)
    assert interpreter.apply_matrices(x, geometry, matrices, cut_images=True).tobytes() == whole.tobytes()
    monkeypatch.setattr(interpreter, "PATCH_BYTES", 1)
    assert interpreter.apply_matrices(x, geometry, matrices, cut_images=True).tobytes() == whole.tobytes()


def test_images_whose_patches_are_held_one_after_the_other_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry(4, 6, (3, 3), (7, 5), 2, (1, 1), (1, 1), (1, 1), (1, 1))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4, 7, 5)).astype(np.float32)
    matrices = rng.normal(size=(2, geometry.group_rows, geometry.group_columns)).astype(np.float32)
    whole = interpreter.apply_matrices(x, geometry, matrices)
    monkeypatch.setattr(interpreter, "PATCH_BYTES", 1)
    assert interpreter.apply_matrices(x, geometry, matrices).tobytes() == whole.tobytes()
    assert interpreter.apply_matrices(x[:0], geometry, matrices).shape == (0, 6, 35)
