"""Programs do not depend on the threads of NumPy's products: all passes run with one."""

from __future__ import annotations

from places import FIVE_LAYER_CNN as MODEL
from threadpoolctl import threadpool_info, threadpool_limits

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
