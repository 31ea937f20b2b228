"""`memcompile targets NAME`, fields of targets by --set, and words that are no command."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from places import FIVE_LAYER_CNN as MODEL

from memcompile.cli.main import main
from memcompile.hardware.devices import builtin_devices, load_device
from memcompile.hardware.target import FIELDS, Target, builtin_targets, load_target, load_target_file, parse_target
from memcompile.hardware.target_settings import with_target_settings
from memcompile.hardware.target_text import device_text, target_text, toml
from memcompile.program.file import load_program


@pytest.mark.parametrize("name", builtin_targets())
def test_printed_target_is_the_target_and_names_every_field(name: str) -> None:
    target = load_target(name)
    text = target_text(target)
    assert parse_target(tomllib.loads(text), "text") == target
    for field in FIELDS:
        key = field.split(".")[1]
        assert any(line.removeprefix("# ").startswith(f"{key} =") and "  # " in line for line in text.splitlines())
    left_out = [line for line in text.splitlines() if line.startswith("# [")]
    assert len(left_out) == sum(getattr(target, section) is None for section in Target.model_fields)


@pytest.mark.parametrize("name", builtin_devices())
def test_printed_device_is_the_device(name: str) -> None:
    assert tomllib.loads(device_text(name)) == load_device(name)


@pytest.mark.parametrize(
    "text", ["plain", 'quo"te', "back\\slash", "new\nline", "µS Ω 電", "\x7f\x01\t", "", "#[]="], ids=repr
)
def test_any_text_survives_toml(text: str) -> None:
    assert tomllib.loads(f"a = {toml(text)}\nb = {toml([1.5, [True, text]])}") == {"a": text, "b": [1.5, [True, text]]}


def test_targets_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets"]) == 0
    listed = capsys.readouterr().out
    assert "neurram" in listed
    assert "rram-wan2022" in listed
    assert main(["targets", "pcm"]) == 0
    assert 'name = "pcm"' in capsys.readouterr().out
    path = tmp_path / "mine.toml"
    assert main(["targets", "hermes", "--set", "adc.bits=6", "--set", "cell.device=pcm", "-o", str(path)]) == 0
    assert capsys.readouterr().out == ""
    target = load_target_file(path)
    assert target.adc.bits == 6
    assert target.cell.device == "pcm"
    assert target.drift is not None
    assert target.sources["adc.bits"] == "set for this program"
    # A file is completed.
    assert main(["targets", str(path)]) == 0
    assert parse_target(tomllib.loads(capsys.readouterr().out), "text") == target


WRONG = {
    ("targets", "yao2021"): "no target is called 'yao2021'; built in are",
    ("targets", "--set", "adc.bits=6"): "-o and --set are for one target; name it",
    ("targets", "pcm", "--set", "adc.bits=6"): "pcm is a device; fields are set in a target",
    ("targets", "yao2020", "--set", "replicate.effort=fast"): "'replicate.effort=fast' names no field of a target",
    ("targets", "yao2020", "--set", "adc.bit=6"): "did you mean 'adc.bits'?",
    ("targets", "yao2020", "--set", "array.input_line=6"): "did you mean 'array.input_line",
    ("targets", "yao2020", "-o", "none/a.toml"): "the folder none does not exist",
    (str(MODEL), "--set", "arry.input_lines=6"): "no pass is called 'arry', and no section of targets",
    (str(MODEL), "--set", "replicate.efort=fast"): "did you mean 'effort'?",
    (str(MODEL), "--set", "array.input_lines"): "is not of the form PASS.OPTION=VALUE or SECTION.FIELD=VALUE",
    ("run", "net.onnx"): "net.onnx is a model; compile it first: memcompile net.onnx",
    ("show", "a b.ONNX"): "a b.ONNX is a model; compile it first: memcompile 'a b.ONNX'",
    ("tune", "net.onnx"): "net.onnx is a model; compile it first",
    ("refresh", "net.onnx", "--time", "1h"): "net.onnx is a model; compile it first",
    ("export", "net.onnx", "--npz", "a.npz"): "net.onnx is a model; compile it first",
    ("comple", "net.onnx"): "'comple' is neither a command nor a file; commands are",
    ("refesh",): "did you mean 'refresh'?",
    ("xyzzy",): "'xyzzy' is neither a command nor a file; commands are",
}


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_mistakes_are_one_message_with_the_nearest_word(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(list(arguments)) == 2
    errors = capsys.readouterr().err
    assert WRONG[arguments] in errors
    assert errors.count("\n") == 1


def test_wrong_values_are_told_as_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "yao2020", "--set", "adc.bits=many", "--set", "array.input_lines=0"]) == 5
    errors = capsys.readouterr().err
    assert "adc.bits = 'many': input should be a valid integer" in errors
    assert "array.input_lines = 0: input should be greater than or equal to 1" in errors


def test_settings_of_a_target_reach_the_program(tmp_path: Path) -> None:
    settings = ["array.input_lines=128", "adc.range=fixed", "programming.sigma_polynomial_us=[0.5, 0.1]"]
    words = [word for setting in settings for word in ("--set", setting)]
    program = tmp_path / "p.mcp"
    fast = ["--effort", "fast", "--max-loss", "none", "--no-evaluation", "--quiet", "-o", str(program)]
    assert main([str(MODEL), *words, *fast]) == 0
    target = load_program(program).target
    assert target.array.input_lines == 128
    assert target.adc.range == "fixed"
    assert target.programming.sigma_polynomial_us == (0.5, 0.1)
    assert target.title.endswith(
        "; array.input_lines = 128, adc.range = fixed, programming.sigma_polynomial_us = [0.5, 0.1]"
    )
    assert target.sources["array.input_lines"] == "set for this program"


def test_a_device_is_given_before_other_fields() -> None:
    target, others = with_target_settings(
        load_target("yao2020"), ("cell.levels=6", "replicate.effort=fast", "cell.device=pcm", "drift.reference_s = 30")
    )
    assert others == ("replicate.effort=fast",)
    assert (target.cell.levels, target.cell.g_max_us) == (6, 25.0)
    assert target.drift is not None
    assert target.drift.reference_s == 30
    assert target.drift.exponent_mean_table
