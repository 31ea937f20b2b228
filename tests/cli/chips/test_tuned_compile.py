"""``--tune`` on compile: the chips and files of ``memcompile tune``, scored on what they were not trained with."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
from onnx import TensorProto
from written_data import write_mnist

import memcompile
from memcompile.cli.main import main
from memcompile.errors import DataError, UsageError
from memcompile.runtime.emulator import Emulator
from memcompile.runtime.training.transfer import transfer

FAST = "--effort fast --max-loss none"


def classifier(side: int) -> onnx.ModelProto:
    """Pooling to 4 by 4, and a dense layer of ten classes."""
    rng = np.random.default_rng(8)
    weights = {"v": rng.normal(size=(16, 10)).astype(np.float32)}
    nodes = [
        models.node("AveragePool", "image", "p", kernel_shape=[side // 4] * 2, strides=[side // 4] * 2),
        models.node("Flatten", "p", "f"),
        models.node("MatMul", "f v", "y"),
    ]
    inputs = {"image": (TensorProto.FLOAT, ("N", 1, side, side))}
    return models.make(nodes, inputs, {"y": (TensorProto.FLOAT, ("N", 10))}, weights)


def samples(path: Path, count: int, seed: int, labels: bool = True) -> None:
    """Images of 4 by 4, and the classes that the network sees in most of them."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(count, 1, 4, 4)).astype(np.float32)
    weight = onnx.numpy_helper.to_array(classifier(4).graph.initializer[0])
    classes = (images.reshape(count, 16) @ weight).argmax(axis=1)
    classes[::5] = (classes[::5] + 1) % 10
    np.savez(path, image=images, **({"labels": classes} if labels else {}))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and its data, in which commands run."""
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(classifier(4).SerializeToString())
    samples(Path("d.npz"), 200, seed=1)
    samples(Path("more.npz"), 120, seed=2)
    samples(Path("unlabelled.npz"), 120, seed=3, labels=False)
    return tmp_path


def accuracy_of(command: str) -> dict[str, Any]:
    assert main([*shlex.split(command), "--json", "facts.json"]) == 0
    found: dict[str, Any] = json.loads(Path("facts.json").read_text())["accuracy"]
    return found


def test_an_archive_is_cut_and_chips_are_those_of_tune(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = accuracy_of(f"m.onnx --data d.npz --tune --seeds 2 --seed 3 --accept 1% {FAST}")
    out = capsys.readouterr().out
    tuned = found["tuned"]
    assert found["images"] == found["emulated_images"] == 50
    assert (tuned["training_data"], tuned["training_images"], len(tuned["chips"])) == ("d", 120, 2)
    assert tuned["acceptance"]["reached"] == found["acceptance"]["reached"] == 2
    assert "tuned (hybrid training)" in out
    assert "each chip was tuned on 120 images of d" in out
    assert "won back" not in out
    for seed, name in ((3, "one"), (4, "two")):
        tune = f"tune m.yao2020.mcp --data d.npz --images 150 --test d.npz --skip 150 --seed {seed} -o {name} --json t"
        assert main([*tune.split(), "--quiet"]) == 0
        same = json.loads(Path("t").read_text())
        assert same["accuracy"]["tuned"] == tuned["chips"][seed - 3]
        assert same["accuracy"]["transferred"] == found["transferred"][seed - 3]
        assert [step["step"] for step in same["steps"]] == ["write again", "recalibrate", "tune in situ"]
    assert Path("one").read_bytes() == Path("m.yao2020.tuned.mcp").read_bytes()
    (words,) = re.findall(r"chip 3 written to m.yao2020.tuned.mcp; next: memcompile (.*)$", out, re.MULTILINE)
    assert words == "run m.yao2020.tuned.mcp --data d.npz --skip 150 --seed 3"
    capsys.readouterr()
    assert main(shlex.split(words)) == 0
    assert f"accuracy {tuned['chips'][0]:.2%} on d, 50 images" in capsys.readouterr().out
    plain = accuracy_of(f"m.onnx --data d.npz --tune --seeds 1 --seed 3 --no-calibration --tune-images 100 {FAST}")
    assert plain["emulated"] == plain["transferred"] == found["transferred"][:1]
    assert plain["tuned"]["training_images"] == 100


def test_transferred_chips_are_those_that_training_begins_with(folder: Path) -> None:
    found = accuracy_of(f"m.onnx --data d.npz --tune more.npz --seeds 2 {FAST}")
    assert (found["images"], found["tuned"]["training_data"], found["tuned"]["training_images"]) == (200, "more", 96)
    program = memcompile.load("m.yao2020.mcp")
    data = np.load("d.npz")
    for seed in range(2):
        scores = Emulator(transfer(program, seed)[0], seed).run(data["image"])["y"]
        assert found["transferred"][seed] == (scores.argmax(axis=1) == data["labels"]).mean()


def test_training_wins_accuracy_back(folder: Path) -> None:
    target = "[programming]\nsigma_us = 3.0\n"
    text = (Path(memcompile.__file__).parent / "hardware" / "targets" / "yao2020.toml").read_text()
    Path("noisy.toml").write_text(re.sub(r"\[programming\]\nsigma_us = [\d.]+\n", target, text))
    found = accuracy_of(f"m.onnx --data d.npz --tune more.npz --target noisy.toml --seeds 4 {FAST}")
    assert found["tuned"]["mean"] > found["transferred_mean"] + 0.02


@pytest.mark.parametrize("training", [True, False])
def test_a_published_data_set_trains_with_its_training_part(
    folder: Path, capsys: pytest.CaptureFixture[str], training: bool
) -> None:
    Path("m.onnx").write_bytes(classifier(28).SerializeToString())
    write_mnist(folder, "t10k", 20)
    if training:
        write_mnist(folder, "train", 40)
        for data in (f"--tune --data . {FAST}", f"--tune . --data . {FAST}"):
            found = accuracy_of(f"m.onnx {data} --seeds 1")
            assert found["images"] == 20
            assert found["tuned"]["training_data"] == "MNIST training images"
            assert found["tuned"]["training_images"] == 32
    else:
        assert main(f"m.onnx --data . --tune {FAST}".split()) == DataError.exit_code
        assert "add the training part" in capsys.readouterr().err
        assert not list(folder.glob("*.mcp"))


def test_without_data_the_embedded_digits_are_cut_as_tune_cuts_them(folder: Path) -> None:
    Path("m.onnx").write_bytes(models.digits_classifier(8).SerializeToString())
    found = accuracy_of(f"m.onnx --tune --tune-images 60 --images 40 --seeds 1 {FAST}")
    assert found["tuned"]["training_data"] == "digits of scikit-learn"
    assert found["tuned"]["training_images"] == 60


def test_what_cannot_be_tuned_is_refused_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(options: str, message: str, code: int = UsageError.exit_code) -> None:
        assert main(f"m.onnx {options} {FAST}".split()) == code
        assert message in " ".join(capsys.readouterr().err.split())

    refused("--data d.npz --tune --no-evaluation", "--tune scores tuned chips; leave --no-evaluation out")
    refused("--data d.npz --tune-images 9", "--tune-images 9 is for tuned chips; add --tune")
    refused("--data unlabelled.npz --tune", "--tune scores the tuned chips, and unlabelled has no labels")
    refused("--data d.npz --tune unlabelled.npz", "tuning needs labels; give data with labels", DataError.exit_code)
    refused("--data d.npz --tune none.npz", "none.npz", DataError.exit_code)
    refused("--tune", "--tune scores the tuned chips, and made-up samples has no labels")
    refused("--data d.npz --tune --target ideal", "cells of ideal have no errors, so there is nothing to tune")
    refused("--data d.npz --tune --reprogram --chips 0", "chips = 0: at least 1")
    samples(Path("one.npz"), 1, seed=1)
    refused("--data one.npz --tune", "one.npz holds too few samples to train with some and score the others: 1")
    Path("m.yao2020.tuned.mcp").mkdir()
    refused("--data d.npz --tune", "m.yao2020.tuned.mcp is a directory")
    assert [path.name for path in folder.glob("*.mcp")] == ["m.yao2020.tuned.mcp"]
