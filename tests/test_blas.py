"""Programs do not depend on the threads of NumPy's products: all passes run with one."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from places import FIVE_LAYER_CNN as MODEL
from threadpoolctl import ThreadpoolController, threadpool_info, threadpool_limits

from memcompile import blas
from memcompile.ir.graph import Graph
from memcompile.ir.pass_manager import PassContext
from memcompile.pipelines import compile_model


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


class Threads:
    """Threads of products after each pass."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def after_pass(self, number: int, name: str, graph: Graph, context: PassContext) -> None:
        self.seen |= blas_threads()


def test_passes_run_with_one_thread_of_products() -> None:
    threads = Threads()
    with threadpool_limits(2, user_api="blas"):
        outside = blas_threads()
        compile_model(MODEL, settings=("replicate.effort=fast",), instruments=[threads])
        assert blas_threads() == outside
    assert threads.seen == ({1} if outside else set())


def test_libraries_are_looked_for_again_after_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def look() -> ThreadpoolController:
        looked.append(blas_threads())
        return ThreadpoolController()

    monkeypatch.setattr(blas, "ThreadpoolController", look)
    blas._libraries.cache_clear()
    for _ in range(2):
        with blas.one_blas_thread():
            pass
    assert len(looked) == 1
    monkeypatch.setitem(sys.modules, "brings_a_library", ModuleType("brings_a_library"))
    with blas.one_blas_thread():
        pass
    assert len(looked) == 2
    blas._libraries.cache_clear()
