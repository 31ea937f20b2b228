"""Digests of programs and of what they compute, so that a change of structure shows where it changes a number.

`pytest --update-golden tests/test_digests.py` records them anew after an intended change; read the difference of
`golden/digests.json`: it names the cases and the kinds of results that changed.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from numpy.typing import NDArray
from places import GOLDEN

from memcompile.errors import UsageError
from memcompile.export.chip_model import chip_model
from memcompile.hardware.target import Target, load_target
from memcompile.pipelines import compile_model
from memcompile.program.file import encode_program
from memcompile.program.program import Program
from memcompile.runtime.emulator import Effects, Emulator
from memcompile.runtime.training.hybrid_training import TuningOptions
from memcompile.tuning import TuningPlan, tune

RECORDED = GOLDEN / "digests.json"
HOUR_S = 3600.0
IMAGES = 12

TARGETS = ("hermes", "ideal", "isaac", "neurram", "pimcomp", "vwsdk", "yao2020")
OPTIONS: dict[str, dict[str, Any]] = {
    "two slices": {"slices": 2},
    "two slices of base 5": {"slices": 2, "slice_base": 5},
    "fewest arrays": {"settings": ("replicate.objective=arrays",)},
    "least latency": {"settings": ("replicate.objective=latency",)},
    "another seed": {"seed": 7},
}
EFFECTS: dict[str, dict[str, dict[str, Any]]] = {
    "relaxation and drift": {
        "relaxation": {"sigma_us": 0.3, "time_constant_s": 60.0},
        "drift": {"exponent_mean": 0.02, "exponent_sigma": 0.005, "reference_s": 1.0},
    },
    "wires": {"wires": {"input_segment_ohm": 2.0, "output_segment_ohm": 2.0}},
    "dead lines": {
        "faults": {"stuck_low_share": 0.01, "dead_input_line_share": 0.02, "dead_output_line_share": 0.02},
    },
    "imperfect converters": {
        "adc": {"gain_sigma_share": 0.01, "offset_sigma_codes": 0.5, "range_share": 0.6},
        "input": {"dac_sigma_share": 0.01},
    },
    "noise of a step": {"read_noise": {"lasts": "step", "proportional_share": 0.02}},
}
CASES = [
    *((model, target, "") for model, target in itertools.product(models.SMALL, TARGETS)),
    *(("conv_bn", "yao2020", option) for option in (*OPTIONS, *EFFECTS)),
    ("skip_connection", "hermes", "two slices"),
    ("skip_connection", "neurram", "two slices"),
]


def digest(*parts: bytes) -> str:
    """A short digest of some bytes."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()[:12]


def of_program(program: Program) -> str:
    """All that a program file holds but its version, the compiler's, and the target's fields."""
    with zipfile.ZipFile(io.BytesIO(encode_program(program))) as archive:
        document = json.loads(archive.read("program.json"))
        members = {name: archive.read(name) for name in archive.namelist() if name != "program.json"}
    del document["version"], document["provenance"], document["target"]
    text = json.dumps(document, sort_keys=True).encode()
    return digest(text, *itertools.chain(*((name.encode(), members[name]) for name in sorted(members))))


def of_outputs(outputs: Mapping[str, NDArray[Any]]) -> str:
    """Names, types, shapes and bits of outputs."""
    return digest(
        *itertools.chain(
            *((f"{name} {array.dtype} {array.shape}".encode(), array.tobytes()) for name, array in outputs.items())
        )
    )


def of_chip(program: Program, seed: int) -> str:
    """The exported model of a chip."""
    try:
        return digest(chip_model(program, seed))
    except UsageError:
        return "none"


def walked(program: Program, x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Outputs of the literal executor, without read noise."""
    return Emulator(program, 1, effects=replace(Effects(), read_noise=False), executor="literal").run(x)


def results(program: Program, x: NDArray[np.float32]) -> dict[str, str]:
    """Digests of a program and of its outputs: on ideal devices, on a chip when it is new and later, and tuned."""
    found = {
        "program": of_program(program),
        "ideal": of_outputs(Emulator.ideal(program).run(x)),
        "noisy": of_outputs(Emulator(program, 1).run(x)),
        "aged": of_outputs(Emulator(program, 1, time_s=HOUR_S).run(x)),
        "literal": of_outputs(walked(program, x[:2])),
        "export": of_chip(program, 1),
    }
    if not program.target.cell.continuous:
        plan = TuningPlan(recalibration_images=IMAGES, seed=1, options=TuningOptions(epochs=0))
        tuned = tune(program, {"x": x}, None, plan).program
        found["tuned"] = of_outputs(Emulator(tuned, 1).run(x))
    return found


def target_of(name: str, option: str) -> Target:
    """A built-in target, or one with an effect that no built-in target has."""
    values = load_target(name).model_dump()
    for section, changes in EFFECTS.get(option, {}).items():
        values[section] = {**(values.get(section) or {}), **changes}
    return Target.model_validate(values)


@pytest.mark.parametrize(("model", "target", "option"), CASES, ids=[" ".join(case).strip() for case in CASES])
def test_results_are_the_recorded_ones(
    model: str,
    target: str,
    option: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build, shape = models.SMALL[model]
    path, data = tmp_path / "model.onnx", tmp_path / "images.npz"
    path.write_bytes(build().SerializeToString())
    x = models.images((IMAGES, *shape), seed=3)
    np.savez(data, x=x)
    program = compile_model(path, target_of(target, option), data=data, **OPTIONS.get(option, {})).program
    name, found = " ".join((model, target, option)).strip(), results(program, x)
    recorded = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    if request.config.getoption("--update-golden"):
        text = json.dumps({**recorded, name: found}, indent=1, sort_keys=True)
        RECORDED.write_text(text + "\n", encoding="utf-8")
        return
    assert found == recorded.get(name), name
