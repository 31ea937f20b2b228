"""memcompile. All effects of its reference chip are on in networks, stuck cells included."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emulator import chip, matrix_program

from memcompile.pipelines import compile_model
from memcompile.runtime.effects.switches import Effects
from memcompile.runtime.effects.wires import effective_conductances_us
from memcompile.runtime.emulator import Emulator

from . import cases
from .torch_networks import write_onnx


def prepare(case: cases.Case) -> Callable[[], object] | str:
    """One call of all work of a case."""
    if isinstance(case, cases.WiresCase):
        return _wires()
    return _matrix(case) if isinstance(case, cases.MatrixCase) else _network(case)


def _matrix(case: cases.MatrixCase) -> Callable[[], object]:
    weights, x = cases.matrix_inputs()
    target = chip(case.bits_per_phase, input_lines=case.tile_rows, output_lines=2 * cases.SIZE)
    emulator = Emulator(matrix_program(weights, target, case.tile_rows), effects=Effects(adc=case.adc))
    vectors = x[:, None]
    return lambda: emulator.run(vectors)


def _network(case: cases.NetworkCase) -> Callable[[], object]:
    """Replicas and parallel windows would be further cells; other emulators have one of each layer."""
    arrays: dict[str, Any] = {"input_lines": 1024, "output_lines": 512, "pairs": "crossings"}
    if case.tile_rows is not None and case.tile_columns is not None:
        arrays = {"input_lines": case.tile_rows, "output_lines": 2 * case.tile_columns}
    target = chip(8, **arrays)
    x = cases.images(case)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "network.onnx"
        write_onnx(case.network, case.size, model)
        settings = ("replicate.objective=arrays", "replicate.parallel_windows=false")
        compiled = compile_model(model, target, data=None, settings=settings, max_loss=None)
    effects = Effects() if case.programming else Effects(programming_error=False, stuck_cells=False)
    if case.chip:
        seeds = iter(range(1 << 30))
        return lambda: Emulator(compiled.program, next(seeds), effects=effects).run(x)
    emulator = Emulator(compiled.program, effects=effects)
    return lambda: emulator.run(x)


def _wires() -> Callable[[], object]:
    cells_us, voltages = cases.wires_inputs()
    return lambda: voltages @ effective_conductances_us(cells_us, cases.SEGMENT_OHM, cases.SEGMENT_OHM)
