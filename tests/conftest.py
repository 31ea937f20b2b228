"""Fixtures of the whole suite: golden texts, small models, and the optional folder of shared data."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# The workers of a run share the cores, and idle threads of OpenBLAS, and of OpenMP in PyTorch, wait in loops. They read
# this when they are loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import models
import onnx
import pytest
from hypothesis import settings
from kept import Kept
from places import GOLDEN, REPOSITORY

from memcompile.passes.placement import exchange

PLAIN_KERNELS = "plain_kernels"
"""Name of the fixture below."""

settings.register_profile("suite", deadline=None)  # a busy machine is no fault
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden/*.txt instead of comparing")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put slow tests first, so that no worker is left with one at the end.

    Those without compiled kernels lead: meanwhile another worker, which begins in the middle, fills Numba's cache.
    """

    def rank(item: pytest.Item) -> int:
        return 2 if item.get_closest_marker("slow") is None else int(PLAIN_KERNELS not in item.fixturenames)

    items.sort(key=rank)


@pytest.fixture
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run without compiled kernels, which few tests are worth compiling for; the results are the same."""
    monkeypatch.setenv("MEMCOMPILE_NUMBA", "0")


@pytest.fixture(scope="module")
def few_exchanges() -> Iterator[None]:
    """Let the search for the fewest values between chips end soon, where it is not what is tested.

    Not for modules that share what is ``kept`` with others.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "EXCHANGES", 1_000)
        yield


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Models and data sets that are not part of the repository; tests that need them skip without."""
    folder = Path(os.environ.get("MEMCOMPILE_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        pytest.skip("no folder of shared models and data (set MEMCOMPILE_SHARED)")
    return folder


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Programs and evaluations that several tests need."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    return Kept(shared / "kept")


@pytest.fixture
def compiled_once(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands, examples and Python blocks take what was compiled and measured before in the same way."""
    for place in ("memcompile.pipelines", "memcompile.api", "memcompile.cli.main"):
        monkeypatch.setattr(f"{place}.compile_model", kept.compilation)
    for place in ("memcompile.report.evaluation", "memcompile.cli.main"):
        monkeypatch.setattr(f"{place}.evaluate", kept.evaluation)
    monkeypatch.setattr("memcompile.accuracy.candidates.loss_model", kept.loss_model)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with ``golden/NAME.txt``."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        if not path.exists():
            pytest.fail(f"{path} does not exist; run pytest with --update-golden and review it", pytrace=False)
        wanted = path.read_text(encoding="utf-8")
        if wanted != text:
            lines = difflib.unified_diff(
                wanted.splitlines(), text.splitlines(), f"golden/{name}.txt", "this run", lineterm=""
            )
            pytest.fail("\n".join(lines) + "\n(--update-golden rewrites it)", pytrace=False)

    return compare


@pytest.fixture
def save_model(tmp_path: Path) -> Callable[..., Path]:
    """Write a model to a temporary folder."""

    def save(model: onnx.ModelProto, name: str = "model.onnx") -> Path:
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        return path

    return save


@pytest.fixture
def conv_bn_file(save_model: Callable[..., Path]) -> Path:
    """Two convolutions with batch normalisation, pooling and a classifier: ``x`` to ``y``."""
    return save_model(models.conv_bn(), "conv_bn.onnx")


@pytest.fixture
def skip_file(save_model: Callable[..., Path]) -> Path:
    """A residual block: ``x`` to ``y``."""
    return save_model(models.skip_connection(), "skip_connection.onnx")
