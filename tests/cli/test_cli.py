"""The command line: what each command prints, writes and returns."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import stages
from scripts import without_phases

import memcompile
from memcompile.cli.main import main
from memcompile.errors import EXIT_CODES
from memcompile.hardware.target import builtin_targets
from memcompile.ir.pass_manager import Pass
from memcompile.pipelines import default_passes
from memcompile.program.file import load_program
from memcompile.program.program import Program

pytestmark = pytest.mark.usefixtures("few_exchanges")

Run = Callable[[str], str]
DATA = {"x": models.images((40, 2, 6, 6), seed=81)}
LABELS = stages.reference(models.conv_bn(), DATA)["y"].argmax(axis=1)
LABELS[::4] = (LABELS[::4] + 1) % 4  # a quarter is wrong, so that no accuracy is 100 % by accident
ISSUE_KEYS = {
    "model",
    "target",
    "chips",
    "arrays_used",
    "arrays_bound",
    "cells_used",
    "cell_utilisation",
    "initiation_interval_steps",
    "initiation_interval_bound",
    "latency_steps",
    "layers",
    "accuracy",
}
COMPILE = "m.onnx --data d.npz --seeds 2"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that must succeed, in a folder with a model ``m.onnx`` and data; returns what it prints."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(models.conv_bn().SerializeToString())
    np.savez(tmp_path / "d.npz", **DATA, labels=LABELS)
    np.savez(tmp_path / "unlabelled.npz", **DATA)

    def command(arguments: str) -> str:
        assert main(arguments.split()) == 0
        out, err = capsys.readouterr()
        assert only_progress(err)
        return out

    return command


def only_progress(errors: str) -> bool:
    """Return True if a command that succeeds writes phases to standard error, and nothing else."""
    return not without_phases(errors)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"m.onnx", "d.npz", "unlabelled.npz"}


# --- compile -----------------------------------------------------------------------------------


def test_compile_writes_the_program_and_reports(run: Run, tmp_path: Path) -> None:
    out = run(COMPILE)
    assert names(tmp_path) == {"m.yao2020.html", "m.yao2020.mcp"}
    program = memcompile.load(tmp_path / "m.yao2020.mcp")
    for layer in program.layers:
        assert layer.name in out
    assert "m.onnx on yao2020" in out
    for fact in (
        rf"arrays +{program.arrays_used} of {8 * program.placement.chips} used; proven lower bound",
        rf"steps per image +{program.placement.initiation_interval_steps} .*proven lower bound",
        rf"latency +{program.placement.latency_steps} steps",
        rf"cells +{program.cells_used:,} used",
        r"float \(onnxruntime\) .*75\.00%",
        r"quantised, ideal devices .*\d+\.\d\d%",
        r"transferred to 2 chips .*\d+\.\d\d% ± \d+\.\d\d%",
        r"program written to m\.yao2020\.mcp; next: memcompile run m\.yao2020\.mcp",
    ):
        assert re.search(fact, out), fact


def test_the_word_compile_may_be_left_out(run: Run, tmp_path: Path) -> None:
    assert run(f"compile {COMPILE} -o a.mcp").replace(" a.", " b.") == run(f"{COMPILE} -o b.mcp")
    assert (tmp_path / "a.mcp").read_bytes() == (tmp_path / "b.mcp").read_bytes()


def test_programs_for_several_targets_lie_side_by_side(run: Run, tmp_path: Path) -> None:
    reference = (resources.files("memcompile.hardware") / "targets" / "yao2020.toml").read_text(encoding="utf-8")
    for name in ("small", "yao2020"):
        (tmp_path / f"{name}.toml").write_text(reference.replace("arrays = 8\n", "arrays = 2\n"))
    for target in ("yao2020", "hermes", "small.toml", "yao2020.toml"):
        run(f"m.onnx --no-evaluation --quiet --effort fast --target {target}")
    programs = {path.name: memcompile.load(path).target for path in tmp_path.glob("*.mcp")}
    assert {name: (target.name, target.chip.arrays) for name, target in programs.items()} == {
        "m.yao2020.mcp": ("yao2020", 8),
        "m.hermes.mcp": ("hermes", 64),
        "m.small.mcp": ("yao2020", 2),
        "m.yao2020.toml.mcp": ("yao2020", 2),
    }


def test_json_on_standard_output_is_all_there_is(run: Run) -> None:
    facts = json.loads(run(f"{COMPILE} --json -"))
    assert facts.keys() >= ISSUE_KEYS
    program = memcompile.load(Path("m.yao2020.mcp"))
    assert (facts["model"], facts["target"], facts["chips"]) == ("m.onnx", "yao2020", program.placement.chips)
    assert facts["arrays_bound"] <= facts["arrays_used"] == program.arrays_used
    assert facts["initiation_interval_bound"] <= facts["initiation_interval_steps"]
    assert facts["cell_utilisation"] == pytest.approx(facts["cells_used"] / (facts["chips"] * 8 * 2048))
    assert [layer["name"] for layer in facts["layers"]] == ["Conv_c1", "Conv_c2", "Gemm_y"]
    for layer in facts["layers"]:
        assert layer.keys() >= {"rows", "columns", "tiles", "replicas", "arrays", "cell_share"}
    assert sum(layer["cells"] for layer in facts["layers"]) == facts["cells_used"]


def test_accuracies_are_those_of_the_three_networks(run: Run) -> None:
    accuracy = json.loads(run(f"{COMPILE} --json -"))["accuracy"]
    program = memcompile.load(Path("m.yao2020.mcp"))

    def score(outputs: Any) -> float:
        return float((outputs["y"].argmax(axis=1) == LABELS).mean())

    plain = [score(memcompile.Emulator(program, seed).run(DATA)) for seed in (0, 1)]
    calibrated = [memcompile.calibrate(program, "d.npz", seed) for seed in (0, 1)]
    chips = [score(memcompile.Emulator(chip, seed).run(DATA)) for seed, chip in enumerate(calibrated)]
    assert accuracy["float"] == 0.75
    assert accuracy["ideal"] == score(memcompile.Emulator.ideal(program).run(DATA))
    assert (accuracy["transferred"], accuracy["emulated"]) == (plain, chips)
    assert accuracy["transferred_mean"] == pytest.approx(np.mean(plain))
    assert accuracy["emulated_mean"] == pytest.approx(np.mean(chips))
    assert accuracy["emulated_std"] == pytest.approx(np.std(chips, ddof=1))
    assert (accuracy["images"], accuracy["emulated_images"], accuracy["seeds"]) == (40, 40, 2)


def test_json_into_a_file_leaves_the_table(run: Run, tmp_path: Path) -> None:
    out = run(f"{COMPILE} --json r.json")
    assert "m.onnx on yao2020" in out
    assert json.loads((tmp_path / "r.json").read_text()).keys() >= ISSUE_KEYS


def test_without_labels_there_are_signal_to_noise_ratios(run: Run) -> None:
    facts = json.loads(run("m.onnx --data unlabelled.npz --json -"))
    assert facts["accuracy"] is None
    assert facts["output_sqnr_db"].keys() == {"y"}
    assert facts["output_sqnr_db"]["y"] > 20
    # Values that batch norm was folded into have no counterpart of that name but the folded one.
    assert all(layer["sqnr_db"] > 20 for layer in facts["layers"])
    assert re.search(r"output y: \d+\.\d dB", run("m.onnx --data unlabelled.npz"))


def test_without_data_a_plain_warning_says_so(run: Run) -> None:
    out = run("m.onnx")
    assert re.search(r"warning: no data: .*generated inputs.*--data", out.replace("\n", " "))
    facts = json.loads(run("m.onnx --json -"))
    assert facts["accuracy"] is None
    assert any("no data" in warning for warning in facts["warnings"])
    assert not json.loads(run(f"{COMPILE} --json -"))["warnings"]


def test_quiet_prints_nothing(run: Run, tmp_path: Path) -> None:
    assert run(f"{COMPILE} --quiet") == ""
    assert run("m.onnx --quiet --no-evaluation -o q.mcp") == ""
    assert run("run q.mcp --data d.npz --quiet --ideal -o y.npz") == ""
    pages = {"m.yao2020.html", "q.html"}
    assert names(tmp_path) == {"m.yao2020.mcp", "q.mcp", "y.npz"} | pages


def test_no_evaluation_measures_nothing(run: Run) -> None:
    facts = json.loads(run("m.onnx --data d.npz --no-evaluation --json -"))
    assert (facts["accuracy"], facts["output_sqnr_db"], facts["data"]) == (None, None, None)


def test_images_and_seeds_bound_the_evaluation(run: Run) -> None:
    accuracy = json.loads(run("m.onnx --data d.npz --images 20 --emulated-images 8 --seeds 1 --json -"))["accuracy"]
    assert (accuracy["images"], accuracy["emulated_images"], accuracy["seeds"]) == (20, 8, 1)
    assert accuracy["emulated_std"] == 0.0


def test_dump_ir_writes_the_graph_after_each_pass(run: Run, tmp_path: Path) -> None:
    run("m.onnx --data d.npz --no-evaluation --dump-ir deep/ir")
    wanted = ["import", *(item.pass_name() for item in default_passes())]
    files = sorted(path.name for path in (tmp_path / "deep" / "ir").iterdir())
    assert files == [f"{number:02}_{name}.txt" for number, name in enumerate(wanted)]
    texts = {name: (tmp_path / "deep" / "ir" / name).read_text() for name in files}
    assert all(text.startswith("graph m.onnx\n") for text in texts.values())
    assert "BatchNormalization" in texts["02_select_crossbar_operators.txt"]
    assert "BatchNormalization" not in texts["03_fold_batchnorm.txt"]


def test_list_passes_names_each_pass_and_its_options(run: Run) -> None:
    out = run("m.onnx --list-passes")
    for item in default_passes():
        assert re.search(rf"^{item.pass_name()} +{re.escape(item.summary)}$", out, re.MULTILINE)
    assert "    --set quantize_weights.candidates=64" in out
    assert run("compile --list-passes") == out


def test_set_changes_an_option_of_a_pass(run: Run, tmp_path: Path) -> None:
    spiky = DATA["x"].copy()
    spiky[0, 0, 0, 0] = 10
    np.savez(tmp_path / "d.npz", x=spiky)
    run("m.onnx --data d.npz --no-evaluation -o a.mcp")
    run("m.onnx --data d.npz --no-evaluation -o b.mcp --set calibrate_activations.candidates=1")
    first, second = (memcompile.load(tmp_path / name) for name in ("a.mcp", "b.mcp"))
    assert "calibrate_activations.candidates=1" in str(second.provenance.options["settings"])
    assert second.layers[0].quantizer.scale == pytest.approx(10 / 127)
    assert first.layers[0].quantizer.scale != second.layers[0].quantizer.scale


def test_every_listed_option_can_be_set_to_its_default(run: Run, tmp_path: Path) -> None:
    listed = re.findall(r"--set \S+", run("m.onnx --list-passes"))
    assert len(listed) > 5
    run("m.onnx --data d.npz --no-evaluation -o a.mcp")
    run(f"m.onnx --data d.npz --no-evaluation -o b.mcp {' '.join(listed)}")
    first, second = (memcompile.load(tmp_path / name) for name in ("a.mcp", "b.mcp"))
    assert np.array_equal(first.placement.tiles.output_line, second.placement.tiles.output_line)


def test_slices_chips_and_seed_reach_the_program(run: Run, tmp_path: Path) -> None:
    facts = json.loads(run("m.onnx --data d.npz --no-evaluation --slices 2 --chips 3 --seed 9 --json -"))
    assert (facts["slices"], facts["chips_requested"], facts["chips"]) == (2, 3, 3)
    program = memcompile.load(tmp_path / "m.yao2020.mcp")
    assert all(layer.slices == 2 for layer in program.layers)
    assert program.provenance.options["seed"] == 9


def test_the_same_command_gives_the_same_bytes(run: Run, tmp_path: Path) -> None:
    command = f"{COMPILE} --json a.json -o p.mcp"
    first, files = run(command), (tmp_path / "p.mcp", tmp_path / "a.json")
    before = [path.read_bytes() for path in files]
    assert run(command) == first
    assert [path.read_bytes() for path in files] == before


# --- run ---------------------------------------------------------------------------------------


@pytest.fixture
def program(run: Run) -> Program:
    """``m.yao2020.mcp``, compiled."""
    run("m.onnx --data d.npz --no-evaluation --quiet")
    return memcompile.load(Path("m.yao2020.mcp"))


@pytest.mark.parametrize("executor", ["fast", "literal"])
def test_run_writes_predictions(run: Run, program: Program, executor: str) -> None:
    out = run(f"run m.yao2020.mcp --data d.npz --ideal --executor {executor} -o y.npz")
    want = memcompile.Emulator.ideal(program).run(DATA)["y"]
    with np.load("y.npz") as found:
        assert list(found) == ["y"]
        assert np.array_equal(found["y"], want)
    score = (want.argmax(axis=1) == LABELS).mean()
    assert "y written to y.npz" in out
    assert f"accuracy {score:.2%} on d, 40 images, ideal devices" in out


def test_run_on_noisy_devices_depends_on_the_seed_alone(run: Run, program: Program) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert f"noisy devices, seed {seed}" in run(f"run m.yao2020.mcp --data d.npz --seed {seed} -o {name}.npz")
    first, again, other = (np.load(f"{name}.npz")["y"] for name in "abc")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(first, memcompile.Emulator(memcompile.calibrate(program, "d.npz", 3), 3).run(DATA)["y"])
    run("run m.yao2020.mcp --data d.npz --seed 3 --no-calibration -o plain.npz")
    assert np.array_equal(np.load("plain.npz")["y"], memcompile.Emulator(program, 3).run(DATA)["y"])


def test_run_without_labels_and_with_fewer_images(run: Run, program: Program) -> None:
    assert program.layers
    out = run("run m.yao2020.mcp --data unlabelled.npz --ideal --images 5 -o y.npz")
    assert "5 samples of unlabelled, ideal devices; no labels, so no accuracy" in out
    assert np.load("y.npz")["y"].shape == (5, 4)


# --- show, targets, help -----------------------------------------------------------------------


def test_show_prints_the_table_again(run: Run, program: Program) -> None:
    assert program.layers
    table = run("m.onnx --data d.npz --no-evaluation").split("program written")[0]
    assert run("show m.yao2020.mcp").strip() == table.strip()
    assert json.loads(run("show m.yao2020.mcp --json -")).keys() >= ISSUE_KEYS


@pytest.mark.parametrize(("layer", "output", "kernel_input"), [("Conv_c1", 2, 7), ("Conv_c2", 0, 26), ("Gemm_y", 3, 0)])
def test_show_weight_tells_where_a_weight_sits(
    run: Run, tmp_path: Path, layer: str, output: int, kernel_input: int
) -> None:
    """Every row it prints is checked against the tile table and the cell levels, on chips of two arrays."""
    reference = (resources.files("memcompile.hardware") / "targets" / "yao2020.toml").read_text(encoding="utf-8")
    (tmp_path / "small.toml").write_text(reference.replace("arrays = 8\n", "arrays = 2\n"))
    run("m.onnx --data d.npz --no-evaluation --quiet --target small.toml --chips 5")
    program = memcompile.load(Path("m.small.mcp"))
    out = run(f"show m.small.mcp --weight {layer} {output} {kernel_input}")
    assert f"weight of {layer}: output channel {output}, kernel input {kernel_input}" in out
    assert "bit line" in out
    assert "source line" in out
    number = [item.name for item in program.layers].index(layer)
    cells = program.layers[number].cells[:, 0, 0, kernel_input, output]
    rows = [re.findall(r"[+-]|\d+(?:\.\d+)?", line) for line in out.splitlines() if line.endswith("│") and "uS" in line]
    tiles = program.placement.tiles
    assert rows
    assert len(rows) % 2 == 0
    for copy, chip, array, line, output_line, place, polarity, level, conductance in rows:
        here = (
            (tiles.layer == number)
            & (tiles.replica == int(copy))
            & (tiles.array == 2 * int(chip) + int(array))
            & (tiles.input_line <= int(line))
            & (int(line) < tiles.input_line + tiles.heights)
            & (tiles.output_line <= int(output_line))
            & (int(output_line) < tiles.output_line + program.cell_map.widths)
        )
        assert here.sum() == 1
        assert place == "0"
        assert (int(output_line) - int(tiles.output_line[here][0])) % 2 == "+-".index(polarity)
        assert int(level) == cells["+-".index(polarity)]
        assert float(conductance) == pytest.approx(2 + int(level) * 18 / 7, abs=1e-3)


def test_targets_lists_all(run: Run) -> None:
    out = run("targets")
    assert all(name in out for name in builtin_targets())
    assert "16 x 128" in out


@pytest.mark.parametrize("arguments", ["--help", "-h", ""])
def test_help_documents_the_exit_codes(run: Run, arguments: str) -> None:
    out = run(arguments)
    for code, text in EXIT_CODES.items():
        assert re.search(rf"^ +{code}  {re.escape(text[:40])}", out, re.MULTILINE)
    for command in ("compile", "run", "show", "targets"):
        assert f"  {command}" in out


def test_version(run: Run) -> None:
    assert re.fullmatch(r"memcompile, version \S+\n", run("--version"))


def test_pass_names_are_words_of_the_class_name() -> None:
    class SplitEvery8Bit(Pass):
        pass

    assert SplitEvery8Bit.pass_name() == "split_every8_bit"


# --- as a process ------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    return {**os.environ, "MEMCOMPILE_NUMBA": "0"}


def test_as_a_module_in_its_own_process(run: Run, tmp_path: Path) -> None:
    assert run("targets")
    command = [sys.executable, "-m", "memcompile", "m.onnx", "--data", "d.npz", "--seeds", "1", "--json", "-"]
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert only_progress(result.stderr)
    assert json.loads(result.stdout).keys() >= ISSUE_KEYS
    command[3] = "missing.onnx"
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr == "memcompile: error: missing.onnx does not exist; give the path of an .onnx file\n"


def listen_to_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_without_a_trace(run: Run, tmp_path: Path, number: int, code: int) -> None:
    assert run("targets")
    command = [sys.executable, "-m", "memcompile", "m.onnx", "--data", "d.npz", "--seeds", "1000000"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A parent in the background ignores SIGINT, and children inherit that.
        preexec_fn=listen_to_signals,  # noqa: PLW1509 - no threads yet, and only signals are touched
    ) as process:
        for _ in range(600):
            if (tmp_path / "m.yao2020.mcp").exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        time.sleep(0.2)
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == code
    assert only_progress(err)
    assert "accuracy" not in out, "the mapping is known by then, and nothing else"
    assert names(tmp_path) == {"m.yao2020.mcp"}
    assert memcompile.load(tmp_path / "m.yao2020.mcp").layers


def test_an_evaluation_that_fails_says_that_the_program_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    nodes = [models.node("Reciprocal", "x", "r"), models.node("Sub", "r r", "z"), models.node("Add", "x z", "s")]
    nodes.append(models.node("MatMul", "s a", "y"))
    model = models.float_model(nodes, ("N", 4), {"a": np.ones((4, 3), np.float32)})
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    x = np.random.default_rng(0).uniform(1, 2, (600, 4)).astype(np.float32)
    x[300:] = 0  # behind the samples to calibrate with
    np.savez(tmp_path / "d.npz", x=x)
    arguments = "m.onnx --data d.npz -o o.mcp --quiet --max-loss none"
    assert main(arguments.split()) == 4
    error = capsys.readouterr().err
    assert "gets a value that is not a number in 's'" in error
    assert error.endswith("; the program was written to o.mcp before that\n")
    assert load_program(tmp_path / "o.mcp").layers
    assert not (tmp_path / "o.html").exists()
