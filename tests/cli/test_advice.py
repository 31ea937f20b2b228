"""Advice that commands print: every line runs as it stands, and never scores on what was trained on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
import sequence_models
from onnx import TensorProto
from written_data import write_mnist

import memcompile.cli.advice
from memcompile.cli.advice import DataOptions, command_line, derived_path, front_lines, program_path
from memcompile.cli.main import main
from memcompile.errors import UsageError

Say = Callable[[str], list[list[str]]]
COMMAND = re.compile(r"(?:next|chip|steps): (memcompile .*)$", re.MULTILINE)


def classifier(size: int, channels: int = 1) -> onnx.ModelProto:
    """Pooling, a convolution that leaves four positions, and a dense layer of ten classes."""
    rng = np.random.default_rng(8)
    weights = {"w": models.dyadic(rng, (6, channels, 3, 3)), "v": models.dyadic(rng, (10, 24)).T}
    nodes = [
        models.node("AveragePool", "image", "p", kernel_shape=[size // 4] * 2, strides=[size // 4] * 2),
        models.node("Conv", "p w", "c"),
        models.node("Relu", "c", "r"),
        models.node("Flatten", "r", "f"),
        models.node("MatMul", "f v", "y"),
    ]
    inputs = {"image": (TensorProto.FLOAT, ("N", channels, size, size))}
    return models.make(nodes, inputs, {"y": (TensorProto.FLOAT, ("N", 10))}, weights)


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command that must succeed, in an empty folder; returns the commands that it advises, word by word."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memcompile.cli.advice, "LOSS_WORTH_A_WORD", -1.0)

    def run(command: str) -> list[list[str]]:
        words = shlex.split(command)
        assert main(words) == 0, command
        out = capsys.readouterr().out
        found = COMMAND.findall(out)
        assert len(found) == out.count("memcompile "), "every command stands where it is found"
        return [shlex.split(line)[1:] for line in found]

    return run


def follow(say: Say, command: str) -> list[list[str]]:
    """Run a command, what it advises, and what that advises; returns all that was advised."""
    advised = say(command)
    seen = [*advised]
    for words in advised:
        if words[0] != "compile":
            seen += say(shlex.join([*words, *(["--epochs", "1"] if words[0] == "tune" else [])]))
    return seen


FAST = "--seeds 1 --effort fast"


def test_an_archive_is_cut_into_training_and_test_samples(say: Say, tmp_path: Path) -> None:
    folder = tmp_path / "my data"
    folder.mkdir()
    (folder / "a net.onnx").write_bytes(classifier(8, 2).SerializeToString())
    rng = np.random.default_rng(9)
    pixels = rng.integers(0, 256, (40, 8, 8, 2), np.uint8)
    np.savez(folder / "it's.npz", image=pixels, labels=np.arange(40) % 10)
    options = f"""--data "my data/it's.npz" --mean 0.5,0.123456789 --std 0.25,0.5 --seed 3 {FAST}"""
    run, tune, again, run_tuned = follow(say, f"'my data/a net.onnx' {options}")
    same = ["--mean", "0.5,0.123456789", "--std", "0.25,0.5", "--seed", "3"]
    data = ["--data", "my data/it's.npz"]
    assert run == ["run", "a net.yao2020.mcp", *data, *same]
    assert tune == [
        *("tune", "a net.yao2020.mcp", *data, "--images", "30", "--test", "my data/it's.npz", "--skip", "30"),
        *same,
    ]
    assert run_tuned == ["run", "a net.yao2020.tuned.mcp", *data, "--skip", "30", *same]
    assert again == ["compile", *shlex.split(f"'my data/a net.onnx' {options}"), "--optimise", "accuracy"]
    assert say(shlex.join(again))[0] == run
    assert program_path(Path("a net.onnx"), "yao2020").exists()


@pytest.mark.parametrize("training", [True, False])
def test_a_published_data_set_brings_its_own_parts(say: Say, tmp_path: Path, training: bool) -> None:
    (tmp_path / "m.onnx").write_bytes(classifier(28).SerializeToString())
    write_mnist(tmp_path, "t10k", 20)
    if training:
        write_mnist(tmp_path, "train", 40)
    advised = follow(say, f"m.onnx --data . {FAST} --optimise accuracy")
    run = ["run", "m.yao2020.mcp", "--data", "."]
    tune = ["tune", "m.yao2020.mcp", "--data", "."]
    assert advised == ([run, tune, ["run", "m.yao2020.tuned.mcp", "--data", "."]] if training else [run])


def test_without_data_commands_find_the_same_samples(say: Say, tmp_path: Path) -> None:
    (tmp_path / "-m.onnx").write_bytes(models.digits_classifier(8).SerializeToString())
    run, tune, *_ = follow(say, f"./-m.onnx {FAST} --images 40 --emulated-images 20 --optimise accuracy")
    assert run == ["run", "./-m.yao2020.mcp"]
    assert tune == ["tune", "./-m.yao2020.mcp"]


def test_a_budget_is_advised_where_it_can_be_held_to(say: Say, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(models.digits_classifier(8).SerializeToString())
    options = f"m.onnx {FAST} --images 40 --emulated-images 20"
    again = say(f"{options} --max-loss none")[-1]
    assert again == say(f"--max-loss=none {options}")[-1]
    assert again == ["compile", *shlex.split(options), "--max-loss", "1"]
    assert [words[0] for words in say(shlex.join(again))] == ["run", "tune"]


def test_a_network_without_data_of_its_own_is_run_on_made_up_samples(say: Say, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(models.conv_bn().SerializeToString())
    (run,) = follow(say, "m.onnx --seed 5 --effort fast")
    assert run == ["run", "m.yao2020.mcp", "--seed", "5"]


@pytest.mark.parametrize("labels", ["numbers", "names", "beyond"])
def test_what_cannot_be_tuned_is_not_advised(say: Say, tmp_path: Path, labels: str) -> None:
    (tmp_path / "m.onnx").write_bytes(sequence_models.zipmap(by_name=True).SerializeToString())
    kinds = {
        "numbers": np.arange(12) % 3,
        "names": np.array(sequence_models.NAMES)[np.arange(12) % 3],
        "beyond": np.zeros(1, np.int64),  # one sample cannot be cut in two
    }
    found = kinds[labels]
    np.savez(tmp_path / "d.npz", x=models.images((len(found), 10)), labels=found)
    advised = follow(say, f"m.onnx --data d.npz {FAST} --optimise accuracy")
    assert [words[0] for words in advised] == (["run", "tune", "run"] if labels == "numbers" else ["run"])


def test_a_refreshed_chip_is_run_at_its_age(say: Say, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(models.digits_classifier(8).SerializeToString())
    say(f"m.onnx -o m.v1 --no-evaluation --quiet {FAST}")
    say("tune m.v1 --epochs 0 --images 50 --score-images 20 --quiet")
    (run,) = say("refresh m.v1.tuned.mcp --time 90min --reads 2.5e6 --images 50 --score-images 20 --seed 2")
    assert run == ["run", "m.v1.tuned.refreshed.mcp", "--seed", "2", "--time", "5400s", "--reads", "2500000"]
    say(shlex.join(run))


def test_training_samples_are_never_scored(say: Say, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.onnx").write_bytes(classifier(8, 2).SerializeToString())
    images = models.images((40, 2, 8, 8))
    np.savez(tmp_path / "d.npz", image=images, labels=np.arange(40) % 10)
    say(f"m.onnx --data d.npz --no-evaluation --quiet {FAST}")
    command = "tune m.yao2020.mcp --epochs 0 --data d.npz --test ./d.npz"
    for options in ("", " --skip 20", " --images 21 --skip 20"):
        assert main((command + options).split()) == UsageError.exit_code
        assert "names samples that --data trains with" in capsys.readouterr().err
    assert main(f"{command} --images 20 --skip 40".split()) == 4
    assert "holds 40 samples, so none is left after 40" in capsys.readouterr().err
    assert main(f"{command} --images 20 --skip 20 --quiet".split()) == 0


@pytest.mark.parametrize("chips", [1, 2])
def test_advice_of_a_refusal_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], chips: int) -> None:
    path = tmp_path / "m.onnx"
    rng = np.random.default_rng(10)
    wide = {"w": models.dyadic(rng, (500, 64)).T}
    path.write_bytes(models.float_model([models.node("MatMul", "x w", "y")], ("N", 64), wide).SerializeToString())
    command = [str(path), "--effort", "fast", "--no-evaluation", "--quiet", "-o", str(tmp_path / "p.mcp"), "--chips"]
    assert main([*command, str(chips)]) == 7
    (needed,) = re.findall(r"use --chips (\d+)", capsys.readouterr().err)
    assert main([*command, needed]) == 0
    assert main([*command, str(int(needed) - 1)]) == 7


def test_options_of_a_mapping_take_the_place_of_slices_given() -> None:
    options = (["--max-loss", "none"], ["--slices", "3", "--max-loss", "none"])
    facts = {"pareto": {"mappings": [{"options": words} for words in options]}}
    called = ["compile", "--slices", "C1=2", "--pareto", "--slices=2", "--", "-m.onnx"]
    _, first, second = front_lines(facts, called)
    assert first == "1: memcompile compile --slices C1=2 --slices=2 --max-loss none -- -m.onnx"
    assert second == "2: memcompile compile --slices 3 --max-loss none -- -m.onnx"


def test_options_stand_before_a_model_that_looks_like_one(say: Say, tmp_path: Path) -> None:
    (tmp_path / "-m.onnx").write_bytes(models.digits_classifier(8).SerializeToString())
    *_, again = say(f"{FAST} --images 20 --emulated-images 20 --max-loss none -- -m.onnx")
    assert again[-4:] == ["--max-loss", "1", "--", "-m.onnx"]
    say(shlex.join(again))


def test_words_are_quoted_and_numbers_complete() -> None:
    assert DataOptions().words() == []
    options = DataOptions(Path("-d/a b.npz"), (0.5,), (0.25, 1.0, 0.123456789), 7, 3)
    assert command_line(["run", Path("-p.mcp"), *options.words("--images", "4")]) == (
        "memcompile run ./-p.mcp --data './-d/a b.npz' --images 4 --skip 3 --mean 0.5 --std 0.25,1,0.123456789 --seed 7"
    )


def test_default_files_do_not_collide() -> None:
    assert program_path(Path("a/net.onnx"), "hermes") == Path("net.hermes.mcp")
    assert program_path(Path("net.v2.onnx"), "chips/mine.toml") == Path("net.v2.mine.mcp")
    assert program_path(Path("net.onnx"), "chips/hermes.toml") == Path("net.hermes.toml.mcp")
    assert derived_path(Path("a/net.hermes.mcp"), "tuned") == Path("a/net.hermes.tuned.mcp")
    assert derived_path(Path("net.hermes"), "tuned") == Path("net.hermes.tuned.mcp")
