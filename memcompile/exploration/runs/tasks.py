"""Tasks of an exploration: pure functions of a study, a design and seeds, which run in any process on any machine.

What a worker prepares is kept for its next task: the imported network, and programs that it compiled, as files.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np

from memcompile.accuracy.loss_model import can_predict, loss_model
from memcompile.accuracy.noise_injection import layer_inputs
from memcompile.accuracy.scoring import class_names, score_samples
from memcompile.blas import one_blas_thread
from memcompile.data.source import Source
from memcompile.errors import MemcompileError
from memcompile.exploration.knobs import Design, checked_target
from memcompile.exploration.runs.study import Study
from memcompile.frontend.importer import read_serialized
from memcompile.noise.layer_inputs import LayerInputs
from memcompile.noise.program_noise import layer_ratios
from memcompile.pipelines import Compilation, compile_source
from memcompile.program.file import decode_program, encode_program
from memcompile.program.program import Program
from memcompile.report.emulated_chips import EmulatedChips, measured_accuracy
from memcompile.report.evaluation import run_float
from memcompile.report.facts import program_facts
from memcompile.runtime.cells.cache import BoundedCache
from memcompile.runtime.emulator import Emulator

Kind = Literal["map", "curve", "chips"]
Record = dict[str, Any]
KEPT_BYTES = 300_000_000
"""Memory for the programs that a worker keeps, as files, to emulate further chips of."""
KEPT_STUDIES = 2
OF_EVALUATION = frozenset(
    ("data", "accuracy", "error_budget", "pareto", "output_sqnr_db", "emulated_quality", "outputs_not_compared")
)
"""Keys of the report that a mapping alone does not have."""
CURVE_NOISE = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Sums of the noise of layers at which the loss of a network is measured."""
T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """A piece of work on one point: map it, measure how the network loses accuracy, or emulate chips of it."""

    kind: Kind
    key: str
    design: Design
    seeds: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    @property
    def name(self) -> str:
        """Name that is the same for the same work."""
        return "-".join(map(str, (self.kind, self.key, *self.seeds[:1], *self.seeds[-1:])))


@dataclass(frozen=True)
class Outcome:
    """Result of a task: records for the journal, or a message. A ``passing`` failure may succeed another time."""

    task: Task
    records: tuple[Record, ...] = ()
    error: str = ""
    passing: bool = False
    seconds: float = 0.0


def work(study: Study, task: Task) -> Outcome:
    """Do a task; every failure of it is a message."""
    return guarded(task, lambda: _WORK[task.kind](study, task))


def guarded(task: Task, do: Callable[[], list[Record]]) -> Outcome:
    """The outcome of a task; every failure of it is a message."""
    begin = time.process_time()
    try:
        # Workers share the processors, and threads of BLAS would wait for each other.
        # Designs that are far too noisy overflow, which their accuracy shows.
        with one_blas_thread(), np.errstate(all="ignore"):
            records = do()
    except MemcompileError as error:
        return Outcome(task, error=" ".join(str(error).split()), seconds=time.process_time() - begin)
    except MemoryError:
        return Outcome(task, error="there is not enough memory for it", passing=True)
    except Exception as error:  # a fault of ours costs one point, not the exploration
        return Outcome(task, error=f"internal fault, {type(error).__name__}: {error}")
    return Outcome(task, tuple(records), seconds=time.process_time() - begin)


class Kept:
    """The last few results by key; two threads may compute the same one, which is the same."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._held: OrderedDict[str, Any] = OrderedDict()

    def get(self, key: str, make: Callable[[], T]) -> T:
        """The result of a key, made where it is not kept."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                kept: T = self._held[key]
                return kept
        made = make()
        with self._lock:
            self._held[key] = made
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        return made


class _Prepared:
    """A study as a worker has it."""

    def __init__(self, study: Study) -> None:
        file = read_serialized(study.model, study.name, study.sha256, study.frozen)
        self.source = Source(file, study.dataset, study.found)

    @cached_property
    def reference(self) -> Mapping[str, Any]:
        """Outputs of the float network."""
        dataset = self.source.dataset
        return run_float(self.source.model, dataset.inputs, batching=dataset.batching)


