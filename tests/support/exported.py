"""Compares an exported model of a chip with the emulator that it stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from memcompile.export.chip_model import chip_model
from memcompile.frontend.sessions import open_session, tensor_dtype
from memcompile.frontend.values import contents
from memcompile.program.program import Program
from memcompile.runtime.emulator import Effects, Emulator

CONTINUOUS_ERROR = 1e-6
"""Sums of continuous weights are those of float64, in another order; outputs are then rounded to float32."""


def run(model: bytes, feeds: Mapping[str, NDArray[Any]], *, optimise: bool = True) -> dict[str, Any]:
    """Outputs of a model in onnxruntime, by name."""
    session = open_session(model, optimise=optimise)
    names = [value.name for value in session.get_outputs()]
    read = {value.name for value in session.get_inputs()}
    return dict(zip(names, session.run(names, {name: feeds[name] for name in read}), strict=True))


def takes_one_sample(program: Program, model: onnx.ModelProto) -> bool:
    """Return True if a model fixes a size that the program leaves open."""
    for value in model.graph.input:
        sizes = [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
        if value.name in program.inputs and sizes != list(program.inputs[value.name].shape):
            return True
    return False


def assert_agrees(
    program: Program, feeds: Mapping[str, NDArray[Any]], seed: int = 0, *, ideal: bool = False, **since: float
) -> onnx.ModelProto:
    """The model of a chip is valid and gives the emulator's bits; returns it.

    On continuous cells, outputs agree to ``CONTINUOUS_ERROR`` of the largest. A model that takes one sample a run gets
    them one by one.
    """
    data = chip_model(program, seed, ideal=ideal, **since)
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    batching = program.batching
    if takes_one_sample(program, model) and batching.count(feeds) > 1:
        for sample in range(batching.count(feeds)):
            assert_agrees(program, batching.feeds(feeds, slice(sample, sample + 1)), seed, ideal=ideal, **since)
        return model
    effects = Effects.none() if ideal else replace(Effects(), read_noise=False)
    want = Emulator(program, seed, effects=effects, **since).run(feeds)
    got = run(data, feeds)
    assert list(got) == list(want)
    declared = {value.name: value.type for value in open_session(data).get_outputs()}
    for name, value in want.items():
        if not isinstance(value, np.ndarray):
            found, wanted = contents(got[name]), contents(value)
            assert found.structure == wanted.structure, name
            assert np.array_equal(found.numbers, wanted.numbers), name
            continue
        kind = tensor_dtype(re.sub(r"^optional\((.*)\)$", r"\1", declared[name]))
        assert kind == value.dtype.name, name
        assert (got[name].dtype, got[name].shape) == (value.dtype, value.shape), name
        if program.target.cell.continuous and value.dtype.kind == "f":
            limit = CONTINUOUS_ERROR * np.abs(value).max(initial=0)
            assert np.abs(got[name] - value).max(initial=0) <= limit, name
        else:
            assert np.array_equal(got[name], value), name
    return model
