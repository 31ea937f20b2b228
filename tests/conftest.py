"""Fixtures of the whole suite: golden texts, small models, and the optional folder of shared data."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

# The workers of a run share the cores, and threads of OpenBLAS wait in loops. It reads this when NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import models
import onnx
import pytest
from hypothesis import settings
from places import GOLDEN, REPOSITORY

settings.register_profile("suite", deadline=None)  # a busy machine is no fault
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden/*.txt instead of comparing")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Models and data sets that are not part of the repository; tests that need them skip without."""
    folder = Path(os.environ.get("MEMCOMPILE_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        pytest.skip("no folder of shared models and data (set MEMCOMPILE_SHARED)")
    return folder


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
