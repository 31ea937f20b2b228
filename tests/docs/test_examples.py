"""Every example and benchmark runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from models import float_model, node
from places import REPOSITORY
from scripts import run_script

from memcompile.data.loader import digits28

EXAMPLES = REPOSITORY / "examples"
NUMBERED = sorted(EXAMPLES.glob("[0-9]*.py"))


@dataclass(frozen=True)
class Finished:
    """Output of a script."""

    stdout: str
    stderr: str


Run = Callable[..., Finished]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a script as a user would, from another folder, but in this process."""

    def in_this_process(script: Path, *arguments: object, code: int = 0) -> Finished:
        monkeypatch.chdir(tmp_path)
        capfd.readouterr()
        left = run_script(script, *arguments)
        finished = Finished(*capfd.readouterr())
        assert left == code, finished.stderr
        return finished

    return in_this_process


def test_numbered_examples_count_from_one() -> None:
    assert [int(path.name[:2]) for path in NUMBERED] == list(range(1, len(NUMBERED) + 1))


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
@pytest.mark.parametrize("script", [pytest.param(path, id=path.stem) for path in NUMBERED])
def test_numbered_example_runs(script: Path, tmp_path: Path, run: Run) -> None:
    result = run(script)
    assert not result.stderr
    assert len(result.stdout.splitlines()) >= 5
    assert f"python examples/{script.name}" in script.read_text(encoding="utf-8")
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"


@pytest.fixture
def small_resnet(tmp_path: Path) -> Path:
    """A residual block over CIFAR-10 images, ``x`` to ``y``."""
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / 4).astype(np.float32)

    nodes = [
        node("Conv", "x w1", "a", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", "a", "b"),
        node("Conv", "b w2", "c", pads=[1, 1, 1, 1]),
        node("Add", "b c", "d"),
        node("GlobalAveragePool", "d", "e"),
        node("Flatten", "e", "f"),
        node("MatMul", "f w3", "y"),
    ]
    shapes = {"w1": (4, 3, 3, 3), "w2": (4, 4, 3, 3), "w3": (4, 10)}
    model = float_model(nodes, ["N", 3, 32, 32], {name: weights(*shape) for name, shape in shapes.items()})
    path = tmp_path / "small_resnet.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_resnet_cifar_compares_slices(small_resnet: Path, tmp_path: Path, run: Run) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 32, 32, 3)).astype(np.uint8)
    np.savez(tmp_path / "cifar.npz", images=images, labels=np.arange(12) % 10)
    script = EXAMPLES / "resnet_cifar.py"
    result = run(script, small_resnet, "--data", "cifar.npz", "--emulated-images", 2, "--seeds", 2)
    heading, *rows = result.stdout.splitlines()
    assert heading.split()[:3] == ["slices", "arrays", "bound"]
    one, two = (row.split() for row in rows)
    assert (one[0], two[0]) == ("1", "2")
    assert int(one[1]) >= int(one[2])
    assert int(two[4]) > int(one[4]), "two slices leave less room for copies"
    assert all(share.endswith("%") for share in (*two[8:11], two[12]))


def test_resnet_cifar_says_what_is_wrong(run: Run) -> None:
    result = run(EXAMPLES / "resnet_cifar.py", "none.onnx", "--data", "none.npz", code=3)
    assert "resnet_cifar.py: error: none.onnx does not exist" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_resnet_cifar_on_resnet20(shared_dir: Path, tmp_path: Path, run: Run) -> None:
    model, data = shared_dir / "models" / "cifar_resnet20.onnx", shared_dir / "data" / "cifar10" / "cifar10_test1k.npz"
    if not (model.is_file() and data.is_file()):
        pytest.skip("no ResNet-20 or no CIFAR-10 images")
    with np.load(data) as whole:
        np.savez(tmp_path / "some.npz", **{name: whole[name][:100] for name in whole.files})
    few = ("--slices", 2, "--images", 40, "--emulated-images", 2, "--seeds", 1)
    quick = ("--set", "replicate.objective=arrays", "--set", "replicate.effort=fast")
    row = run(EXAMPLES / "resnet_cifar.py", model, "--data", "some.npz", *few, *quick).stdout.splitlines()[1].split()
    arrays, bound = (int(number.replace(",", "")) for number in row[1:3])
    assert bound <= arrays
    exact, ideal = (float(share.rstrip("%")) for share in (row[8], row[9]))
    assert abs(exact - ideal) <= 2.5, "more than one image of forty"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="training needs PyTorch")
def test_training_writes_a_model(tmp_path: Path, run: Run) -> None:
    images, labels = digits28()
    for part in ("train", "t10k"):
        for name, kind, array in (("images-idx3", 3, images[:256]), ("labels-idx1", 1, labels[:256].astype(np.uint8))):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            (tmp_path / f"{part}-{name}-ubyte").write_bytes(bytes([0, 0, 8, kind]) + sizes + array.tobytes())
    run(EXAMPLES / "train_five_layer_cnn.py", "--mnist", ".", "--epochs", 1, "--output", "cnn.onnx")
    assert 10_000 < (tmp_path / "cnn.onnx").stat().st_size < 20_000


@pytest.mark.slow
def test_compile_time_compares_with_a_baseline(small_resnet: Path, run: Run) -> None:
    script = REPOSITORY / "benchmarks" / "compile_time.py"
    facts = json.loads(run(script, small_resnet, "--runs", 1, "--json", "-", "--", "--slices", 2).stdout)
    baseline, compiled = facts["measurements"]
    assert compiled["name"] == "small_resnet.onnx --slices 2"
    assert baseline["ratio_to_baseline"] == 1.0
    assert compiled["ratio_to_baseline"] == pytest.approx(compiled["median_s"] / baseline["median_s"])


def test_compile_time_reports_a_failing_compiler(run: Run) -> None:
    script = REPOSITORY / "benchmarks" / "compile_time.py"
    result = run(script, "none.onnx", "--runs", 1, code=1)
    assert "none.onnx does not exist" in result.stderr
