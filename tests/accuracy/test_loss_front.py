"""Mappings by cost and predicted loss: no row is beaten by another, and each row's command compiles it."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import float_model, node

from memcompile.accuracy import loss_front
from memcompile.accuracy.loss_front import LEAST_GAIN, FrontMapping, front
from memcompile.cli.main import main
from memcompile.errors import UsageError
from memcompile.ir.slicing import SliceChoice
from memcompile.pipelines import compile_model

OBJECTIVES = ("throughput", "accuracy", "latency", "arrays")
number = st.integers(1, 4)
MAPPINGS = st.builds(
    FrontMapping,
    st.just({"a": 1}),
    st.just(()),
    chips=number,
    arrays=number,
    cells=number,
    steps=number,
    latency_steps=number,
    write_again_share=st.sampled_from([0.0, 1.0]),
    loss=st.floats(0.0, 5.0),
    uncertainty=st.just(0.1),
)


@given(st.lists(MAPPINGS, min_size=1, max_size=12), st.sampled_from(OBJECTIVES))
def test_no_mapping_of_the_front_is_beaten(found: list[FrontMapping], objective: str) -> None:
    kept = front(found, objective)
    assert kept[0] is found[0]
    costs, losses = [item.cost(objective) for item in kept], [item.loss for item in kept]
    assert all(after <= before - LEAST_GAIN for before, after in itertools.pairwise(losses))
    assert all(before < after for before, after in itertools.pairwise(costs[1:]))
    assert costs[:1] <= costs[1:2] or len(costs) == 1
    for item in found[1:]:
        # What is left out costs less than the mapping without a budget, or one of the front is about as good in both.
        cheaper = (*item.cost(objective), item.cells) <= (*found[0].cost(objective), found[0].cells)
        beaten = any(one.cost(objective) <= item.cost(objective) and one.loss < item.loss + LEAST_GAIN for one in kept)
        assert item in kept or cheaper or beaten


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network of two convolutions and its data, in which commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loss_front, "MOST_MAPPINGS", 7)
    rng = np.random.default_rng(4)
    weights = {
        "a": rng.normal(size=(4, 1, 3, 3)).astype(np.float32),
        "b": rng.normal(size=(6, 4, 3, 3)).astype(np.float32) / 4,
        "c": rng.normal(size=(96, 5)).astype(np.float32) / 8,
    }
    nodes = [
        node("Conv", "x a", "h"),
        node("Relu", "h", "r"),
        node("Conv", "r b", "k"),
        node("Relu", "k", "s"),
        node("Flatten", "s", "f"),
        node("Gemm", "f c", "y"),
    ]
    for place, name in ((0, "first"), (2, "my = layer"), (5, "last")):
        nodes[place].name = name
    Path("m.onnx").write_bytes(float_model(nodes, ("N", 1, 8, 8), weights).SerializeToString())
    images = rng.normal(size=(200, 1, 8, 8)).astype(np.float32)
    np.savez("d.npz", x=images)
    np.savez("few.npz", x=images[:99])
    return tmp_path


@pytest.mark.parametrize(("objective", "given"), [("throughput", "--slices first=2"), ("arrays", "")])
def test_commands_of_the_front_compile_its_mappings(
    folder: Path, capsys: pytest.CaptureFixture[str], objective: str, given: str
) -> None:
    options = f"m.onnx --data d.npz --effort fast --optimise {objective} {given} --no-evaluation"
    assert main([*options.split(), "--pareto", "--json", "front.json"]) == 0
    out = capsys.readouterr().out
    facts = json.loads(Path("front.json").read_text())
    rows = facts["pareto"]["mappings"]
    commands = re.findall(r"^\d+: (memcompile .*)$", out, re.MULTILINE)
    assert facts["pareto"]["objective"] == objective
    assert len(commands) == len(rows) >= 2
    assert "losses are predicted for calibrated chips, not measured" in out
    losses = [row["predicted_loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert all(row["uncertainty"] >= 0 for row in rows)
    keys = ("chips", "initiation_interval_steps", "latency_steps", "arrays_used", "cells_used")
    assert main([*options.split(), "--max-loss", "none", "--json", "plain.json", "--quiet"]) == 0
    plain = json.loads(Path("plain.json").read_text())
    for place, (row, command) in enumerate(zip(rows, commands, strict=True)):
        words = shlex.split(command)[1:]
        assert "--pareto" not in words
        assert words[-2:] == ["--max-loss", "none"]
        words[words.index("front.json")] = "row.json"
        assert main([*words, "--quiet"]) == 0
        compiled = json.loads(Path("row.json").read_text())
        wanted = [row[key.removesuffix("_used")] for key in keys]
        assert [compiled[key] for key in keys] == wanted
        chosen = {
            layer["name"]: SliceChoice(layer["slices"], layer["slice_fill"]).value for layer in compiled["layers"]
        }
        assert chosen == row["slices"]
        if place == 0:
            assert [plain[key] for key in keys] == wanted


def test_slices_and_windows_given_hold_for_all_mappings(folder: Path) -> None:
    compilation = compile_model(
        "m.onnx",
        data="d.npz",
        slices={"": 1, "last": 2},
        no_windows=["my = layer"],
        chips=1,
        pareto=True,
        settings=("replicate.effort=fast",),
    )
    found = compilation.front
    assert found is not None
    assert all(item.slices["last"].count >= 2 for item in found.mappings)
    assert all(item.chips == 1 for item in found.mappings)
    assert not any("my = layer" in item.one_position for item in found.mappings), "it has none to give up"
    by_name = {layer.name: layer for layer in compilation.program.layers}
    assert {replica.unrolling.window for replica in by_name["my = layer"].replicas} == {(1, 1)}
    assert compilation.program.provenance.options["windows of my = layer"] is False
    assert any(replica.unrolling.window_outputs > 1 for replica in by_name["first"].replicas)
    plain = compile_model(
        "m.onnx", data="d.npz", pareto=True, settings=("replicate.effort=fast", "replicate.objective=accuracy")
    ).front
    assert plain is not None
    assert not any(item.one_position for item in plain.mappings), "no layer has any"


def test_networks_without_a_front_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(command: str, message: str) -> None:
        assert main([*command.split(), "--effort", "fast", "--quiet"]) == UsageError.exit_code
        assert message in " ".join(capsys.readouterr().err.split())

    refused("m.onnx --data few.npz --pareto", "at least 100 samples, and the data hold 99")
    refused("m.onnx --pareto", "needs data")
    refused("m.onnx --data d.npz --pareto --reprogram --chips 1", "leave out --pareto or --reprogram")
    refused("m.onnx --data d.npz --no-windows middle", "windows are left out for layer 'middle', but no crossbar layer")
    assert not list(folder.glob("*.mcp"))