_STUDIES, _PROGRAMS = Kept(KEPT_STUDIES), BoundedCache(KEPT_BYTES)


def _prepared(study: Study) -> _Prepared:
    return _STUDIES.get(study.digest, lambda: _Prepared(study))


def _compiled(study: Study, task: Task) -> Compilation:
    design = task.design
    checked_target(design, study.targets.__getitem__)
    return compile_source(
        _prepared(study).source,
        study.targets[design.target],
        chips=design.chips,
        slices=design.slices,
        slice_base=design.slice_base,
        seed=study.seed,
        settings=design.setting_words,
        max_loss=design.max_loss,
    )


def _program(study: Study, task: Task) -> Program:
    """The program of a point, compiled where this worker has not mapped it."""
    data = _PROGRAMS.get(task.key, lambda: encode_program(_compiled(study, task).program), len)
    return decode_program(data, study.name)


def _map(study: Study, task: Task) -> list[Record]:
    """Facts of a mapping, its accuracy on ideal devices, and the noise of its layers in closed form."""
    compiled = _compiled(study, task)
    program, dataset = compiled.program, study.dataset
    _PROGRAMS.get(task.key, lambda: encode_program(program), len)
    facts = program_facts(program, None, compiled.budget)
    record: Record = {
        "kind": "map",
        "key": task.key,
        "facts": _plain_facts({name: value for name, value in facts.items() if name not in OF_EVALUATION}),
        "layers": [layer.name for layer in program.layers],
        "continuous": program.target.cell.continuous or not program.layers,
        "float": None,
        "ideal": None,
        "noise": None,
        "images": dataset.count,
    }
    if dataset.labels is None:
        return [record]
    names = class_names(program)
    record["float"] = score_samples(_prepared(study).reference, dataset, names)
    record["ideal"] = score_samples(Emulator.ideal(program).run(dataset.as_given), dataset, names)
    if can_predict(program, dataset):
        record["noise"] = _noise(program, layer_inputs(program, dataset.calibration), study.calibrate)
    return [record]


def _noise(program: Program, inputs: Sequence[LayerInputs], calibrated: bool) -> list[float]:
    """Noise-to-signal ratio of each layer."""
    totals = [layer_ratios(program, number, own).total for number, own in enumerate(inputs)]
    return [total.calibrated if calibrated else total.plain for total in totals]


def _curve(study: Study, task: Task) -> list[Record]:
    """Sensitivity of the network to its layers, and the curve from noise to lost answers, on the scored samples."""
    program = _program(study, task)
    model, _ = loss_model(program, study.dataset, factors=task.factors, calibrated=study.calibrate)
    curve = model.curve
    return [
        {
            "kind": "curve",
            "key": task.key,
            "layers": [layer.name for layer in program.layers],
            "sensitivities": model.sensitivities.tolist(),
            "share": model.share,
            "rounding": model.rounding,
            "curve": [curve.most, curve.scale, curve.power],
        }
    ]


def _chips(study: Study, task: Task) -> list[Record]:
    """Accuracy of emulated chips as they are used."""
    program = _program(study, task)
    chips = EmulatedChips(program, study.dataset, calibrate=study.calibrate)
    records = []
    for seed in task.seeds:
        chip = chips.chip(seed)
        share = measured_accuracy(chip.emulator, study.dataset)
        records.append(
            {
                "kind": "chip",
                "key": task.key,
                "seed": seed,
                "emulated": share,
                "calibrated": chip.calibrated,
                "calibration_images": chips.images,
                "obstacle": chips.obstacle,
            }
        )
    return records


_WORK: Mapping[str, Callable[[Study, Task], list[Record]]] = {"map": _map, "curve": _curve, "chips": _chips}


def _plain_facts(facts: Mapping[str, Any]) -> Record:
    """Facts without lists of objects, whose length depends on the network."""
    plain: Record = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            plain[name] = _plain_facts(value)
        elif not isinstance(value, list | tuple) or all(isinstance(item, str | int | float) for item in value):
            plain[name] = value.tolist() if isinstance(value, np.ndarray) else value
    return plain
