"""Memory that is given back: all of it where the C library can, no error where it cannot."""

from __future__ import annotations

import ctypes
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


@pytest.mark.parametrize("error", [OSError("no such library"), TypeError("expected str, got None")])
def test_other_systems_do_nothing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: Any) -> Any:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", absent)
    heap.give_back_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    heap.give_back_memory()


def test_images_whose_patches_are_held_one_after_the_other_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry(4, 6, (3, 3), (7, 5), 2, (1, 1), (1, 1), (1, 1), (1, 1))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4, 7, 5)).astype(np.float32)
    matrices = rng.normal(size=(2, geometry.group_rows, geometry.group_columns)).astype(np.float32)
    whole = interpreter.apply_matrices(x, geometry, matrices)
    monkeypatch.setattr(interpreter, "PATCH_BYTES", 1)
    assert interpreter.apply_matrices(x, geometry, matrices).tobytes() == whole.tobytes()
    assert interpreter.apply_matrices(x[:0], geometry, matrices).shape == (0, 6, 35)
